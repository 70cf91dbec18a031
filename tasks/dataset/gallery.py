"""A page of pairs to look at: pictures, masks, prompts and scores of a dataset version in one self-contained file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from pydantic import Field

from iedit_model.configuration import configuration
from storage import SAMPLE_PARTS, Column, CorruptFileError, VersionInfo, VersionStore
from storage.atomic import replace_bytes
from tasks.dataset.gallery_page import PageCard, PageColumn, html_page
from tasks.images.data_url import SMALL_PX, picture_address
from tasks.pack.packed_sample import read_sample

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

_WORDS: Final = ("split", "relation", "pos", "caption_source")
_TEXTS: Final = (
    *("sample_id", "caption", "edit_prompt", "swapped_from", "swapped_to", "source_diff", "target_diff"),
    *("url", "target_url", "target_caption"),
)
_PLACES: Final = ("tar", "tar_offset", "tar_size", *(f"{part}_member_sha256" for part in SAMPLE_PARTS))
_OVERLAY_PX: Final = 192
"""Least side of a mask as it is shown, so that its outline is thin."""
_SHADE: Final = (14, 14, 24)
_OUTLINE: Final = (255, 45, 140, 255)
_DARKNESS: Final = 0.68


@configuration
class GalleryConfig:
    """What is shown."""

    limit: Annotated[int, Field(ge=1, le=5000)] = 200
    """Most pairs on the page; the first by sample id, which is as good as a random draw."""
    where: str | None = None
    """Only pairs that pass this filter over the manifest (``storage.filters``)."""
    thumb_px: Annotated[int, Field(ge=16, le=2048)] = 320
    """Longer side of a picture on the page; smaller pictures stay as they are."""


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
    """Return the page: HTML that asks for nothing from anywhere, about 60 KB a pair of 512-pixel pictures.

    Raises:
        UnknownVersionError: there is no such version.
        FilterError: the filter cannot be understood.
    """
    config = config or GalleryConfig()
    info = versions.load(version)
    manifest = versions.manifest(info, columns=(*_TEXTS, *_numbers(), *_WORDS, *_PLACES), where=config.where)
    shown = manifest.slice(0, config.limit)
    pieces = html_page(
        f"Editing pairs {info.id}",
        _summary(info, manifest.num_rows, shown.num_rows, config.where),
        _cards(versions, shown, config.thumb_px),
        _columns(shown),
        footer="A target is another picture that fits the edit prompt. Masks are bright where the picture is to be "
        "edited. Press the pictures to enlarge them.",
    )
    return "".join(pieces)


def mask_overlay(mask: "Image") -> "Image":
    """Return what is laid over a picture to show its mask: dark outside, clear inside, with a bright outline.

    Args:
        mask: 8-bit grey, 255 = edit here.

    Returns:
        RGBA of the same size, enlarged by a whole factor when it is small.
    """
    from PIL import Image, ImageFilter

    factor = max(1, -(-_OVERLAY_PX // max(mask.size)))
    mask = mask.convert("L").resize((mask.width * factor, mask.height * factor), Image.Resampling.NEAREST)
    inside = Image.fromarray(np.where(np.asarray(mask) >= 128, 255, 0).astype(np.uint8))
    outline = np.asarray(inside) != np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    pixels = np.zeros((mask.height, mask.width, 4), np.uint8)
    pixels[..., :3] = _SHADE
    pixels[..., 3] = np.rint((255 - np.asarray(mask, np.float32)) * _DARKNESS)
    pixels[outline] = _OUTLINE
    return Image.fromarray(pixels, "RGBA")


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
    from tasks.images.stored_images import ImageError, decode_image

    pictures, is_small = {}, True
    for name, part in (("s", "source"), ("t", "target"), ("sm", "source_mask"), ("tm", "target_mask")):
        try:
            picture = decode_image(parts[part])
        except (KeyError, ImageError):
            continue
        is_small = is_small and max(picture.size) <= SMALL_PX
        picture.thumbnail((thumb_px, thumb_px))
        pictures[name] = picture_address(mask_overlay(picture) if name in {"sm", "tm"} else picture)
    return PageCard(row=row, pictures=pictures, is_small=is_small)


def _declared() -> tuple[Column, ...]:
    """Return the manifest's columns; whoever only asks for a version need not load the stages."""
    from tasks.stages import MANIFEST

    return MANIFEST.columns


def _numbers() -> tuple[str, ...]:
    """Return the columns of numbers: what the stages measured comes before what the metadata claims."""
    scores = [column for column in _declared() if column.type == "float32"]
    claimed = [column.name for column in scores if column.stage == "plan"]
    return (*(column.name for column in scores if column.stage != "plan"), "rank", "level", *claimed)
