"""English inflection, for every text that is made here: plurals both ways, mass nouns, a or an, the case of letters."""

import re
from typing import Final, Literal


def word_set(text: str) -> frozenset[str]:
    """Return the words of ``text``, which are separated by white space."""
    return frozenset(text.split())


MASS_NOUNS: Final = word_set(
    """
    asparagus bacon baggage bamboo beef bread broccoli butter caviar cereal champagne cheese chocolate clothing coffee
    corn cotton cream crockery cutlery denim dough dust equipment fabric flour foliage food footwear fruit furniture
    fur garlic glassware gold grass gravy greenery ham hay headgear honey hosiery ice ivy jam jelly jewelry jewellery
    juice knitwear lace lava leather lettuce linen lingerie liquor litter lumber luggage machinery makeup marble
    margarine marmalade mayonnaise meat merchandise milk money moss mud mustard oatmeal oil paint paper parsley pasta
    pastry pepper plastic plywood poultry porcelain pork produce rain rice rubbish rum salt sand satin sauce scenery
    seafood seaweed silk silver silverware smoke snow soap soil soup spaghetti spinach steel straw stuff sugar sushi
    tableware tea timber toast tofu traffic trash underwear vegetation velvet venison vinegar water wax weaponry wheat
    whiskey whisky wine wood wool yarn yogurt yoghurt
    """
)
"""Nouns that mostly stand without a number; WordNet does not say which those are."""

INVARIANT: Final = word_set(
    """
    aircraft bison carp cod craft crossroads deer elk fish goldfish grapefruit headquarters hovercraft jellyfish
    mackerel means moose offspring salmon series sheep shellfish shrimp spacecraft species squid starfish swine
    swordfish trout tuna watercraft whitefish
    """
)
"""Nouns whose plural is their singular."""

SINGULAR_IN_S: Final = word_set(
    """
    alias asparagus atlas bias canvas chaos chess christmas cosmos cyclops ethos gas iris lens mathematics news
    pancreas physics rhinoceros tennis thermos trellis
    """
)
"""Singular nouns in -s that do not end in -ss, -us or -is."""

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
    """Return whether a lower-case noun does not look like a plural, by its head ("glass", "bus", "cup of beans")."""
    last = _split_last(_split_phrase(noun)[0])[2]
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


def with_article(phrase: str) -> str:
    """Return a noun phrase of any case with "a" or "an" where it can take one ("an hour glass", "dogs", "bread")."""
    head = re.split(r" (?:with|without|in|on|at|from|for|near|under) ", phrase.lower())[0]
    return phrase if is_mass(head) or not looks_singular(head) else f"{indefinite_article(head)} {phrase}"


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
