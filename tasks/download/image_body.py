"""Bytes from a stranger made into one clean picture: bounded before it is decoded, upright, RGB, cropped, encoded.

Only the formats in ``FORMATS`` are opened: Pillow knows many more, among them some that start other programs.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Resampling, Transpose
from pydantic import Field

from iedit_model.configuration import configuration
from tasks.download.errors import FetchError
from tasks.download.phash import perceptual_hash

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
"""What is decoded, in Pillow's names; a JPEG may turn out to be an ``MPO``, of which the first picture is taken."""

_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF's orientation -> what makes the picture upright."""
_TURNS_SIDEWAYS: Final = frozenset(_TURNS[number] for number in (5, 6, 7, 8))
_MOST_PIXELS: Final = 178_956_970
"""Pillow refuses more by itself."""
_FILTERS: Final = {"lanczos": Resampling.LANCZOS, "bicubic": Resampling.BICUBIC}
_WITH_ALPHA: Final = frozenset({"LA", "PA", "RGBA", "La", "RGBa"})
_WIDE_GREY: Final = ("I", "F")
# What Pillow's decoders raise on broken files, beside its own errors, as met by feeding them such files.
_BROKEN: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, zlib.error, UnidentifiedImageError),
)


@configuration
class ImageConfig:
    """What is stored of a picture; every field is part of the fingerprint."""

    size_px: Annotated[int, Field(ge=8, le=4096)] = 512
    """Shorter side of the stored picture, pixels; both sides with ``center_crop``."""
    resize_mode: Literal["center_crop", "keep_ratio"] = "center_crop"
    """Whether the longer side is cut to a square around the middle."""
    format: Literal["png", "jpg", "webp"] = "png"
    """Format of the stored picture, and the ending of its name."""
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """1 to 100 for jpg and lossy webp; None is lossless (png, webp)."""
    png_level: Annotated[int, Field(ge=0, le=9)] = 1
    """How hard png is packed, 0 to 9: size against time, the pixels are the same."""
    downscale: Literal["area", "lanczos", "bicubic"] = "area"
    """Filter for making a picture smaller; ``area`` is the mean over the area that a pixel covers."""
    upscale: Literal["lanczos", "bicubic"] = "lanczos"
    """Filter for making a picture larger."""
    min_side_px: Annotated[int, Field(ge=1, le=65_535)] = 64
    """Least side of an original, pixels."""
    max_pixels: Annotated[int, Field(ge=64, le=_MOST_PIXELS)] = 64_000_000
    """Most pixels of an original, checked before they are decoded."""
    max_aspect: Annotated[float, Field(ge=1)] | None = 4.0
    """Longer to shorter side of an original, at most; None takes any."""

    def __post_init__(self) -> None:
        if (self.format == "png") != (self.quality is None) and self.format != "webp":
            raise ValueError(f"quality is {self.quality} for {self.format}: jpg needs one, and png is always lossless")


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanImage:
    """A picture ready to be stored, and what its original was."""

    data: bytes
    """The encoded picture: RGB, no metadata."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    original_format: str
    """Lower case."""
    original_width: int
    """Pixels, as the picture is looked at (upright)."""
    original_height: int
    """Pixels, as the picture is looked at (upright)."""
    phash: int
    """``perceptual_hash`` of the stored pixels before they were encoded."""


def clean_image(data: bytes, config: ImageConfig) -> CleanImage:
    """Return the picture in ``data`` upright, on white where it is transparent, resized, cropped and encoded.

    Of an animation the first frame is taken. 16-bit channels keep their upper 8 bits; colour profiles are not applied.

    Raises:
        FetchError: ``not_an_image``, ``too_many_pixels``, ``too_small`` or ``bad_aspect``.
    """
    with _broken_files(), Image.open(io.BytesIO(data), formats=_formats()) as image:
        original_format = (image.format or "").lower()
        width, height = image.size
        _check_size(width, height, config)
        # A JPEG decodes straight to a half, a quarter or an eighth: at least twice what is asked for remains.
        image.draft("RGB", (2 * config.size_px, 2 * config.size_px))
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        plain = _eight_bit(image)
        picture = _on_white(_resized(plain if turn is None else plain.transpose(turn), config))
    if turn in _TURNS_SIDEWAYS:
        width, height = height, width
    return CleanImage(
        data=_encoded(picture, config),
        width=picture.width,
        height=picture.height,
        original_format="jpeg" if original_format == "mpo" else original_format,
        original_width=width,
        original_height=height,
        phash=perceptual_hash(picture),
    )


@cache
def _formats() -> tuple[str, ...]:
    # Asked for a format that this build of Pillow lacks, it would fail on every picture.
    Image.init()
    # It warns at half of the number that it refuses; our own limit is looked at before a pixel is decoded.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _broken_files() -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise FetchError("too_many_pixels", "a decompression bomb") from error
    except _BROKEN as error:
        raise FetchError("not_an_image", f"cannot be decoded: {type(error).__name__}") from error


def _check_size(width: int, height: int, config: ImageConfig) -> None:
    if width * height > config.max_pixels:
        raise FetchError("too_many_pixels", f"{width} x {height}, more than {config.max_pixels} pixels")
    if min(width, height) < config.min_side_px:
        raise FetchError("too_small", f"{width} x {height}, a side under {config.min_side_px} pixels")
    if config.max_aspect is not None and max(width, height) > config.max_aspect * min(width, height):
        raise FetchError("bad_aspect", f"{width} x {height}, sides over {config.max_aspect:g} to 1")


def _resized(image: Image.Image, config: ImageConfig) -> Image.Image:
    side = min(image.size)
    if config.resize_mode == "center_crop":
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image, size = image.crop((left, top, left + side, top + side)), (config.size_px, config.size_px)
    else:
        scale = config.size_px / side
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if image.size == size:
        return image
    name = config.downscale if side > config.size_px else config.upscale
    return _area_means(image, size) if name == "area" else image.resize(size, _FILTERS[name])


def _area_means(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Pillow's box filter takes whole pixels only: reduced by 1.5, its pixels are means of one and of two by turns.
    import cv2

    mode = "RGBa" if image.mode == "RGBA" else "RGB"  # colours weigh as much as they can be seen
    means = cv2.resize(np.asarray(image.convert(mode)), size, interpolation=cv2.INTER_AREA)
    return Image.frombytes(mode, size, means.tobytes()).convert(image.mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the picture as RGB or RGBA, which can be averaged; Pillow itself would clip wide greys."""
    if image.mode.startswith(_WIDE_GREY):
        # Pillow's "I" is what it makes of 16-bit files, so the numbers are the same.
        levels = np.clip(np.asarray(image, dtype=np.float64), 0, 65_535).astype(np.uint16)
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _encoded(picture: Image.Image, config: ImageConfig) -> bytes:
    # Pixels alone: Pillow would write comments, profiles and EXIF of the original along.
    bare = Image.frombytes("RGB", picture.size, picture.tobytes())
    stream = io.BytesIO()
    if config.format == "png":
        bare.save(stream, "PNG", compress_level=config.png_level)
    elif config.format == "jpg":
        bare.save(stream, "JPEG", quality=config.quality or 95)
    elif config.quality is None:
        bare.save(stream, "WEBP", lossless=True, quality=50)
    else:
        bare.save(stream, "WEBP", quality=config.quality)
    return stream.getvalue()
