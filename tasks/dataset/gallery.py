"""A page of pairs to look at: images, masks, prompts and scores of a dataset version in one self-contained file."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.errors import ImageFileError, MaskError
from iedit_model.imaging.decode import STORED_FORMATS, decode_image
from iedit_model.imaging.encode import SMALL_PX, image_url
from iedit_model.imaging.mask_files import decode_levels
from iedit_model.imaging.sheet import mask_overlay, shrunk_levels
from storage import SAMPLE_PARTS, Column, CorruptFileError, VersionInfo, VersionStore
from storage.atomic import replace_bytes
from tasks.dataset.gallery_page import PageCard, PageColumn, html_page
from tasks.pack.packed_sample import read_sample

if TYPE_CHECKING:
    import pyarrow as pa

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
        DiskFullError: no room; what was there stays.
    """
    replace_bytes(path, gallery_html(versions, version, config).encode())
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
            image = decode_image(parts[part], formats=tuple(STORED_FORMATS))
            is_small = is_small and max(image.size) <= SMALL_PX
            images[name] = image_url(image, thumb_px=thumb_px)
        with suppress(KeyError, ImageFileError, MaskError):
            levels = decode_levels(parts[f"{part}_mask"])
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
