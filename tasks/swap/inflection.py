"""English inflection that a word swap needs: plurals both ways, mass nouns, a or an, and the case of letters."""

import re
from typing import Final, Literal

from tasks.swap.wordlists import INVARIANT, MASS_NOUNS, SINGULAR_IN_S

Number = Literal["singular", "plural", "mass"]
"""How a noun stands: one of several (a bus), several (buses), or stuff without a number (bread)."""

IRREGULAR_PLURALS: Final[dict[str, str]] = {
    "antenna": "antennae",
    "bacterium": "bacteria",
    "cactus": "cacti",
    "calf": "calves",
    "child": "children",
    "crisis": "crises",
    "criterion": "criteria",
    "die": "dice",
    "dwarf": "dwarves",
    "elf": "elves",
    "foot": "feet",
    "fungus": "fungi",
    "goose": "geese",
    "half": "halves",
    "hoof": "hooves",
    "knife": "knives",
    "larva": "larvae",
    "leaf": "leaves",
    "life": "lives",
    "loaf": "loaves",
    "louse": "lice",
    "man": "men",
    "mouse": "mice",
    "nucleus": "nuclei",
    "oasis": "oases",
    "ox": "oxen",
    "passer-by": "passers-by",
    "passerby": "passersby",
    "person": "people",
    "phenomenon": "phenomena",
    "quiz": "quizzes",
    "scarf": "scarves",
    "self": "selves",
    "sheaf": "sheaves",
    "shelf": "shelves",
    "stimulus": "stimuli",
    "tableau": "tableaux",
    "thief": "thieves",
    "tooth": "teeth",
    "wharf": "wharves",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}
"""Singular -> plural of single words that follow no rule; words built on them ("fireman", "eyetooth") follow them."""

_SUFFIXES: Final = ("man", "foot", "tooth", "goose", "mouse", "child", "wife", "knife", "leaf", "loaf", "shelf", "wolf")
_NOT_BUILT: Final = frozenset(
    {"caiman", "german", "human", "mongoose", "norman", "ottoman", "roman", "shaman", "talisman"}
)

_O_TAKES_ES: Final = frozenset(
    {"buffalo", "domino", "echo", "hero", "mango", "mosquito", "potato", "tomato", "tornado", "torpedo", "volcano"}
)
"""Nouns in -o that take -es; all others take -s (photos, pianos)."""

_SINGULAR_ENDING: Final = re.compile(r"(?:ss|us|is)$")

_SOUNDS_LIKE_YOU_OR_WON: Final = (
    "eu", "ewe", "once", "one", "ouija", "ubiqu", "ufo", "ukulele", "unanim", "uni", "uran", "urin", "usa", "use",
    "usu", "usur", "utensil", "uter", "util", "utop", "uvula",
)  # fmt: skip
_UN_I: Final = ("unid", "unim", "unin", "unirr", "uniss")
"""Words of "un-" and a word in i- ("uninhabited"), unlike "unicorn"."""
_SILENT_H: Final = ("heir", "herb", "honest", "honor", "honour", "hour")
_SPELLED_WITH_VOWEL: Final = frozenset("aefhilmnorsx8")


def plural(noun: str) -> str:
    """Return the plural of a lower-case singular noun or noun phrase ("fire truck" -> "fire trucks").

    In a phrase the head is inflected: the last word, or the one before "of" or "-in-". A plural-only noun
    ("scissors") and an invariant one ("sheep") stay as they are.
    """
    head, joint, rest = _split_phrase(noun)
    if joint:
        return plural(head) + joint + rest
    before, gap, last = _split_last(noun)
    return before + gap + _plural_word(last)


def singular_forms(noun: str) -> tuple[str, ...]:
    """Return the lower-case nouns or phrases that ``noun`` may be the plural of, likeliest first.

    The forms are guesses from the spelling; look them up before use ("glasses" -> "glass", "glasse").
    """
    head, joint, rest = _split_phrase(noun)
    if joint:
        return tuple(form + joint + rest for form in singular_forms(head))
    before, gap, last = _split_last(noun)
    return tuple(before + gap + form for form in _singular_words(last))


def looks_singular(noun: str) -> bool:
    """Return whether a lower-case noun does not look like a plural, by its last word ("glass", "bus", "sheep")."""
    last = _split_last(noun)[2]
    if not last.endswith("s"):
        return last not in _IRREGULAR_SINGULARS or last in IRREGULAR_PLURALS
    return last in SINGULAR_IN_S or last in INVARIANT or _SINGULAR_ENDING.search(last) is not None


def is_mass(noun: str) -> bool:
    """Return whether a lower-case noun or noun phrase mostly stands without a number, by its head ("orange juice")."""
    return _split_last(_split_phrase(noun)[0])[2] in MASS_NOUNS


def indefinite_article(phrase: str) -> str:
    """Return "an" or "a" as the sound of a lower-case phrase wants it ("an hour", "a unicorn", "an x-ray")."""
    first = re.match(r"[a-z]-|11\b|18\b|\S*", phrase.lstrip())
    word = first.group() if first else ""
    if word in {"11", "18"}:
        return "an"
    if word.endswith("-") or word[:1].isdigit():
        return "an" if word[0] in _SPELLED_WITH_VOWEL else "a"
    if word.startswith(_SOUNDS_LIKE_YOU_OR_WON) and not word.startswith((*_UN_I, "oner")):
        return "a"
    return "an" if word.startswith(("a", "e", "i", "o", "u", *_SILENT_H)) else "a"


def match_case(word: str, *, like: str) -> str:
    """Return the lower-case ``word`` (or phrase) with letters in the case of ``like``: lower, Title, First or UPPER."""
    letters = [character for character in like if character.isalpha()]
    if len(letters) > 1 and all(character.isupper() for character in letters):
        return word.upper()
    words = like.split()
    if len(words) > 1 and all(part[0].isupper() for part in words):
        return " ".join(_capital(part) for part in word.split(" "))
    return _capital(word) if letters and letters[0].isupper() else word


_IRREGULAR_SINGULARS: Final = {many: one for one, many in IRREGULAR_PLURALS.items()}


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def _split_phrase(noun: str) -> tuple[str, str, str]:
    found = re.search(r" (?:of|de) |-(?:of|in|de)-", noun)
    return (noun[: found.start()], found.group(), noun[found.end() :]) if found else (noun, "", "")


def _split_last(noun: str) -> tuple[str, str, str]:
    before, gap, last = noun.rpartition(" ")
    return before, gap, last


def _plural_word(word: str) -> str:
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word in INVARIANT or not looks_singular(word):
        return word
    if word not in _NOT_BUILT:
        for suffix in _SUFFIXES:
            if word.endswith(suffix) and len(word) > len(suffix) + 1:
                return word[: -len(suffix)] + IRREGULAR_PLURALS[suffix]
    if word in _O_TAKES_ES or re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def _singular_words(word: str) -> tuple[str, ...]:
    if word in _IRREGULAR_SINGULARS:
        return (_IRREGULAR_SINGULARS[word],)
    for one in _SUFFIXES:
        many = IRREGULAR_PLURALS[one]
        if word.endswith(many) and len(word) > len(many) + 1:
            return (word[: -len(many)] + one,)
    if not word.endswith("s") or word.endswith("ss") or len(word) < 3:
        return ()
    forms = []
    if word.endswith("ies") and len(word) > 4:
        forms.append(word[:-3] + "y")
    if word.endswith("ves"):
        forms += [word[:-3] + "f", word[:-3] + "fe"]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        forms.append(word[:-2])
    return (*forms, word[:-1])
