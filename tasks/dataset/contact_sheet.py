"""A sheet of pairs as one picture: source, its mask, target, its mask, and the prompts below."""

from typing import TYPE_CHECKING, Any, Final

from storage import SAMPLE_PARTS, CorruptFileError, VersionInfo, VersionStore
from tasks.dataset.gallery import mask_overlay
from tasks.pack.packed_sample import read_sample

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

_PART_PX: Final = 128
_GAP_PX: Final = 6
_LINE_PX: Final = 17
_COLUMNS: Final = 2
_PARTS: Final = (("source", "source_mask"), ("target", "target_mask"))
_INK: Final = (25, 25, 30)
_PAPER: Final = (250, 250, 248)
_COLUMNS_READ: Final = ("sample_id", "caption", "edit_prompt", "tar", "tar_offset", "tar_size")


def contact_sheet(versions: VersionStore, version: VersionInfo, *, limit: int = 12) -> "Image":
    """Return a sheet of the first pairs by sample id, which is as good as a random draw.

    Args:
        versions: where the version lies.
        version: the version.
        limit: most pairs, 1 or more. A pair whose bytes are damaged leaves its place empty.
    """
    from PIL import Image, ImageDraw, ImageFont

    hashes = tuple(f"{part}_member_sha256" for part in SAMPLE_PARTS)
    rows = versions.manifest(version, columns=(*_COLUMNS_READ, *hashes)).slice(0, limit).to_pylist()
    width = 4 * _PART_PX + 2 * _GAP_PX
    height = _PART_PX + 2 * _LINE_PX + 2 * _GAP_PX
    columns = min(_COLUMNS, max(1, len(rows)))
    sheet = Image.new("RGB", (columns * width, -(-max(1, len(rows)) // columns) * height), _PAPER)
    font = ImageFont.load_default(size=13)
    for number, row in enumerate(rows):
        left, top = number % columns * width + _GAP_PX, number // columns * height + _GAP_PX
        for place, picture in enumerate(_pictures(versions, row)):
            sheet.paste(picture, (left + place * _PART_PX, top))
        draw = ImageDraw.Draw(sheet)
        for line, text in enumerate((row["caption"], "> " + row["edit_prompt"])):
            place = (left, top + _PART_PX + line * _LINE_PX)
            draw.text(place, _fitting(text, font, width - 2 * _GAP_PX), fill=_INK, font=font)
    return sheet


def _pictures(versions: VersionStore, row: dict[str, Any]) -> "list[Image]":
    from PIL import Image

    from tasks.images.stored_images import ImageError, decode_image

    shown: list[Image.Image] = []
    try:
        parts = read_sample(versions.files, row)
        for picture_part, mask_part in _PARTS:
            picture = decode_image(parts[picture_part]).resize((_PART_PX, _PART_PX))
            overlay = mask_overlay(decode_image(parts[mask_part]).convert("L")).resize((_PART_PX, _PART_PX))
            shown += [picture, Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")]
    except (CorruptFileError, ImageError):
        return shown
    return shown


def _fitting(text: str, font: "FreeTypeFont | ImageFont", width_px: int) -> str:
    """Return as much of a text as fits, with an ellipsis where it was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."
