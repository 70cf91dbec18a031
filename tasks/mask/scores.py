"""What is measured on masks: their size and certainty, how two of them meet, how alike two images are outside them.

A probability is rounded to one of 256 levels before anything else, so that the last bits of a model's arithmetic do
not decide over a pixel; the stored mask and all its scores follow from the same levels.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from iedit_model.imaging.mask_files import decode_levels, encode_mask
from tasks.errors import TaskError

if TYPE_CHECKING:
    from PIL.Image import Image

GRID: Final = 32
"""Cells along a side of the blurred images that ``outside_similarity`` compares."""

Bools = npt.NDArray[np.bool_]
Levels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_LEVELS: Final = 255


class MaskShapeError(TaskError):
    """A map or mask of another shape than its use needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskScores:
    """A mask as it is stored, and what was measured on it; all numbers in [0, 1]."""

    png: bytes
    """8 bit grey: 255 inside and 0 outside, or the probability times 255."""
    mean: float
    """Mean probability over the image."""
    highest: float
    """Highest probability."""
    area: float
    """Share of the image inside."""
    border: float
    """Share of the image's outermost pixels inside."""


def lowest_level(threshold: float) -> int:
    """Return the lowest of the 256 levels that counts as inside, at least 1."""
    return max(1, math.ceil(round(threshold * _LEVELS, 6)))


def score_mask(probabilities: Floats, *, threshold: float, soft: bool) -> MaskScores:
    """Return the mask of one probability map with its scores.

    Args:
        probabilities: (height, width) in [0, 1].
        threshold: probability from which on a pixel is inside.
        soft: whether to store the probabilities instead of inside and outside.

    Raises:
        MaskShapeError: not two-dimensional, empty, or with values that are not in [0, 1].
    """
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise MaskShapeError(f"a mask comes from a map (height, width), got the shape {probabilities.shape}")
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):  # also when there is a NaN
        raise MaskShapeError("a map holds values that are no probabilities in [0, 1]")
    levels = np.rint(probabilities * _LEVELS).astype(np.uint8)
    inside = levels >= lowest_level(threshold)
    return MaskScores(
        png=encode_mask(levels if soft else inside.astype(np.uint8) * _LEVELS),
        mean=float(levels.mean(dtype=np.float64)) / _LEVELS,
        highest=int(levels.max()) / _LEVELS,
        area=float(inside.mean(dtype=np.float64)),
        border=float(np.concatenate(_edges(inside)).mean(dtype=np.float64)),
    )


def read_mask(png: bytes, *, threshold: float) -> Bools:
    """Return which pixels of a stored mask are inside, (height, width)."""
    return decode_levels(png, trusted=True) >= lowest_level(threshold)


def mask_iou(source: Bools, target: Bools) -> float:
    """Return intersection over union of two masks, the target brought to the source's size; 0 for two empty ones."""
    from PIL import Image

    if source.shape != target.shape:
        height, width = source.shape
        resized = Image.fromarray(target).resize((width, height), Image.Resampling.NEAREST)
        target = np.asarray(resized, np.bool_)
    union = int((source | target).sum())
    return int((source & target).sum()) / union if union else 0.0


def blurred(image: "Image") -> Levels:
    """Return the mean colours of an RGB image on the grid, uint8 (32, 32, 3)."""
    from PIL import Image

    return np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX))


def outside_similarity(source: Levels, target: Levels, *, source_mask: Bools, target_mask: Bools) -> float:
    """Return how alike two images are outside both masks: 1 - mean absolute difference of their blurred colours.

    1 means equal and 0 black against white, or that nothing is outside. The blur (means over the cells of a 32 x 32
    grid) forgives small shifts and texture; a cell weighs as much as it lies outside both masks. This is the pair's
    alignment: where it is low, learning the target's outside harms.

    Args:
        source: ``blurred`` source image.
        target: ``blurred`` target image.
        source_mask: pixels of the source that change, any size.
        target_mask: pixels of the target that change, any size.
    """
    weights = 1 - np.maximum(_coverage(source_mask), _coverage(target_mask))
    total = float(weights.sum())
    if total < 1 / GRID:  # a thirty-second of one cell: there is no outside to compare
        return 0.0
    difference = np.abs(source.astype(np.float64) - target) / _LEVELS
    return 1 - float((difference.mean(axis=-1) * weights).sum()) / total


def _coverage(mask: Bools) -> npt.NDArray[np.float64]:
    from PIL import Image

    shares = Image.fromarray(mask.astype(np.float32)).resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(shares, np.float64)


def _edges(inside: Bools) -> list[Bools]:
    """Return the outermost pixels, each once."""
    top, bottom = inside[:1].ravel(), inside[1:][-1:].ravel()
    between = inside[1:-1]
    return [top, bottom, between[:, 0], between[:, 1:][:, -1:].ravel()]
