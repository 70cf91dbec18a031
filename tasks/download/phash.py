"""A perceptual hash: 64 bits of an image of which near-duplicates differ in few.

A colour difference hash. The image is reduced, in YCbCr, by averaging; a bit says whether a cell's right (or lower)
neighbour is brighter by more than 2 of 255 levels:

- bits 63-48: luma, 4 rows of 5 cells, left to right; bits 47-32: luma, 5 rows of 4 cells, downwards;
- bits 31-16: Cb, and bits 15-0: Cr, 4 rows of 5 cells each, left to right.

The common difference hash sees brightness only: a red bus and a blue one of the same brightness, which are exactly the
pairs that editing looks for, would be duplicates. The margin keeps the noise of re-encoding out of flat backgrounds.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CELLS: Final = 4
"""Differences in a row and in a column."""
MARGIN: Final = 2
"""Levels that a neighbour must be brighter by."""


def perceptual_hash(image: "Image") -> int:
    """Return the hash of an RGB image, as a signed number of 64 bits: the two's complement of the bits above."""
    luma, blue, red = image.convert("YCbCr").split()
    wide, tall = (CELLS + 1, CELLS), (CELLS, CELLS + 1)
    differences = (
        *(_cells(luma, wide)[:, 1:] - _cells(luma, wide)[:, :-1]).flat,
        *(_cells(luma, tall)[1:] - _cells(luma, tall)[:-1]).flat,
        *(_cells(blue, wide)[:, 1:] - _cells(blue, wide)[:, :-1]).flat,
        *(_cells(red, wide)[:, 1:] - _cells(red, wide)[:, :-1]).flat,
    )
    bits = 0
    for difference in differences:
        bits = bits << 1 | int(difference > MARGIN)
    return bits - 2**64 if bits >> 63 else bits


def hash_distance(one: int, other: int) -> int:
    """Return in how many bits, 0 to 64, two hashes differ."""
    return ((one ^ other) & 2**64 - 1).bit_count()


def _cells(channel: "Image", size: tuple[int, int]) -> "np.ndarray":
    import numpy as np
    from PIL.Image import Resampling

    return np.asarray(channel.resize(size, Resampling.BOX), dtype=np.int16)
