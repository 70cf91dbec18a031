"""What a mask file means, for every reader of mask files: white is where to edit, greys lie between.

- Lightness counts, in any mode and depth; a file of zeros and ones alone means 0 and 255.
- Colours have no lightness that anybody meant: one colour on black is the mask, more of them are refused.
- With transparent parts, white strokes are the mask; in any other image the transparent hole is. Black and white beside
  transparent parts could mean either, and is refused.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from iedit_model.errors import MaskError
from iedit_model.imaging.decode import FORMATS, LIMITS, ImageLimits, eight_bits, on_white, opened_image, upright
from iedit_model.imaging.encode import encode_image

if TYPE_CHECKING:
    from PIL.Image import Image

Levels = npt.NDArray[np.uint8]
"""(height, width), 255 = edit here."""

_ASPECT_SLACK: Final = 0.01
_GREY_SPREAD: Final = 24
"""Largest difference of a pixel's channels that still is grey, after lossy compression."""
_BLACK, _WHITE = 8, 247
_LEAST_LEVEL: Final = 16
"""A mask whose brightest level lies below says nothing that anybody would see."""


def decode_mask(data: bytes, *, limits: ImageLimits = LIMITS, formats: Sequence[str] = FORMATS) -> Levels:
    """Return the levels of a mask file; one that is black all over is a mask, too.

    Raises:
        ImageFileError: not an image that can be read.
        MaskError: it has no one meaning as a mask.
    """
    with opened_image(data, limits=limits, formats=formats) as image:
        return mask_levels(image)


def read_mask(data: bytes, *, size: tuple[int, int], limits: ImageLimits = LIMITS) -> npt.NDArray[np.float32]:
    """Return the mask of an edit as float32 (height, width) in [0, 1].

    Args:
        data: a mask file.
        size: width and height of the image it belongs to. A mask of the same shape but another size is scaled.
        limits: as for images.

    Raises:
        ImageFileError: not an image that can be read.
        MaskError: of another shape than the image, without one meaning, or (nearly) black all over.
    """
    from PIL import Image

    grey = Image.fromarray(decode_mask(data, limits=limits))
    if abs(grey.width * size[1] / (grey.height * size[0]) - 1) > _ASPECT_SLACK and grey.size != size:
        raise MaskError(
            f"the mask has {grey.width} x {grey.height} pixels and the image {size[0]} x {size[1]}: their "
            "shapes differ; draw the mask on the image"
        )
    if grey.size != size:
        # A blur from a finer filter would make soft borders that nobody drew.
        grey = grey.resize(size, Image.Resampling.NEAREST)
    levels = np.asarray(grey)
    if not levels.any():
        raise MaskError("the mask is black all over, so nothing would be edited: white is where to edit")
    if levels.max() < _LEAST_LEVEL:
        raise MaskError(f"the mask's brightest level is {levels.max()} of 255: white (255) is where to edit")
    return levels / np.float32(255)


def mask_levels(image: "Image") -> Levels:
    """Return the levels of a mask image.

    Raises:
        MaskError: it has no one meaning as a mask.
        ImageFileError: its mode cannot be read.
    """
    image = upright(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        return full_range(values.astype(np.uint8) if values.max() <= 1 else np.asarray(eight_bits(image)))
    image = eight_bits(image)
    if image.mode in {"1", "L"} and not image.has_transparency_data:
        return full_range(np.asarray(image.convert("L")))
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        alpha = full_range(rgba[..., 3])
        if alpha.min() < 255:
            return _of_transparency(rgba[..., :3], alpha)
        return _of_colours(rgba[..., :3])
    return _of_colours(np.asarray(on_white(image)))


def full_range(levels: Levels) -> Levels:
    """Return the levels of a mask array, in which zeros and ones alone mean 0 and 255."""
    return levels * np.uint8(255) if levels.max(initial=0) == 1 else levels


def encode_mask(levels: Levels) -> bytes:
    """Return a mask as PNG of 8-bit grey, so that ``decode_mask`` gives the same levels again."""
    from PIL import Image

    # A brightest level of 1 would be read as zeros and ones; as a probability it is none.
    return encode_image(Image.fromarray(levels if levels.max(initial=0) != 1 else np.zeros_like(levels)))


def _of_colours(rgb: Levels) -> Levels:
    """Return the lightness of greys (h, w, 3), or the one colour on black."""
    if int(np.ptp(rgb, axis=2).max(initial=0)) <= _GREY_SPREAD:
        return full_range(_lightness(rgb))
    lit = rgb.any(axis=2)
    if (rgb[lit] == rgb[lit][0]).all():
        return np.where(lit, 255, 0).astype(np.uint8)
    raise MaskError("the mask has several colours, which say nothing about where to edit: save it in black and white")


def _of_transparency(rgb: Levels, alpha: Levels) -> Levels:
    visible = _lightness(rgb)[alpha >= 128]
    if not visible.size:
        raise MaskError("the mask is transparent all over: save it in black and white, white is where to edit")
    if visible.min() >= _WHITE:
        return alpha
    if visible.max() >= _WHITE and ((visible <= _BLACK) | (visible >= _WHITE)).all():
        raise MaskError("the mask is black, white and transparent: save it without transparency, white where to edit")
    return 255 - alpha


def _lightness(rgb: Levels) -> Levels:
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).convert("L"))
