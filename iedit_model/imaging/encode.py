"""Images to bytes and to ``data:`` URLs; the same pixels give the same bytes under one Pillow."""

import base64
import io
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Encoding = Literal["png", "jpg", "webp"]

SMALL_PX: Final = 128
"""Images up to this side are shown pixel by pixel."""
_URL_QUALITY: Final = 82


def encode_image(
    image: "Image", encoding: Encoding = "png", *, quality: int | None = None, png_level: int = 6
) -> bytes:
    """Return an L, RGB or RGBA image as a file without any metadata.

    Args:
        image: the pixels.
        encoding: the format.
        quality: 1 to 100 for jpg and lossy webp; None is 95 for jpg and lossless for webp.
        png_level: compression of png, 0 to 9.
    """
    from PIL import Image

    # Pixels alone: Pillow would write comments, profiles and EXIF of the original along.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    stream = io.BytesIO()
    if encoding == "png":
        bare.save(stream, "PNG", compress_level=png_level)
    elif encoding == "jpg":
        bare.save(stream, "JPEG", quality=quality or 95)
    elif quality is None:
        bare.save(stream, "WEBP", lossless=True, quality=50)
    else:
        bare.save(stream, "WEBP", quality=quality)
    return stream.getvalue()


def data_url(data: bytes, kind: Literal["png", "webp"]) -> str:
    """Return the bytes of an image file as a URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_url(image: "Image", *, thumb_px: int | None = None) -> str:
    """Return an image as a URL of WebP.

    Small images and overlays (RGBA), whose outlines are thin, keep each pixel; others are compressed.

    Args:
        image: RGB or RGBA.
        thumb_px: longest side of those that are compressed; None keeps the size.
    """
    is_exact = image.mode == "RGBA" or max(image.size) <= SMALL_PX
    if thumb_px is not None and not is_exact:
        image = image.copy()
        image.thumbnail((thumb_px, thumb_px))
    return data_url(encode_image(image, "webp", quality=None if is_exact else _URL_QUALITY), "webp")
