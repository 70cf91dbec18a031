"""What a mask file means, for every reader of mask files: white is where to edit, greys lie between.

- Lightness counts, in any mode and depth. A file whose brightest grey nobody can see, zeros and ones for example, is
  refused: it was written for another range, and would mean that nothing is to be edited.
- Colours have no lightness that anybody meant: one colour on black is the mask, more of them are refused.
- With transparent parts, white strokes are the mask; in any other image the transparent hole is. Black and white beside
  transparent parts could mean either, and is refused.
"""

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


def decode_mask(data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS) -> Levels:
    """Return the levels of a mask file; one that is black all over is a mask, too.

    Raises:
        ImageFileError: not an image that can be read.
        MaskError: it has no one meaning as a mask.
    """
    return checked_levels(decode_levels(data, limits=limits, formats=formats))


def decode_levels(
    data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS, trusted: bool = False
) -> Levels:
    """Return the levels of a mask file that may hold probabilities, however low; ``trusted`` as for images.

    Raises:
        ImageFileError: not an image that can be read.
        MaskError: it has no one meaning as a mask.
    """
    with opened_image(data, limits=limits, formats=formats, trusted=trusted) as image:
        return mask_levels(image)


def checked_levels(levels: Levels) -> Levels:
    """Return the levels of a mask that is meant to be seen, as they are.

    Raises:
        MaskError: the brightest is so dark that another range was meant.
    """
    if 0 < levels.max(initial=0) < _LEAST_LEVEL:
        raise MaskError(
            f"the mask's brightest level is {levels.max()} of 255, which edits nothing that anybody would see: 255 is "
            "where to edit; multiply a mask of 0 and 1 by 255"
        )
    return levels


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
    return np.asarray(levels, np.float32) / np.float32(255)


def mask_levels(image: "Image") -> Levels:
    """Return the levels of a mask image.

    Raises:
        MaskError: it has no one meaning as a mask.
        ImageFileError: its mode cannot be read.
    """
    image = upright(image)
    if image.mode.startswith("I"):
        levels = np.asarray(eight_bits(image))
        if not levels.any() and (brightest := np.asarray(image).max()):
            raise MaskError(
                f"the mask's brightest level is {brightest} of 65535: save it as 8 bit, 255 is where to edit"
            )
        return levels
    image = eight_bits(image)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            return _of_transparency(rgba[..., :3], rgba[..., 3])
        return _of_colours(rgba[..., :3])
    return np.asarray(image.convert("L")) if image.mode in {"1", "L"} else _of_colours(np.asarray(on_white(image)))


def encode_mask(levels: Levels) -> bytes:
    """Return a mask as PNG of 8-bit grey, so that ``decode_levels`` gives the same levels again."""
    from PIL import Image

    return encode_image(Image.fromarray(levels))


def _of_colours(rgb: Levels) -> Levels:
    """Return the lightness of greys (h, w, 3), or the one colour on black."""
    if int(np.ptp(rgb, axis=2).max(initial=0)) <= _GREY_SPREAD:
        return _lightness(rgb)
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
