"""Pictures from outside to RGB: any size and mode, everything hostile until it is checked.

The bytes are counted before anything is read and the pixels before anything is decoded.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iedit_model.editing.editor import Mask
from iedit_model.errors import ConfigError, MaskError, PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's readers that are let at a file; of several frames the first counts."""

_BROKEN: Final = (OSError, ValueError, TypeError, SyntaxError, LookupError, EOFError, OverflowError, ArithmeticError)
"""What Pillow's readers raise on damaged files."""
_SIXTEEN_BITS: Final = 65535
_ASPECT_SLACK: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """How large a picture from outside may be."""

    max_bytes: int = 64 * 1024 * 1024
    """Bytes of the file."""
    max_pixels: int = 50_000_000
    """Width times height; decoded and worked on, each pixel takes about 20 bytes."""

    def __post_init__(self) -> None:
        """Check both fields.

        Raises:
            ConfigError: a limit below 1.
        """
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ConfigError(f"a picture may have {self.max_bytes} bytes and {self.max_pixels} pixels: expected >= 1")


def read_picture(data: bytes, *, limits: PictureLimits | None = None) -> "Image":
    """Return the picture in ``data`` as RGB, turned the way its EXIF data says; transparent parts show white.

    Palettes, CMYK, YCbCr, Lab, 1 bit and 16 bit are converted; colour profiles are not applied.

    Raises:
        PictureError: damaged, too large, or of no format or mode that is read.
    """
    return to_rgb(_opened(data, limits or PictureLimits()))


def to_rgb(picture: "Image") -> "Image":
    """Return a picture of any mode as RGB, turned the way its EXIF data says; transparent parts show white.

    Raises:
        PictureError: its mode cannot be shown, or its pixels are damaged.
    """
    from PIL import Image, ImageOps

    picture = _eight_bits(picture)
    try:
        picture = ImageOps.exif_transpose(picture)
        if not picture.has_transparency_data:
            return picture.convert("RGB")
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    except (*_BROKEN, MemoryError) as error:
        raise PictureError(f"the picture's pixels cannot be used ({_said(error)}); save it anew as PNG") from error


def read_mask(data: bytes, *, size: tuple[int, int], limits: PictureLimits | None = None) -> Mask:
    """Return a mask picture as float32 (height, width) in [0, 1]: white = edit here, greys lie between.

    Args:
        data: a picture; colours count by their lightness.
        size: width and height of the image it belongs to. A mask of the same shape but another size is scaled.
        limits: as for pictures.

    Raises:
        PictureError: no picture that can be read.
        MaskError: of another shape than the image, or black all over.
    """
    from PIL import Image

    grey = read_picture(data, limits=limits).convert("L")
    if abs(grey.width * size[1] / (grey.height * size[0]) - 1) > _ASPECT_SLACK and grey.size != size:
        raise MaskError(
            f"the mask has {grey.width} x {grey.height} pixels and the image {size[0]} x {size[1]}: their "
            "shapes differ; draw the mask on the image"
        )
    if grey.size != size:
        # A blur from a finer filter would make soft borders that nobody drew.
        grey = grey.resize(size, Image.Resampling.NEAREST)
    mask = np.asarray(grey, np.float32) / np.float32(255)
    if not mask.any():
        raise MaskError("the mask is black all over, so nothing would be edited: white is where to edit")
    return mask


def png_bytes(picture: "Image") -> bytes:
    """Return a picture as PNG without any metadata; the same pixels give the same bytes."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()


def _opened(data: bytes, limits: PictureLimits) -> "Image":
    from PIL import Image

    if len(data) > limits.max_bytes:
        raise PictureError(f"the picture has {len(data)} bytes, at most {limits.max_bytes} are read; make it smaller")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height <= limits.max_pixels:
            picture.load()
            return picture
    except (*_BROKEN, MemoryError, Image.DecompressionBombError) as error:
        raise PictureError(
            f"this is no whole picture of the kinds {', '.join(FORMATS)} ({_said(error)}); save it anew as PNG"
        ) from error
    raise PictureError(
        f"the picture has {picture.width} x {picture.height} pixels, at most {limits.max_pixels} are decoded; make it "
        "smaller"
    )


def _eight_bits(picture: "Image") -> "Image":
    """Return 16-bit greys scaled to 8 bits, which Pillow would cut off at 255; other modes unchanged."""
    from PIL import Image

    if picture.mode == "F":
        raise PictureError("the picture's pixels are floating-point numbers of unknown range; save it as 8 or 16 bit")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise PictureError(f"the picture's greys span {values.min()} to {values.max()}, expected 0 to 65535 at most")
    grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    grey.info["exif"] = picture.getexif().tobytes()
    return grey


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
