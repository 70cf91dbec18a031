"""Mask overlays, and sheets of images with words below them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iedit_model.imaging.mask_files import Levels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

TILE_PX: Final = 128
GAP_PX: Final = 6
LINE_PX: Final = 17
PAPER: Final = (250, 250, 248)
_INK: Final = (25, 25, 30)
_FONT_PX: Final = 13

_OVERLAY_PX: Final = 192
_SHADE: Final = (14, 14, 24)
_OUTLINE: Final = (255, 45, 140, 255)
_DARKNESS: Final = 0.68


@dataclass(frozen=True, kw_only=True)
class SheetCell:
    """Images side by side, and the lines below them."""

    images: "Sequence[Image]"
    lines: Sequence[str] = ()


def contact_sheet(
    cells: Sequence[SheetCell],
    *,
    columns: int = 1,
    tile_size: tuple[int, int] = (TILE_PX, TILE_PX),
    title: str = "",
    heads: Sequence[str] = (),
) -> "Image":
    """Return a sheet of cells, row by row; a cell without images leaves a gap.

    Args:
        cells: all are as wide and high as the largest.
        columns: most cells per row.
        tile_size: width and height of each image, pixels.
        title: a line on top of the sheet.
        heads: what the first, second, ... image of every cell is called, on top of the sheet.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = min(columns, max(1, len(cells)))
    num_images = max((len(cell.images) for cell in cells), default=1) or 1
    num_lines = max((len(cell.lines) for cell in cells), default=0)
    width = num_images * tile_size[0] + 2 * GAP_PX
    height = tile_size[1] + num_lines * LINE_PX + 2 * GAP_PX
    top = LINE_PX * (bool(title) + bool(heads))
    num_rows = -(-max(1, len(cells)) // columns)
    sheet = Image.new("RGB", (columns * width, top + num_rows * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_FONT_PX)

    def write(x: int, y: int, text: str, width_px: int) -> None:
        draw.text((x, y), fitting_text(text, font, width_px), fill=_INK, font=font)

    write(GAP_PX, 2, title, sheet.width - 2 * GAP_PX)
    for number, head in enumerate(heads):
        write(GAP_PX + number * tile_size[0], top - LINE_PX + 2, head, tile_size[0])
    for number, cell in enumerate(cells):
        x, y = number % columns * width + GAP_PX, top + number // columns * height + GAP_PX
        for index, image in enumerate(cell.images):
            sheet.paste(scaled_image(image, tile_size), (x + index * tile_size[0], y))
        for index, line in enumerate(cell.lines):
            write(x, y + tile_size[1] + index * LINE_PX, line, width - 2 * GAP_PX)
    return sheet


def scaled_image(image: "Image", size: tuple[int, int]) -> "Image":
    """Return an image in another size: enlarged pixel by pixel, which hides nothing, and shrunk smoothly."""
    from PIL import Image

    grows = size[0] >= image.width
    return image.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def fitting_text(text: str, font: "FreeTypeFont | ImageFont", width_px: int) -> str:
    """Return as much of a text as fits into one line, with an ellipsis where it was cut."""
    # The built-in font knows no other letters; a prompt in another script must not end the edit.
    text = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..." if font.getlength("...") <= width_px else ""


def mask_overlay(levels: Levels, *, least_px: int = _OVERLAY_PX) -> "Image":
    """Return what is laid over an image to show its mask: dark outside, clear inside, with a bright outline.

    Args:
        levels: uint8 (height, width), 255 = edit here.
        least_px: least longer side, so that the outline is thin.

    Returns:
        RGBA of the same size, enlarged by a whole factor when it is smaller than that.
    """
    from PIL import Image, ImageFilter

    factor = max(1, -(-least_px // max(levels.shape)))
    levels = levels.repeat(factor, axis=0).repeat(factor, axis=1)
    inside = Image.fromarray(np.where(levels >= 128, 255, 0).astype(np.uint8))
    outline = np.asarray(inside) != np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    pixels = np.zeros((*levels.shape, 4), np.uint8)
    pixels[..., :3] = _SHADE
    pixels[..., 3] = np.rint((255 - levels.astype(np.float32)) * _DARKNESS)
    pixels[outline] = _OUTLINE
    return Image.fromarray(pixels, "RGBA")


def shrunk_levels(levels: Levels, longest_px: int) -> Levels:
    """Return a mask whose longer side has at most so many pixels, each the mean of what it covers."""
    from PIL import Image

    image = Image.fromarray(levels)
    image.thumbnail((longest_px, longest_px), Image.Resampling.BOX)
    return np.asarray(image)


def overlaid(image: "Image", levels: Levels, *, tile_size: tuple[int, int] = (TILE_PX, TILE_PX)) -> "Image":
    """Return an RGB image under its mask's overlay, both in the size of a tile, so that the outline stays visible."""
    from PIL import Image

    fitting = scaled_image(Image.fromarray(shrunk_levels(levels, max(tile_size))), tile_size)
    overlay = mask_overlay(np.asarray(fitting), least_px=1)
    return Image.alpha_composite(scaled_image(image, tile_size).convert("RGBA"), overlay).convert("RGB")
