"""A cheap descriptor of where things are in an image, to find targets whose layout is the source's.

On each cell of an 8 x 8 grid: how strong the edges are, against their mean, and the mean colour, against mid grey.
Edges say where things stand, whatever their colour; colours say what the ground looks like. Both parts weigh the same.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from tasks.errors import TaskError

GRID: Final = 8
"""Cells along a side."""
LAYOUT_DIM: Final = 4 * GRID * GRID
"""Numbers in a descriptor: edges, then red, green and blue."""

_WORKING_PX: Final = 64


class LayoutError(TaskError):
    """An array that is no RGB image."""


def layout_descriptor(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the descriptor (256,) of an image, float32 of unit norm.

    The cosine of two descriptors is the mean of the cosines of their edge and colour parts; an image of one even colour
    has no edge part. Any size works, since the image is shrunk to 64 x 64 by area first.

    Args:
        image: uint8 (height, width, 3), RGB.

    Raises:
        LayoutError: of another type or shape, or with a side of 0.
    """
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise LayoutError(f"a layout needs a uint8 image (height, width, 3), got {image.dtype} {image.shape}")
    small = Image.fromarray(image).resize((_WORKING_PX, _WORKING_PX), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float64) / 255
    # The strongest channel counts: red on green of the same lightness is an edge too.
    down, right = np.abs(np.diff(pixels, axis=0)).max(-1), np.abs(np.diff(pixels, axis=1)).max(-1)
    edges = np.zeros(pixels.shape[:2])
    edges[:-1] += down
    edges[:, :-1] += right
    edge_part, colour_part = _cells(edges[..., None]), _cells(pixels) - 0.5
    parts = [_unit(edge_part - edge_part.mean()), _unit(colour_part)]
    return _unit(np.concatenate([part.ravel() for part in parts])).astype(np.float32)


def _cells(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    step = _WORKING_PX // GRID
    return values.reshape(GRID, step, GRID, step, -1).mean(axis=(1, 3))


def _unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.sqrt(np.square(values).sum())
    return values / length if length > 1e-9 else np.zeros_like(values)
