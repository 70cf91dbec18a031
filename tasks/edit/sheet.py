"""The contact sheet of an edit: source, mask and results in one picture, each as large as the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from iedit_model.editing.editor import Mask

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

TILE_PX: Final = 256
"""Longer side of a tile."""
_GAP_PX: Final = 10
_LINE_PX: Final = 20
_FONT_PX: Final = 14
_MAX_COLUMNS: Final = 6
_MASK_COLOUR: Final = (230, 40, 40)


def contact_sheet(
    title: str, source: "Image", mask: Mask | None, results: Sequence["Image"], labels: Sequence[str]
) -> "Image":
    """Return the sheet: source | mask | results, at most six tiles a row, under a title.

    Args:
        title: the edit in words; what does not fit is cut off.
        source: RGB.
        mask: (height, width) of the source, shown as a red veil over it; None leaves the tile out.
        results: RGB, in the source's size.
        labels: one a result.
    """
    from PIL import Image, ImageDraw

    tiles = [("source", source), *zip(labels, results, strict=True)]
    if mask is not None:
        tiles.insert(1, ("mask", mask_overlay(source, mask)))
    width, height = _tile_size(source.size)
    columns = min(_MAX_COLUMNS, len(tiles))
    num_rows = -(-len(tiles) // columns)
    across, down = width + _GAP_PX, height + _LINE_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * across + _GAP_PX, num_rows * down + _GAP_PX + _LINE_PX), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_GAP_PX, _GAP_PX // 2), title, sheet.width - 2 * _GAP_PX)
    for index, (label, picture) in enumerate(tiles):
        x = _GAP_PX + (index % columns) * across
        y = _GAP_PX + _LINE_PX + (index // columns) * down
        sheet.paste(_scaled(picture, (width, height)), (x, y))
        _write(draw, (x, y + height + 2), label, width)
    return sheet


def mask_overlay(source: "Image", mask: Mask) -> "Image":
    """Return the source with the mask as a red veil, and dimmed where it is not edited."""
    from PIL import Image

    pixels = np.asarray(source, np.float32)
    inside = 0.5 * pixels + 0.5 * np.asarray(_MASK_COLOUR, np.float32)
    weights = mask[..., None]
    return Image.fromarray(np.rint(weights * inside + (1 - weights) * 0.6 * pixels).astype(np.uint8))


def _tile_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = TILE_PX / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(picture: "Image", size: tuple[int, int]) -> "Image":
    from PIL import Image

    # Small pictures keep their pixels; a soft enlargement would hide what the model made.
    grows = size[0] >= picture.width
    return picture.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _write(draw: "ImageDraw", at: tuple[int, int], text: str, width_px: int) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=_FONT_PX)
    # The built-in font knows no other letters; a prompt in another script must not end the edit.
    line = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
    while line and font.getlength(line) > width_px:
        line = line[:-2] + "~" if len(line) > 2 else ""
    draw.text(at, line, fill="black", font=font)
