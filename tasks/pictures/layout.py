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
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise LayoutError(f"a layout needs a uint8 image (height, width, 3), got {image.dtype} {image.shape}")
    # Whole numbers, channel by channel: exact, and a fifth of the time of fractions with the channels innermost.
    planes = _shrunk(image).transpose(2, 0, 1).astype(np.int16, order="C")
    edges = np.zeros((1, _WORKING_PX, _WORKING_PX), np.int16)
    edges[0, :-1] += _strongest(np.diff(planes, axis=1))
    edges[0, :, :-1] += _strongest(np.diff(planes, axis=2))
    edge_part, colour_part = _cell_means(edges), _cell_means(planes) - 0.5
    parts = [_unit(edge_part - edge_part.mean()), _unit(colour_part)]
    return _unit(np.concatenate([part.ravel() for part in parts])).astype(np.float32)


def _shrunk(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if image.shape[:2] == (_WORKING_PX, _WORKING_PX):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((_WORKING_PX, _WORKING_PX), Image.Resampling.BOX))


def _strongest(steps: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Return the size of the step of the channel with the largest: red on green of the same lightness is an edge."""
    red, green, blue = np.abs(steps)
    return np.maximum(np.maximum(red, green), blue)


def _cell_means(planes: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Return the means (8, 8, planes) over the cells of planes of levels up to 255, in the order of a descriptor."""
    step = _WORKING_PX // GRID
    rows = planes.reshape(-1, GRID, step, _WORKING_PX).sum(axis=2, dtype=np.int64)
    sums = rows.reshape(-1, GRID, GRID, step).sum(axis=3)
    return sums.transpose(1, 2, 0) / (255 * step * step)


def _unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.sqrt(np.square(values).sum())
    return values / length if length > 1e-9 else np.zeros_like(values)
