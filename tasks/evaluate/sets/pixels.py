"""Images and masks of an evaluation set: bytes to pixels and back, and one square frame for all methods."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from iedit_model.errors import ImageFileError, MaskError
from iedit_model.imaging.decode import STORED_FORMATS, decode_image, opened_image
from iedit_model.imaging.mask_files import decode_mask, encode_mask
from tasks.evaluate.errors import EvalSetError

if TYPE_CHECKING:
    from PIL.Image import Image

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One source image as every method and metric sees it."""

    image: "Image"
    """RGB, ``size_px`` x ``size_px``."""
    mask: Mask
    """Where the edit belongs, (size_px, size_px); all False where the set has no mask."""
    mask_known: bool
    """Whether the set has a mask for the pair."""


def set_image(data: bytes, *, name: str) -> "Image":
    """Return the RGB image in ``data``.

    Raises:
        EvalSetError: too many bytes or pixels, or not a whole image of a format that sets hold.
    """
    try:
        return decode_image(data, formats=tuple(STORED_FORMATS))
    except ImageFileError as error:
        raise EvalSetError(f"{name} cannot be used: {error}") from error


def extension(data: bytes, *, name: str) -> str:
    """Return the file extension of an encoded image, by its content.

    Raises:
        EvalSetError: of no format that sets hold.
    """
    try:
        with opened_image(data, formats=tuple(STORED_FORMATS)) as image:
            # A photo of several views is a JPEG to whoever reads its first.
            return STORED_FORMATS.get(image.format or "", "jpg")
    except ImageFileError as error:
        raise EvalSetError(f"{name} cannot be used: {error}") from error


def set_mask(data: bytes, *, name: str, size: tuple[int, int] | None = None) -> Mask:
    """Return the mask in a mask file: True where it is brighter than half.

    Args:
        data: as ``iedit_model.imaging.mask_files`` reads it.
        name: what errors call it.
        size: expected width and height, if known.

    Raises:
        EvalSetError: no mask that can be used, too large, or of another size.
    """
    try:
        levels = decode_mask(data, formats=tuple(STORED_FORMATS))
    except (ImageFileError, MaskError) as error:
        raise EvalSetError(f"{name} cannot be used: {error}") from error
    if size is not None and levels.shape != size[::-1]:
        raise EvalSetError(f"{name} is {levels.shape[1]} x {levels.shape[0]}, its image {size[0]} x {size[1]}")
    return levels >= 128


def mask_bytes(mask: Mask) -> bytes:
    """Return a mask (height, width) as an 8-bit grey PNG, 255 = edit here."""
    return encode_mask(np.where(mask, 255, 0).astype(np.uint8))


def framed(image: "Image", mask: Mask | None, *, size_px: int) -> Frame:
    """Return image and mask in the square frame of an evaluation: shorter side to ``size_px``, then the centre.

    An image of that size already is taken as it is, bit for bit. The image is resized by Pillow's antialiased
    bicubic filter; the mask by area, and inside is what is covered by half at least.
    """
    from PIL import Image as Images

    grey = Images.fromarray(
        np.where(mask if mask is not None else np.zeros(image.size[::-1], bool), 255, 0).astype("u1")
    )
    if image.size != (size_px, size_px):
        scale = size_px / min(image.size)
        size = (max(size_px, round(image.width * scale)), max(size_px, round(image.height * scale)))
        left, top = (size[0] - size_px) // 2, (size[1] - size_px) // 2
        box = (left, top, left + size_px, top + size_px)
        image = image.resize(size, Images.Resampling.BICUBIC).crop(box)
        grey = grey.resize(size, Images.Resampling.BOX).crop(box)
    return Frame(image=image, mask=np.asarray(grey) >= 128, mask_known=mask is not None)
