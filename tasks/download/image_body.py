"""Untrusted image bytes made into one clean image: bounded before it is decoded, upright, RGB, cropped, encoded.

``perceptual_hash`` gives 64 bits of which near-duplicates differ in few, a colour difference hash. The image is
reduced, in YCbCr, by averaging; a bit says whether a cell's right (or lower) neighbour is brighter by more than 2 of
255 levels:

- bits 63-48: luma, 4 rows of 5 cells, left to right; bits 47-32: luma, 5 rows of 4 cells, downwards;
- bits 31-16: Cb, and bits 15-0: Cr, 4 rows of 5 cells each, left to right.

The common difference hash sees brightness only: a red bus and a blue one of the same brightness, which are exactly the
pairs that editing looks for, would be duplicates. The margin keeps the noise of re-encoding out of flat backgrounds.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from pydantic import Field

from iedit_model.configuration import as_values, configuration, from_values
from iedit_model.errors import ImageFileError, ImageTooCostlyError, ImageTooLargeError
from iedit_model.imaging.decode import WEB_FORMATS, ImageLimits, on_white, opened_image, orientation, upright
from iedit_model.imaging.decoder_process import run_limited
from iedit_model.imaging.encode import encode_image
from tasks.download.errors import FetchError

_SIDEWAYS: Final = range(5, 9)
"""EXIF orientations that swap width and height."""
_MOST_PIXELS: Final = 178_956_970
"""Pillow refuses more by itself."""
_FILTERS: Final = {"lanczos": Resampling.LANCZOS, "bicubic": Resampling.BICUBIC}
_WITH_ALPHA: Final = frozenset({"LA", "PA", "RGBA", "La", "RGBa"})
_WIDE_GREY: Final = ("I", "F")
_CELLS: Final = 4
"""Differences in a row and in a column of the perceptual hash."""
_MARGIN: Final = 2
"""Levels that a neighbour must be brighter by."""


@configuration
class ImageConfig:
    """What is stored of an image; every field is part of the fingerprint."""

    size_px: Annotated[int, Field(ge=8, le=4096)] = 512
    """Shorter side of the stored image, pixels; both sides with ``center_crop``."""
    resize_mode: Literal["center_crop", "keep_ratio"] = "center_crop"
    """Whether the longer side is cut to a square around the middle."""
    format: Literal["png", "jpg", "webp"] = "png"
    """Format of the stored image, and the ending of its name."""
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """1 to 100 for jpg and lossy webp; None is lossless (png, webp)."""
    png_level: Annotated[int, Field(ge=0, le=9)] = 1
    """How hard png is packed, 0 to 9: size against time, the pixels are the same."""
    downscale: Literal["area", "lanczos", "bicubic"] = "area"
    """Filter for making an image smaller; ``area`` is the mean over the area that a pixel covers."""
    upscale: Literal["lanczos", "bicubic"] = "lanczos"
    """Filter for making an image larger."""
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
    """An image ready to be stored, and what its original was."""

    data: bytes
    """The encoded image: RGB, no metadata."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    original_format: str
    """Lower case."""
    original_width: int
    """Pixels, as the image is looked at (upright)."""
    original_height: int
    """Pixels, as the image is looked at (upright)."""
    phash: int
    """``perceptual_hash`` of the stored pixels before they were encoded."""


def clean_image(data: bytes, config: ImageConfig) -> CleanImage:
    """Return the image in ``data`` upright, on white where it is transparent, resized, cropped and encoded.

    Of an animation the first frame is taken. 16-bit channels keep their upper 8 bits; colour profiles are not applied.
    The work is done by a process with limits on time and memory.

    Raises:
        FetchError: ``not_an_image``, ``too_many_pixels``, ``too_costly``, ``too_small`` or ``bad_aspect``.
        ImageDecoderError: that process cannot be had.
    """
    try:
        answer, stored = run_limited(cleaned, as_values(config), data)
    except ImageTooCostlyError as error:
        raise FetchError("too_costly", str(error)) from error
    if "error" in answer:
        raise FetchError.from_text(answer["error"])
    return CleanImage(data=stored, **answer)


