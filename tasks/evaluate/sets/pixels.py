"""Pictures and masks of an evaluation set: bytes to pixels and back, bounded, and one square frame for all methods."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tasks.evaluate.sets.errors import EvalSetError
from tasks.images.stored_images import ImageError, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

Mask = npt.NDArray[np.bool_]

MAX_IMAGE_BYTES: Final = 64 << 20
"""Largest encoded picture that is read."""
MAX_PIXELS: Final = 1 << 24
"""Largest picture that is decoded: 4096 x 4096."""
EXTENSIONS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One source image as every method and metric sees it."""

    image: "Image"
    """RGB, ``size_px`` x ``size_px``."""
    mask: Mask
    """Where the edit belongs, (size_px, size_px); all False where the set has no mask."""
    mask_known: bool
    """Whether the set has a mask for the pair."""


def picture(data: bytes, *, name: str) -> "Image":
    """Return the RGB picture in ``data``.

    Raises:
        EvalSetError: too many bytes or pixels, or no whole PNG, JPEG or WebP.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise EvalSetError(f"{name} has {len(data)} bytes, at most {MAX_IMAGE_BYTES} are read")
    try:
        return decode_image(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise EvalSetError(f"{name} is no picture that can be used: {error}") from error


def extension(data: bytes, *, name: str) -> str:
    """Return the file extension of an encoded picture, by its content.

    Raises:
        EvalSetError: neither PNG nor JPEG nor WebP.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return EXTENSIONS["PNG"]
    if data.startswith(b"\xff\xd8\xff"):
        return EXTENSIONS["JPEG"]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return EXTENSIONS["WEBP"]
    raise EvalSetError(f"{name} is neither PNG nor JPEG nor WebP")


def png_bytes(image: "Image") -> bytes:
    """Return a picture as PNG: the same pixels give the same bytes under one Pillow."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=False)
    return stream.getvalue()


def encode_mask(mask: Mask) -> bytes:
    """Return a mask (height, width) as an 8-bit grey PNG, 255 = edit here."""
    from PIL import Image

    return png_bytes(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)))


def decode_mask(data: bytes, *, name: str, size: tuple[int, int] | None = None) -> Mask:
    """Return the mask in a picture's bytes: True where it is brighter than half.

    Args:
        data: PNG, JPEG or WebP, grey or colour.
        name: what errors call it.
        size: expected width and height, if known.

    Raises:
        EvalSetError: no picture, too large, or of another size.
    """
    image = picture(data, name=name)
    if size is not None and image.size != size:
        raise EvalSetError(f"{name} is {image.size[0]} x {image.size[1]}, its picture {size[0]} x {size[1]}")
    return np.asarray(image.convert("L")) >= 128


def framed(image: "Image", mask: Mask | None, *, size_px: int) -> Frame:
    """Return image and mask in the square frame of an evaluation: shorter side to ``size_px``, then the centre.

    A picture of that size already is taken as it is, bit for bit. The picture is resized by Pillow's antialiased
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
