"""The contact sheet of an edit: source, mask and results in one image, each as large as the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from iedit_model.editing.editor import Mask
from iedit_model.imaging.sheet import SheetCell, contact_sheet, overlaid

if TYPE_CHECKING:
    from PIL.Image import Image

TILE_PX: Final = 256
"""Longer side of a tile."""
_MAX_COLUMNS: Final = 6


def edit_sheet(
    title: str, source: "Image", mask: Mask | None, results: Sequence["Image"], labels: Sequence[str]
) -> "Image":
    """Return the sheet: source | mask | results, at most six tiles per row, under a title.

    Args:
        title: the edit in words; what does not fit is cut off.
        source: RGB.
        mask: (height, width) of the source, shown as an overlay; None leaves the tile out.
        results: RGB, in the source's size.
        labels: one per result.
    """
    scale = TILE_PX / max(source.size)
    tile = max(1, round(source.width * scale)), max(1, round(source.height * scale))
    cells = [SheetCell(images=[image], lines=[label]) for label, image in zip(labels, results, strict=True)]
    if mask is not None:
        shown = overlaid(source, np.rint(mask * 255).astype(np.uint8), tile_size=tile)
        cells.insert(0, SheetCell(images=[shown], lines=["mask"]))
    cells.insert(0, SheetCell(images=[source], lines=["source"]))
    return contact_sheet(cells, columns=_MAX_COLUMNS, tile_size=tile, title=title)