def cleaned(values: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Do the work of ``clean_image`` in the limited process."""
    try:
        image = _clean(data, from_values(ImageConfig, values))
    except FetchError as error:
        return {"error": str(error)}, b""
    except (ImportError, MemoryError):  # of this machine
        raise
    except Exception as error:  # noqa: BLE001 - whatever else hostile bytes make a decoder raise is their fault
        return {"error": f"not_an_image: cannot be decoded: {type(error).__name__}"}, b""
    answer = {entry.name: getattr(image, entry.name) for entry in fields(image) if entry.name != "data"}
    return answer, image.data


def _clean(data: bytes, config: ImageConfig) -> CleanImage:
    limits = ImageLimits(max_bytes=max(1, len(data)), max_pixels=config.max_pixels)  # the client counted the bytes
    try:
        with opened_image(data, limits=limits, formats=WEB_FORMATS, trusted=True) as image:
            original_format = (image.format or "").lower()
            width, height = image.size
            _check_shape(width, height, config)
            # A JPEG decodes straight to a half, a quarter or an eighth: at least twice the wanted size remains.
            image.draft("RGB", (2 * config.size_px, 2 * config.size_px))
            image.load()
            is_sideways = orientation(image) in _SIDEWAYS
            stored = on_white(_resized(_eight_bit(upright(image)), config))
    except ImageTooLargeError as error:
        raise FetchError("too_many_pixels", str(error)) from error
    except ImageTooCostlyError as error:
        raise FetchError("too_costly", str(error)) from error
    except ImageFileError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
        raise FetchError("not_an_image", f"cannot be decoded: {type(error.__cause__).__name__}") from error
    if is_sideways:
        width, height = height, width
    return CleanImage(
        data=encode_image(stored, config.format, quality=config.quality, png_level=config.png_level),
        width=stored.width,
        height=stored.height,
        original_format="jpeg" if original_format == "mpo" else original_format,
        original_width=width,
        original_height=height,
        phash=perceptual_hash(stored),
    )


def perceptual_hash(image: Image.Image) -> int:
    """Return the hash of an RGB image, as a signed number of 64 bits: the two's complement of its bits."""
    luma, blue, red = image.convert("YCbCr").split()
    wide, tall = (_CELLS + 1, _CELLS), (_CELLS, _CELLS + 1)
    differences = (
        *(_cells(luma, wide)[:, 1:] - _cells(luma, wide)[:, :-1]).flat,
        *(_cells(luma, tall)[1:] - _cells(luma, tall)[:-1]).flat,
        *(_cells(blue, wide)[:, 1:] - _cells(blue, wide)[:, :-1]).flat,
        *(_cells(red, wide)[:, 1:] - _cells(red, wide)[:, :-1]).flat,
    )
    bits = 0
    for difference in differences:
        bits = bits << 1 | int(difference > _MARGIN)
    return bits - 2**64 if bits >> 63 else bits


def _check_shape(width: int, height: int, config: ImageConfig) -> None:
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
    # Pillow's box filter takes whole pixels only: reduced by 1.5, its pixels are means of one and of two, alternating.
    import cv2

    mode = "RGBa" if image.mode == "RGBA" else "RGB"  # colours weigh as much as they can be seen
    means = cv2.resize(np.asarray(image.convert(mode)), size, interpolation=cv2.INTER_AREA)
    return Image.frombytes(mode, size, means.tobytes()).convert(image.mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the image as RGB or RGBA, which can be averaged; Pillow itself would clip wide greys."""
    if image.mode.startswith(_WIDE_GREY):
        # Pillow's "I" is what it makes of 16-bit files, so the numbers are the same.
        levels = np.clip(np.asarray(image), 0, 65_535).astype(np.uint16)
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _cells(channel: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(channel.resize(size, Resampling.BOX), dtype=np.int16)
