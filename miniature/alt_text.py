"""Alt texts as noisy as the web's: a pure function of a scene and a random generator.

Most name what is in the picture, wrapped in a shop's prices and numbers; some are a file name, another language, next
to nothing, very long, or about something else altogether.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from miniature.translations import FOREIGN_COLOURS, FOREIGN_LANGUAGES, FOREIGN_NOUNS
from miniature.world import Scene

AltKind = Literal[
    "plain", "shop", "catalogue", "shouting", "social", "markup", "long", "file_name", "empty", "unrelated", "foreign"
]

ALT_KIND_SHARES: dict[AltKind, float] = {
    "plain": 0.30,
    "shop": 0.22,
    "catalogue": 0.14,
    "shouting": 0.07,
    "social": 0.07,
    "markup": 0.04,
    "long": 0.04,
    "file_name": 0.03,
    "empty": 0.03,
    "unrelated": 0.06,
}
"""Probability of each kind when none is asked for; ``foreign`` comes only when asked for."""

MOST_CHARACTERS = 2_000
"""No alt text is longer than this many characters."""

_DOES_NOT_NAME = frozenset(("empty", "unrelated"))
_SHOPS = ("shop", "Toyland", "BestDeals24", "eMarket", "The Little Store", "PrintHub", "GiftCorner")
_GOODS = ("toy", "sticker", "poster", "figurine", "mug", "cushion", "wall decal", "keyring")
_PITCHES = ("free shipping", "-50% OFF", "SALE", "new arrivals", "in stock", "best price", "limited edition")
_UNRELATED = (
    "Welcome to our homepage",
    "Click here to enlarge",
    "Sign up for our newsletter and get 10% off",
    "Image may contain: 1 person, smiling, outdoor",
    "Photo by John D. on 12/03/2014",
    "Terms and conditions apply",
    "Quarterly results 2019 - investor relations",
    "related products",
)
_EMPTY = ("", " ", "image", "img", "...", "-", "untitled", "\n")
_FOREIGN_PATTERNS: dict[str, tuple[str, ...]] = {
    "de": ("{noun} {colour} günstig kaufen | Versandkostenfrei", "{noun}, {colour} - ab {price} EUR bei {shop}"),
    "es": ("Comprar {noun} {colour} barato | envío gratis", "{noun} {colour} - desde {price} EUR en {shop}"),
    "fr": (
        "Acheter {noun} {colour} pas cher - livraison gratuite",
        "{noun} {colour}, à partir de {price} EUR | {shop}",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AltText:
    """An alt text and its truth."""

    text: str
    """What the page says about the picture; may be empty or blank."""
    kind: AltKind
    """How the text came about."""
    language: str
    """ISO 639-1 code."""
    names_scene: bool
    """Whether the text names the scene's first object at all, in whatever language or spelling."""


def alt_text(scene: Scene, rng: np.random.Generator, *, kind: AltKind | None = None) -> AltText:
    """Draw an alt text for ``scene``.

    Args:
        scene: what the picture shows.
        rng: decides the wording, and the kind unless it is given.
        kind: the kind of text, or None to draw one with the probabilities of ``ALT_KIND_SHARES``.
    """
    if kind is None:
        bounds = np.cumsum(tuple(ALT_KIND_SHARES.values()))
        kind = tuple(ALT_KIND_SHARES)[min(int(np.searchsorted(bounds, rng.random())), len(ALT_KIND_SHARES) - 1)]
    language = _pick(rng, FOREIGN_LANGUAGES) if kind == "foreign" else "en"
    text = _foreign(scene, rng, language) if kind == "foreign" else _WORDINGS[kind](scene, rng)
    return AltText(text=text[:MOST_CHARACTERS], kind=kind, language=language, names_scene=kind not in _DOES_NOT_NAME)


def _things(scene: Scene) -> str:
    return " and ".join(thing.phrase for thing in scene.objects)


def _plain(scene: Scene, rng: np.random.Generator) -> str:
    return _pick(rng, scene.captions())


def _shop(scene: Scene, rng: np.random.Generator) -> str:
    things = _things(scene).upper() if rng.random() < 0.4 else _things(scene).title()
    return f"Buy {things} {_pick(rng, _GOODS)} {rng.integers(2009, 2024)} {_pick(rng, _PITCHES)} | {_pick(rng, _SHOPS)}"


def _catalogue(scene: Scene, rng: np.random.Generator) -> str:
    first = scene.objects[0]
    sku = f"{first.noun[:3].upper()}-{rng.integers(1000, 9999)}-{first.colour[:2].upper()}"
    return f"{first.noun.capitalize()} ({first.colour}) {sku} {_price(rng)} USD | {_pick(rng, _SHOPS)}"


def _shouting(scene: Scene, rng: np.random.Generator) -> str:
    return f"{_things(scene)} {_pick(rng, _GOODS)} {_pick(rng, _PITCHES)}!!!".upper()


def _social(scene: Scene, rng: np.random.Generator) -> str:
    first = scene.objects[0]
    tags = " ".join(f"#{word}" for word in (first.noun, first.colour, _pick(rng, _GOODS).replace(" ", "")))
    return f"my new {_things(scene)} \N{SMILING FACE WITH HEART-SHAPED EYES} {tags} #instagood"


def _markup(scene: Scene, rng: np.random.Generator) -> str:
    script = f'<script>track("{scene.objects[0].noun}")</script>'
    return f'<b>{_things(scene)}</b> &amp; more {script} "{_price(rng)}" >> {_pick(rng, _SHOPS)}'


def _long(scene: Scene, rng: np.random.Generator) -> str:
    sentence = f"This {_things(scene)} on a {scene.background} background is the perfect gift. "
    return sentence + " ".join(_shop(scene, rng) for _ in range(int(rng.integers(8, 24))))


def _file_name(scene: Scene, rng: np.random.Generator) -> str:
    size = _pick(rng, ("640x480", "large", "thumb"))
    return f"{'-'.join(_things(scene).split())}-{rng.integers(1, 9999):04d}_{size}.jpg"


def _empty(_: Scene, rng: np.random.Generator) -> str:
    return _pick(rng, _EMPTY)


def _unrelated(_: Scene, rng: np.random.Generator) -> str:
    return _pick(rng, _UNRELATED)


_WORDINGS: dict[AltKind, Callable[[Scene, np.random.Generator], str]] = {
    "plain": _plain,
    "shop": _shop,
    "catalogue": _catalogue,
    "shouting": _shouting,
    "social": _social,
    "markup": _markup,
    "long": _long,
    "file_name": _file_name,
    "empty": _empty,
    "unrelated": _unrelated,
}


def _foreign(scene: Scene, rng: np.random.Generator, language: str) -> str:
    first, column = scene.objects[0], FOREIGN_LANGUAGES.index(language)
    return _pick(rng, _FOREIGN_PATTERNS[language]).format(
        noun=FOREIGN_NOUNS[first.noun][column],
        colour=FOREIGN_COLOURS[first.colour][column],
        price=_price(rng),
        shop=_pick(rng, _SHOPS),
    )


def _price(rng: np.random.Generator) -> str:
    return f"{rng.integers(2, 180)}.{_pick(rng, ('99', '95', '50', '00'))}"


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]
