"""Untrusted image bytes to RGB: bytes are counted before they are read, pixels before they are decoded."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.errors import IEditError, ImageFileError, ImageTooLargeError

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION: Final = 1
"""Raised by hand when the same bytes come to give other pixels; part of the code version of an evaluation."""
FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")
"""Pillow's readers that may see a file, the common ones first; some of its others start programs. Of several frames the
first counts."""
WEB_FORMATS: Final = tuple(name for name in FORMATS if name != "TIFF")
"""What is taken from the web; TIFF, the widest of these readers, only sees files that users name."""
STORED_FORMATS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "AVIF": "avif"}
"""What datasets and evaluation sets hold -> extension of the file name."""

BROKEN: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, zlib.error),
)
"""What Pillow's decoders raise on damaged files, as met by feeding them such files."""

ORIENTATION: Final = 0x0112
"""EXIF's tag for how an image has to be turned."""
_SIXTEEN_BITS: Final = 65535


@configuration
class ImageLimits:
    """How large an untrusted image may be."""

    max_bytes: PositiveInt = 1 << 26
    """Bytes of the file."""
    max_pixels: PositiveInt = 1 << 26
    """Width times height; decoded and worked on, each pixel takes about 20 bytes."""


LIMITS: Final = ImageLimits()
"""The bound wherever no other is configured."""


def decode_image(data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS) -> "Image":
    """Return the image in ``data`` as ``to_rgb`` makes it.

    Raises:
        ImageTooLargeError: too many bytes or pixels.
        ImageFileError: damaged, or of no format or mode that is read.
    """
    with opened_image(data, limits=limits, formats=formats) as image:
        image.load()  # what is loaded outlives the file
        return to_rgb(image)


@contextmanager
def opened_image(data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS) -> "Iterator[Image]":
    """Open an image whose pixels are not decoded yet; what Pillow raises inside the block is an ``ImageFileError``.

    Raises:
        ImageTooLargeError: too many bytes or pixels.
        ImageFileError: damaged, or of no format that is read; Pillow's error is its cause.
    """
    from PIL import Image

    _silence_bomb_warnings()
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"the image has {len(data)} bytes, at most {limits.max_bytes} are read; shrink it")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > limits.max_pixels:
                raise ImageTooLargeError(
                    f"the image has {image.width} x {image.height} pixels, at most {limits.max_pixels} are decoded; "
                    "shrink it"
                )
            yield image
    except IEditError:  # ours, some of which are ValueErrors
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has more than {limits.max_pixels} pixels; shrink it") from error
    except BROKEN as error:
        raise ImageFileError(
            f"this is no whole image of the formats {', '.join(formats)} ({_in_one_line(error)}); save it anew as PNG"
        ) from error


def to_rgb(image: "Image") -> "Image":
    """Return an image of any mode as RGB, upright by its EXIF orientation; transparent parts show white.

    Palettes, CMYK, YCbCr, Lab, 1 bit and 16 bit are converted; colour profiles are not applied.

    Raises:
        ImageFileError: its mode cannot be shown, or its pixels are damaged.
    """
    try:
        return on_white(eight_bits(upright(image)))
    except IEditError:  # ours, some of which are ValueErrors
        raise
    except BROKEN as error:
        raise ImageFileError(
            f"the image's pixels cannot be used ({_in_one_line(error)}); save it anew as PNG"
        ) from error


def upright(image: "Image") -> "Image":
    """Return an image turned and mirrored as its EXIF orientation says."""
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(image.getexif().get(ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def on_white(image: "Image") -> "Image":
    """Return an 8-bit image as RGB, laid over white where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def eight_bits(image: "Image") -> "Image":
    """Return 16-bit greys scaled to 8 bits, which Pillow would clip at 255; other modes unchanged.

    Raises:
        ImageFileError: floating-point pixels, or greys outside [0, 65535].
    """
    from PIL import Image

    if image.mode == "F":
        raise ImageFileError("the image's pixels are floating-point numbers of unknown range; save it as 8 or 16 bit")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise ImageFileError(f"the image's greys span {values.min()} to {values.max()}, expected 0 to 65535 at most")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


@cache
def _silence_bomb_warnings() -> None:
    from PIL import Image

    # Pillow warns at half of the number that it refuses; our own limit is checked before a pixel is decoded.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
