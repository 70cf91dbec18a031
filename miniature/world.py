"""The picture world: scenes of one or two coloured things on a coloured ground, each a pure function of (seed, index).

A scene knows its truth: objects, colours, ground, masks and captions in several wordings (``miniature.alt_text`` makes
an alt text as noisy as the web's of it). Places and sizes come from a few layouts with a little jitter, as on product
pictures, so that a pool of ten thousand scenes holds well-aligned partners for most edits.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from miniature.sprites import coloured_sprite
from miniature.vocabulary import BACKGROUND_STYLES, BACKGROUNDS, combinations, with_article

SIZE_PX = 64
"""Side of a scene, pixels."""

Share = Literal["seen", "held_out", "all"]

# centre x, centre y, square root of the sprite's box area; all in pixels of the 64 x 64 frame
LAYOUTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "large": ((32, 32, 44),),
    "medium": ((32, 33, 34),),
    "left": ((23, 34, 33),),
    "right": ((41, 34, 33),),
    "two": ((17, 33, 26), (47, 33, 26)),
}
_SINGLE_LAYOUTS = ("large", "medium", "left", "right")
_SINGLE_WEIGHTS = np.cumsum((0.4, 0.2, 0.2, 0.2))
_STYLE_WEIGHTS = np.cumsum((0.5, 0.3, 0.2))
TWO_OBJECT_SHARE = 0.2
"""Share of scenes with two objects."""
_LONGEST_PX = 58
_MARGIN_PX = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One coloured thing: what it is and the box its sprite fills, pixels."""

    noun: str
    colour: str
    left: int
    top: int
    width: int
    height: int

    @property
    def phrase(self) -> str:
        """The thing in words, without an article: "red bus"."""
        return f"{self.colour} {self.noun}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The full truth of one picture; ``render`` draws it, ``masks`` cuts its objects out."""

    objects: tuple[SceneObject, ...]
    background: str
    style: str
    layout: str
    texture_seed: int

    @property
    def caption(self) -> str:
        """The plain caption: "a red bus on a white background"."""
        things = " and ".join(with_article(thing.phrase) for thing in self.objects)
        return f"{things} on a {self.background} background"

    def captions(self) -> tuple[str, ...]:
        """Return the caption in several wordings, from full to bare; the first is ``caption``."""
        things = " and ".join(with_article(thing.phrase) for thing in self.objects)
        bare = " and ".join(thing.phrase for thing in self.objects)
        nouns = " and ".join(with_article(thing.noun) for thing in self.objects)
        return (
            self.caption,
            f"a picture of {things} on a {self.background} background",
            f"{bare} on {self.background} background",
            f"{nouns} on a {self.background} background",
            things,
            bare,
        )

    def render(self) -> Image.Image:
        """Draw the scene: RGB, 64 x 64."""
        canvas = _draw_background(self.background, self.style, self.texture_seed).convert("RGBA").convert("RGBa")
        for thing in self.objects:
            sprite = _placed_sprite(thing)
            canvas.paste(_over(canvas, sprite, thing), (thing.left, thing.top))
        return canvas.convert("RGBA").convert("RGB")

    def masks(self) -> np.ndarray:
        """Return one mask an object, bool (objects, 64, 64): where its sprite covers at least half a pixel."""
        out = np.zeros((len(self.objects), SIZE_PX, SIZE_PX), bool)
        for mask, thing in zip(out, self.objects, strict=True):
            alpha = np.asarray(_placed_sprite(thing).getchannel("a"))
            mask[thing.top : thing.top + thing.height, thing.left : thing.left + thing.width] = alpha >= 128
        return out


def _placed_sprite(thing: SceneObject) -> Image.Image:
    sprite = coloured_sprite(thing.noun, thing.colour)
    return sprite.resize((thing.width, thing.height), Image.Resampling.BOX, reducing_gap=2.0)


def _over(canvas: Image.Image, sprite: Image.Image, thing: SceneObject) -> Image.Image:
    box = (thing.left, thing.top, thing.left + thing.width, thing.top + thing.height)
    ground = np.asarray(canvas.crop(box), np.uint16)
    top = np.asarray(sprite, np.uint16)
    mixed = top + (ground * (255 - top[..., 3:]) + 127) // 255
    return Image.fromarray(np.minimum(mixed, 255).astype(np.uint8), "RGBa")


