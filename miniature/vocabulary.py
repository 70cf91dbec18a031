"""The words of the picture world: nouns, colours, backgrounds, and which combinations training never shows."""

from functools import cache
from typing import Final

NOUN_GROUPS: Final[dict[str, dict[str, str]]] = {
    "vehicle": {
        "bus": "1F68C",
        "train": "1F686",
        "car": "1F697",
        "tractor": "1F69C",
        "motorcycle": "1F3CD",
        "bicycle": "1F6B2",
        "airplane": "2708",
        "helicopter": "1F681",
    },
    "mammal": {
        "dog": "1F415",
        "cat": "1F408",
        "horse": "1F40E",
        "pig": "1F416",
        "sheep": "1F411",
        "rabbit": "1F407",
        "elephant": "1F418",
        "camel": "1F42A",
        "giraffe": "1F992",
        "squirrel": "1F43F",
    },
    "bird": {"duck": "1F986", "penguin": "1F427", "owl": "1F989", "swan": "1F9A2", "rooster": "1F413"},
    "insect": {"butterfly": "1F98B", "bee": "1F41D", "beetle": "1FAB2"},
    "fruit": {
        "apple": "1F34E",
        "pear": "1F350",
        "banana": "1F34C",
        "lemon": "1F34B",
        "strawberry": "1F353",
        "cherry": "1F352",
        "pineapple": "1F34D",
    },
    "vegetable": {"carrot": "1F955", "eggplant": "1F346", "mushroom": "1F344", "broccoli": "1F966"},
    "garment": {
        "shirt": "1F455",
        "dress": "1F457",
        "coat": "1F9E5",
        "hat": "1F452",
        "boot": "1F462",
        "shoe": "1F45E",
        "sock": "1F9E6",
    },
    "instrument": {
        "guitar": "1F3B8",
        "violin": "1F3BB",
        "trumpet": "1F3BA",
        "drum": "1F941",
        "accordion": "1FA97",
    },
    "vessel": {"teapot": "1FAD6", "cup": "2615", "bucket": "1FAA3", "vase": "1F3FA"},
}
"""Group -> noun -> OpenMoji code point of its sprite. The members of a group are co-hyponyms in WordNet."""

NOUN_CODES: Final[dict[str, str]] = {noun: code for group in NOUN_GROUPS.values() for noun, code in group.items()}
NOUNS: Final[tuple[str, ...]] = tuple(NOUN_CODES)
GROUP_OF: Final[dict[str, str]] = {noun: name for name, group in NOUN_GROUPS.items() for noun in group}

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (222, 42, 42),
    "orange": (248, 140, 24),
    "yellow": (250, 216, 42),
    "green": (52, 160, 62),
    "blue": (44, 98, 214),
    "purple": (132, 58, 178),
    "pink": (250, 132, 188),
    "black": (46, 46, 50),
    "white": (246, 246, 246),
}
"""Colour word of an object -> its middle tone, RGB 0-255."""

BACKGROUNDS: Final[dict[str, tuple[int, int, int]]] = {
    "white": (252, 252, 250),
    "gray": (172, 174, 178),
    "blue": (164, 206, 240),
    "green": (176, 222, 168),
    "yellow": (246, 236, 160),
    "pink": (248, 204, 214),
}
"""Colour word of a background -> its middle tone, RGB 0-255 (paler than the objects' so that objects stand out)."""

BACKGROUND_STYLES: Final[tuple[str, ...]] = ("plain", "gradient", "textured")


def is_held_out(noun: str, colour: str) -> bool:
    """Return whether training never shows this noun in this colour (one colour a noun: 53 of 477, 11 %).

    The colour walks through the list with a stride, so that every colour loses about as many nouns as any other.
    """
    colours = tuple(COLOURS)
    return colours[(NOUNS.index(noun) * 5 + 2) % len(colours)] == colour


@cache
def combinations(*, held_out: bool) -> tuple[tuple[str, str], ...]:
    """Return all (noun, colour) that training shows (``held_out=False``) or never shows (``held_out=True``)."""
    return tuple((noun, colour) for noun in NOUNS for colour in COLOURS if is_held_out(noun, colour) is held_out)


def with_article(phrase: str) -> str:
    """Put ``a`` or ``an`` before a phrase made of this vocabulary ("orange bus" -> "an orange bus")."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
