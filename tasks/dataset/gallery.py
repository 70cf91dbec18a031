"""A page of pairs to look at: images, masks, prompts and scores of a dataset version in one self-contained file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from markupsafe import Markup, escape
from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.errors import ImageFileError, MaskError
from iedit_model.imaging.decode import STORED_FORMATS, decode_image
from iedit_model.imaging.encode import SMALL_PX, image_url
from iedit_model.imaging.mask_files import decode_levels
from iedit_model.imaging.pages import render_page
from iedit_model.imaging.sheet import SheetCell, contact_sheet, mask_overlay, overlaid, shrunk_levels
from storage import SAMPLE_PARTS, Column, CorruptFileError, VersionInfo, VersionStore
from storage.atomic import create_bytes
from tasks.pack.packed_sample import read_sample

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class PageColumn:
    """One column that can be sorted and filtered by."""

    name: str
    title: str
    """What it means."""
    choices: tuple[str, ...] | None = None
    """Its values if it is a word, None for a number."""


@dataclass(frozen=True, kw_only=True)
class PageCard:
    """One pair as it is shown."""

    row: Mapping[str, Any]
    """Its row of the manifest."""
    images: Mapping[str, str]
    """``s``, ``t`` (source, target), ``sm``, ``tm`` (their masks) -> data URL; a broken part is missing."""
    is_small: bool
    """Whether its images have so few pixels that each should be seen."""


def html_page(
    title: str, summary: str, cards: Iterable[PageCard], columns: Sequence[PageColumn], *, footer: str
) -> str:
    """Return the page.

    Args:
        title: heading, as text.
        summary: sentence below it, as text.
        cards: the pairs, in the order in which they are first shown.
        columns: what can be sorted and filtered by, and is listed on each card if it is a number.
        footer: last line, as text.
    """
    shown = [
        {
            "row": card.row,
            "images": {name: Markup(url) for name, url in card.images.items()},  # noqa: S704 - base64
            "is_small": card.is_small,
            "numbers": [_value(card.row[column.name]) for column in columns],
        }
        for card in cards
    ]
    return render_page(
        "tasks.dataset",
        "gallery.html.j2",
        script="gallery.js",
        title=title,
        summary=summary,
        cards=shown,
        columns=columns,
        footer=footer,
        marked=marked,
    )


def marked(text: str, word: str, other: str, tag: str) -> Markup:
    """Return ``text`` as HTML with the exchanged word marked.

    Args:
        text: the caption or the edit prompt.
        word: the word of it that was exchanged.
        other: the other of the two texts: the word stands where they begin to differ.
        tag: ``del`` or ``ins``.
    """
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = text.find(word, max(0, same - len(word))) if word else -1
    if start < 0:
        return escape(text)
    end = start + len(word)
    return Markup("{0}<{3}>{1}</{3}>{2}").format(text[:start], text[start:end], text[end:], tag)


def _value(value: Any) -> Any:
    """Return a value for JSON: numbers that are none become None."""
    return None if isinstance(value, float) and value - value != 0 else value


_COLUMNS: Final = 2
_COLUMNS_READ: Final = ("sample_id", "caption", "edit_prompt", "tar", "tar_offset", "tar_size")


def pair_sheet(versions: VersionStore, version: VersionInfo, *, limit: int = 12) -> "Image":
    """Return a sheet of the first pairs by sample id, which is as good as a random sample.

    Args:
        versions: where the version lies.
        version: the version.
        limit: most pairs, 1 or more. A pair whose bytes are damaged leaves a gap.
    """
    hashes = tuple(f"{part}_member_sha256" for part in SAMPLE_PARTS)
    rows = versions.manifest(version, columns=(*_COLUMNS_READ, *hashes)).slice(0, limit).to_pylist()
    cells = [
        SheetCell(images=_images(versions, row), lines=(row["caption"], "> " + row["edit_prompt"])) for row in rows
    ]
    return contact_sheet(cells, columns=_COLUMNS)


def _images(versions: VersionStore, row: dict[str, Any]) -> "list[Image]":
    shown: list[Image] = []
    try:
        parts = read_sample(versions.files, row)
        for part in ("source", "target"):
            image = decode_image(parts[part], formats=tuple(STORED_FORMATS), trusted=True)
            shown += [image, overlaid(image, decode_levels(parts[f"{part}_mask"], trusted=True))]
    except (CorruptFileError, ImageFileError, MaskError):
        return shown
    return shown


_WORDS: Final = ("split", "relation", "pos", "caption_source")
_TEXTS: Final = (
    *("sample_id", "caption", "edit_prompt", "swapped_from", "swapped_to", "source_diff", "target_diff"),
    *("url", "target_url", "target_caption"),
)
_POSITIONS: Final = ("tar", "tar_offset", "tar_size", *(f"{part}_member_sha256" for part in SAMPLE_PARTS))


@configuration
class GalleryConfig:
    """What is shown."""

    limit: Annotated[int, Field(ge=1, le=5000)] = 200
    """Most pairs on the page; the first by sample id, which is as good as a random sample."""
    where: str | None = None
    """Only pairs that pass this filter over the manifest (``storage.filters``)."""
    thumb_px: Annotated[int, Field(ge=16, le=2048)] = 320
    """Longer side of an image on the page; smaller images stay as they are."""


def write_gallery(versions: VersionStore, version: str, path: Path, config: GalleryConfig | None = None) -> Path:
    """Write the page of a version to a local file and return its path.

    Raises:
        UnknownVersionError: there is no such version.
        FilterError: the filter cannot be understood.
        OutputExistsError: another file is there; the same page again is no error.
        DiskFullError: no room.
    """
    create_bytes(path, gallery_html(versions, version, config).encode())
    return path


def gallery_html(versions: VersionStore, version: str, config: GalleryConfig | None = None) -> str:
    """Return the page: HTML that asks for nothing from anywhere, about 60 KB per pair of 512-pixel images.

    Raises:
        UnknownVersionError: there is no such version.
        FilterError: the filter cannot be understood.
    """
    config = config or GalleryConfig()
    info = versions.load(version)
    manifest = versions.manifest(info, columns=(*_TEXTS, *_numbers(), *_WORDS, *_POSITIONS), where=config.where)
    shown = manifest.slice(0, config.limit)
    return html_page(
        f"Editing pairs {info.id}",
        _summary(info, manifest.num_rows, shown.num_rows, config.where),
        _cards(versions, shown, config.thumb_px),
        _columns(shown),
        footer="A target is another image that fits the edit prompt. Masks are bright where the image is to be "
        "edited. Press the images to enlarge them.",
    )


def _summary(info: VersionInfo, num_found: int, num_shown: int, where: str | None) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    text = f"{info.num_samples:,} pairs ({splits})."
    if where is not None:
        text += f" {num_found:,} of them pass the filter {where}."
    return f"{text} On this page: {num_shown:,}."


def _columns(rows: "pa.Table") -> list[PageColumn]:
    """Return the columns that can be sorted and filtered by; numbers that were never measured are left out."""
    known = {column.name: column for column in _declared()}
    columns = []
    for name in (*_numbers(), *_WORDS):
        title = f"{known[name].description[:-1]}{f' ({known[name].unit})' if known[name].unit else ''}"
        if name in _WORDS:
            columns.append(PageColumn(name=name, title=title, choices=tuple(sorted(set(rows[name].to_pylist())))))
        elif rows[name].null_count < rows.num_rows:
            columns.append(PageColumn(name=name, title=title))
    return columns


def _cards(versions: VersionStore, rows: "pa.Table", thumb_px: int) -> Iterator[PageCard]:
    for batch in rows.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            try:
                parts = read_sample(versions.files, row)
            except CorruptFileError:  # shown as damaged: the page is there to find such things
                parts = {}
            yield _card(row, parts, thumb_px)


def _card(row: dict[str, Any], parts: dict[str, bytes], thumb_px: int) -> PageCard:
    images, is_small = {}, True
    for name, part in (("s", "source"), ("t", "target")):
        with suppress(KeyError, ImageFileError):
            image = decode_image(parts[part], formats=tuple(STORED_FORMATS), trusted=True)
            is_small = is_small and max(image.size) <= SMALL_PX
            images[name] = image_url(image, thumb_px=thumb_px)
        with suppress(KeyError, ImageFileError, MaskError):
            levels = decode_levels(parts[f"{part}_mask"], trusted=True)
            images[f"{name}m"] = image_url(mask_overlay(shrunk_levels(levels, thumb_px)))
    return PageCard(row=row, images=images, is_small=is_small)


def _declared() -> tuple[Column, ...]:
    """Return the manifest's columns; whoever only asks for a version need not load the stages."""
    from tasks.stages import MANIFEST

    return MANIFEST.columns


def _numbers() -> tuple[str, ...]:
    """Return the columns of numbers: what the stages measured comes before what the metadata claims."""
    scores = [column for column in _declared() if column.type == "float32"]
    claimed = [column.name for column in scores if column.stage == "plan"]
    return (*(column.name for column in scores if column.stage != "plan"), "rank", "level", *claimed)