def _draw_background(name: str, style: str, seed: int) -> Image.Image:
    tone = np.array(BACKGROUNDS[name], np.float32)
    if style == "plain":
        return Image.new("RGB", (SIZE_PX, SIZE_PX), BACKGROUNDS[name])
    rng = np.random.default_rng(seed)
    if style == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.linspace(-1, 1, SIZE_PX, dtype=np.float32)
        field = (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]) * 0.08
    else:
        coarse = rng.normal(0, 1, (8, 8)).astype(np.float32)
        field = np.asarray(Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)) * 0.045
    return Image.fromarray(np.clip(tone * (1 + field[..., None]), 0, 255).astype(np.uint8), "RGB")


def place(noun: str, colour: str, spot: tuple[float, float, float], jitter: np.ndarray) -> SceneObject:
    """Put a thing at a layout's spot.

    Args:
        noun: word of the vocabulary.
        colour: colour word of the vocabulary.
        spot: centre x, centre y and size (square root of the box's area), pixels.
        jitter: three numbers in [-1, 1]: shift in x, shift in y (one pixel each at most) and size (4 %).
    """
    sprite = coloured_sprite(noun, colour)
    x, y, size = spot
    scale = size * (1 + 0.04 * jitter[2]) / np.sqrt(sprite.width * sprite.height)
    room = min(_LONGEST_PX, 2 * min(x, SIZE_PX - x) - _MARGIN_PX)
    scale = min(scale, room / sprite.width, _LONGEST_PX / sprite.height)
    width, height = max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale))
    left = int(np.clip(round(x + jitter[0] - width / 2), 0, SIZE_PX - width))
    top = int(np.clip(round(y + jitter[1] - height / 2), 0, SIZE_PX - height))
    return SceneObject(noun=noun, colour=colour, left=left, top=top, width=width, height=height)


class World:
    """An endless, seeded sequence of scenes: ``World(seed).scene(index)`` is a pure function."""

    def __init__(self, seed: int, *, share: Share = "seen", two_object_share: float = TWO_OBJECT_SHARE) -> None:
        """Choose the sequence.

        Args:
            seed: which sequence, 0 or more.
            share: which noun-colour combinations may appear.
            two_object_share: probability of a scene with two objects.
        """
        pools = {"seen": (False,), "held_out": (True,), "all": (False, True)}[share]
        self.seed = seed
        self.two_object_share = two_object_share
        self._pool = tuple(combination for held_out in pools for combination in combinations(held_out=held_out))

    def scene(self, index: int) -> Scene:
        """Return scene number ``index`` (0 or more)."""
        rng = np.random.default_rng((self.seed, index))
        draw = rng.random(5)
        two = draw[0] < self.two_object_share
        layout = "two" if two else _SINGLE_LAYOUTS[int(np.searchsorted(_SINGLE_WEIGHTS, draw[1]))]
        spots = LAYOUTS[layout]
        jitter = rng.uniform(-1, 1, (len(spots), 3))
        chosen: list[tuple[str, str]] = []
        while len(chosen) < len(spots):
            noun, colour = self._pool[int(rng.integers(len(self._pool)))]
            if all(noun != other for other, _ in chosen):
                chosen.append((noun, colour))
        return Scene(
            objects=tuple(place(*c, spot, j) for c, spot, j in zip(chosen, spots, jitter, strict=True)),
            background=tuple(BACKGROUNDS)[int(draw[2] * len(BACKGROUNDS))],
            style=BACKGROUND_STYLES[int(np.searchsorted(_STYLE_WEIGHTS, draw[3]))],
            layout=layout,
            texture_seed=int(draw[4] * 2**31),
        )


def repaint(scene: Scene, position: int, *, noun: str | None = None, colour: str | None = None) -> Scene:
    """Return the same scene with one object's noun or colour changed; its centre and area stay.

    Args:
        scene: the scene to change.
        position: which object, 0 or 1.
        noun: the new noun, or None to keep it.
        colour: the new colour, or None to keep it.
    """
    old = scene.objects[position]
    noun, colour = noun or old.noun, colour or old.colour
    if noun == old.noun:
        new = replace(old, colour=colour)
    else:
        spot = LAYOUTS[scene.layout][position]
        centre = (old.left + old.width / 2, old.top + old.height / 2)
        jitter = np.array([centre[0] - spot[0], centre[1] - spot[1], 0.0])
        new = place(noun, colour, spot, jitter)
    objects = (*scene.objects[:position], new, *scene.objects[position + 1 :])
    return replace(scene, objects=objects)
