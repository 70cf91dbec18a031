"""Picture files of the web site: a scene at some size, shape and format, as bytes that a seed reproduces.

The scene fills the central square and its ground goes on to the sides, so a centre crop shows the whole scene.
"""

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from miniature.world import SIZE_PX, Scene

PictureFormat = Literal["jpeg", "png", "webp"]

CONTENT_TYPES: dict[PictureFormat, str] = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
SUFFIXES: dict[PictureFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

SIDES_PX = (64, 96, 128, 160, 192, 200, 224, 256, 300, 320, 384, 512)
"""Sides of the central square, pixels; multiples of the scene's 64 are enlarged without any blur."""
SMALL_SIDES_PX = (16, 24, 32, 40, 48)
"""Sides of the pictures that are too small to be of use."""
ASPECTS = ((1, 1), (1, 1), (1, 1), (4, 3), (3, 2), (16, 9), (3, 4), (2, 3))
"""Width to height; squares come most often."""
_FORMATS: tuple[PictureFormat, ...] = ("jpeg", "jpeg", "jpeg", "png", "webp")
_CACHED_FILES = 1_024
# Enlarged as blocks, a scene survives a later reduction to 64 pixels best; in between blocks would be too uneven.
_BLOCKY_FROM_PX = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """How a scene is stored as a file."""

    format: PictureFormat
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    quality: int
    """Of JPEG and WebP, 0-100; a PNG loses nothing."""
    has_alpha: bool
    """Whether a PNG carries a fully opaque alpha channel."""

    @property
    def content_type(self) -> str:
        """The media type that a server sends."""
        return CONTENT_TYPES[self.format]

    @property
    def suffix(self) -> str:
        """The ending of the file's name, with its dot."""
        return SUFFIXES[self.format]


def draw_picture(rng: np.random.Generator, *, small: bool = False) -> Picture:
    """Draw a format, size and shape.

    Args:
        rng: decides.
        small: choose the side among those that are too small to be of use.
    """
    picture_format = _FORMATS[int(rng.integers(len(_FORMATS)))]
    sides = SMALL_SIDES_PX if small else SIDES_PX
    side = sides[int(rng.integers(len(sides)))]
    across, down = ASPECTS[int(rng.integers(len(ASPECTS)))]
    quality = int(rng.integers(82, 97))
    has_alpha = picture_format == "png" and bool(rng.random() < 0.25)
    return Picture(
        format=picture_format,
        width=side + _even(side * (across - down) / down) if across > down else side,
        height=side + _even(side * (down - across) / across) if down > across else side,
        quality=quality,
        has_alpha=has_alpha,
    )


def near_copy_of(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return how somebody else stored the same picture: in another format, and 1 to 6 % larger or smaller.

    No side falls under the scene's 64 pixels.
    """
    scale = 1 + rng.uniform(0.01, 0.06) * (1 if rng.random() < 0.5 else -1)
    if min(picture.width, picture.height) * scale < SIZE_PX:
        scale = 2 - scale
    others = tuple(name for name in CONTENT_TYPES if name != picture.format)
    return replace(
        picture,
        format=others[int(rng.integers(len(others)))],
        width=round(picture.width * scale),
        height=round(picture.height * scale),
        quality=int(rng.integers(70, 90)),
        has_alpha=False,
    )


@lru_cache(maxsize=_CACHED_FILES)
def picture_bytes(scene: Scene, picture: Picture) -> bytes:
    """Return the file of ``scene`` stored as ``picture`` says; the last thousand files are kept."""
    image = paint(scene, width=picture.width, height=picture.height)
    if picture.has_alpha:
        image = image.convert("RGBA")
    stream = io.BytesIO()
    match picture.format:
        case "jpeg":
            image.save(stream, "JPEG", quality=picture.quality, subsampling=0)
        case "png":
            image.save(stream, "PNG", compress_level=1)
        case "webp":
            image.save(stream, "WEBP", quality=picture.quality, method=2)
    return stream.getvalue()


def paint(scene: Scene, *, width: int, height: int) -> Image.Image:
    """Draw ``scene`` over the central square of a larger ground.

    Args:
        scene: what to draw.
        width: pixels, at most three times ``height``.
        height: pixels, at most three times ``width``.

    Returns:
        RGB, ``width`` x ``height``.
    """
    side = min(width, height)
    centre = _enlarge(scene.render(), side)
    if width == height:
        return centre
    left, top = (width - side) // 2, (height - side) // 2
    margins = ((top, height - side - top), (left, width - side - left), (0, 0))
    # The empty ground is mirrored outwards: its shades go on without a seam and no object is smeared.
    ground = _enlarge(replace(scene, objects=()).render(), side)
    canvas = Image.fromarray(np.pad(np.asarray(ground), margins, mode="symmetric"), "RGB")
    canvas.paste(centre, (left, top))
    return canvas


def _enlarge(image: Image.Image, side: int) -> Image.Image:
    if side < _BLOCKY_FROM_PX and side % SIZE_PX:
        return image.resize((side, side), Image.Resampling.LANCZOS)
    whole = -(-side // SIZE_PX) * SIZE_PX
    blocky = image.resize((whole, whole), Image.Resampling.NEAREST)
    return blocky if side == whole else blocky.resize((side, side), Image.Resampling.BOX)


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)
