"""Pictures as ``data:`` addresses, which can stand in any attribute of a page and load nothing from elsewhere."""

import base64
import io
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

SMALL_PX: Final = 128
"""Pictures up to this side are shown pixel by pixel."""
_QUALITY: Final = 82


def data_address(data: bytes, kind: Literal["png", "webp"]) -> str:
    """Return the bytes of a picture file as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def picture_address(picture: "Image") -> str:
    """Return a picture as an address of WebP: exactly where ``is_exact`` says so, else compressed."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", lossless=is_exact(picture), quality=_QUALITY)
    return data_address(stream.getvalue(), "webp")


def is_exact(picture: "Image") -> bool:
    """Return whether each pixel counts: of small pictures, and of overlays, whose outlines are thin."""
    return picture.mode == "RGBA" or max(picture.size) <= SMALL_PX
