"""Untrusted image bytes to RGB: bytes are counted before they are read, pixels before they are decoded.

What one image may cost is limited too: unless its bytes are our own, it is decoded in a process of its own first.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import PositiveInt

from iedit_model.configuration import configuration
from iedit_model.errors import IEditError, ImageFileError, ImageTooCostlyError, ImageTooLargeError
from iedit_model.imaging.decoder_process import run_limited

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
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SIDE: Final = 0x20
_TRANSPARENCY: Final = {0: (2,), 2: (6,), 3: range(1, 257)}
"""Colour type of a PNG -> lengths that its transparent colours may have."""
_MARKER: Final = 0xFF
_APP0: Final = 0xE0
_SEGMENTS: Final = (*range(0xC0, 0xD0), 0xDB, 0xDD, *range(_APP0, 0xFF))
_SHOWN_SEGMENTS: Final = {_APP0: (b"JFIF\0", 18), 0xE1: (b"Exif\0\0", 10), 0xEE: (b"Adobe", 16)}
"""Segments of a JPEG that say how its colours are coded and which side is up -> how they begin, and their length."""
_SCAN: Final = b"\xff\xda"
_MOST_SCANS: Final = 200
"""Scans of a JPEG; encoders write about ten, and each one takes a pass over all pixels."""
_SIXTEEN_BITS: Final = 65535
_OPAQUE: Final = 255


@configuration
class ImageLimits:
    """How large an untrusted image may be."""

    max_bytes: PositiveInt = 1 << 26
    """Bytes of the file."""
    max_pixels: PositiveInt = 1 << 26
    """Width times height; decoded and worked on, each pixel takes about 20 bytes."""


LIMITS: Final = ImageLimits()
"""The bound wherever no other is configured."""


def decode_image(
    data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS, trusted: bool = False
) -> "Image":
    """Return the image in ``data`` as ``to_rgb`` makes it.

    Raises:
        ImageTooCostlyError: decoding it takes too much time or memory.
        ImageTooLargeError: too many bytes or pixels.
        ImageFileError: damaged, or of no format or mode that is read.
    """
    with opened_image(data, limits=limits, formats=formats, trusted=trusted) as image:
        image.load()  # what is loaded outlives the file
        return to_rgb(image)


def left_behind(data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS) -> list[str]:
    """Return what ``decode_image`` cannot keep of an image, one line each: none for most.

    Raises:
        ImageFileError: as ``decode_image``.
    """
    notes = []
    with opened_image(data, limits=limits, formats=formats) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"the image has {frames} frames; only the first is used")
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < _OPAQUE:
            notes.append("the image has transparent parts; they are laid over white, and results have no transparency")
        if image.mode.startswith("I;16"):
            notes.append("the image has 16 bits a channel; results have 8")
    return notes


@contextmanager
def opened_image(
    data: bytes, *, limits: ImageLimits = LIMITS, formats: tuple[str, ...] = FORMATS, trusted: bool = False
) -> "Iterator[Image]":
    """Open an image whose pixels are not decoded yet; what Pillow raises inside the block is an ``ImageFileError``.

    Args:
        data: the file.
        limits: of its size.
        formats: Pillow's readers that may see it.
        trusted: whether the bytes are known to be our own; others are decoded in a limited process before.

    Raises:
        ImageTooCostlyError: decoding it takes too much time or memory.
        ImageTooLargeError: too many bytes or pixels.
        ImageFileError: damaged, or of no format that is read; Pillow's error is its cause.
    """
    from PIL import Image

    _silence_bomb_warnings()
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"the image has {len(data)} bytes, at most {limits.max_bytes} are read; shrink it")
    if data.count(_SCAN) > _MOST_SCANS and data.startswith(b"\xff\xd8"):
        raise ImageTooCostlyError(f"the image is a JPEG of more than {_MOST_SCANS} scans; save it anew as PNG")
    if not trusted:
        run_limited(decoded_once, {"max_pixels": limits.max_pixels, "formats": formats}, data)
    data = _without_side_chunks(data)
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


def decoded_once(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode an image only to find out what it costs; whoever asked meets its other faults again."""
    limits = ImageLimits(max_bytes=max(1, len(data)), max_pixels=header["max_pixels"])
    try:
        with opened_image(data, limits=limits, formats=tuple(header["formats"]), trusted=True) as image:
            to_rgb(image)
    except ImageFileError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
    return {}, b""


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


def orientation(image: "Image") -> int:
    """Return how an image has to be turned, as EXIF numbers it; 1, upright, where its EXIF cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except BROKEN:
        return 1


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
    }.get(orientation(image))
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


def _without_side_chunks(data: bytes) -> bytes:
    """Return a file without the parts that change no pixel of ours: as in browsers, no text decides over an image."""
    if data.startswith(_PNG):
        return b"".join(_shown_chunks(data))
    return b"".join(_shown_segments(data)) if data.startswith(b"\xff\xd8\xff") else data


def _shown_chunks(data: bytes) -> "Iterator[memoryview]":
    view, position = memoryview(data), len(_PNG)
    yield view[:position]
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        is_whole = end <= len(data) and zlib.crc32(view[position + 4 : end - 4]) == int.from_bytes(view[end - 4 : end])
        fits = kind == b"eXIf" or (kind == b"tRNS" and length in _TRANSPARENCY.get(data[25], ()))
        if not kind[0] & _SIDE or (is_whole and fits):
            yield view[position:end]
        position = end


def _shown_segments(data: bytes) -> "Iterator[memoryview]":
    view, position = memoryview(data), 2
    yield view[:position]
    while position + 4 <= len(data) and data[position] == _MARKER and data[position + 1] in _SEGMENTS:
        kind, end = data[position + 1], position + 2 + int.from_bytes(view[position + 2 : position + 4])
        start, least = _SHOWN_SEGMENTS.get(kind, (b"", 0))
        is_side = kind >= _APP0  # application data and comments
        if not is_side or (start and data.startswith(start, position + 4) and end - position >= least):
            yield view[position:end]
        position = end
    yield view[position:]


@cache
def _silence_bomb_warnings() -> None:
    from PIL import Image

    # Pillow warns at half of the number that it refuses; our own limit is checked before a pixel is decoded.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _in_one_line(error: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its text names an object of Python's, and nothing else
        return "of no known format"
    return f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
