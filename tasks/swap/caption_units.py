"""The words of a caption that a swap may take: heads of noun phrases, and adjectives with the noun they describe."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from iedit_model.inflection import INVARIANT, Number, is_mass, looks_singular, singular_forms
from tasks.swap.tagger import Token
from tasks.swap.wordlists import (
    COLOUR_ATTRIBUTES,
    PAIRED,
    PLURAL_ONLY,
    SHADES,
    UNSEEN_NOUNS,
    VISIBLE_ATTRIBUTES,
    VISIBLE_LEXNAMES,
    word_set,
)
from tasks.swap.wordnet import RankedSense, Sense, SwapPos, WordNet

_LONGEST_LEMMA: Final = 4
"""Words of the longest WordNet lemma that is looked for ("hot air balloon" has three)."""
LEAST_SHARE: Final = 0.1
"""A sense that stands for less of a word's uses than this is not what a caption means."""
_GENDERED: Final = word_set("he she him her his hers himself herself")
_FARTHEST_NOUN: Final = 6
"""Tokens between an adjective and the noun it describes, at most."""
_INSIDE_PHRASE: Final = frozenset({"ADJ", "ADV", "NUM", "VERB", "CCONJ", "PUNCT"})
_FEW_LEVELS: Final = 3
_PERSON: Final = "noun.person"
_SINGULAR_CUES: Final = frozenset({"a", "an", "another", "each", "every", "one", "this"})
_NUMBER: Final = "number"
_SINGULAR_VERBS: Final = frozenset({"has", "is", "was"})
_ANIMATE: Final = frozenset({"noun.animal", _PERSON})


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One word or multi-word lemma of a caption that could be swapped."""

    lemma: str
    """WordNet's spelling in lower case: "fire_truck"."""
    pos: SwapPos
    start: int
    """First character's place in the caption."""
    end: int
    """One past the last character's place."""
    number: Number = "singular"
    """How a noun stands in this caption."""
    described: str = ""
    """For an adjective the words from behind it to the end of the noun that it describes ("fire truck")."""
    is_animate: bool = False
    """Whether the described noun is a person or an animal."""
    is_shade: bool = False
    """Whether an adjective shades a colour ("light" in "light blue shirt")."""

    @property
    def key(self) -> str:
        """The unit's key in a vocabulary: "fire_truck.n", "red.a"."""
        return f"{self.lemma}.{self.pos}"


def find_units(caption: str, tokens: Sequence[Token], wordnet: WordNet) -> list[Unit]:
    """Return the units of a tagged caption in order; they do not overlap.

    Left out are words that name nothing visible, names, possessives, nouns that only modify another noun, inflected
    adjectives ("larger"), adjectives that describe nothing visible ("white background"), colours of people, and people
    whom a pronoun takes up ("a woman rests her head").
    """
    finder = _Finder(caption, tokens, wordnet)
    units: list[Unit] = []
    place = 0
    while place < len(tokens):
        unit, used = finder.unit_at(place)
        if unit is not None:
            units.append(unit)
        place += used
    return units


@functools.lru_cache(maxsize=65_536)
def visible_senses(lemma: str, wordnet: WordNet) -> tuple[RankedSense, ...]:
    """Return the usual senses of a noun that name visible kinds of things, most frequent first.

    A person counts only as the first sense, and not at all when WordNet's texts never use a word that names a thing,
    too: most things have served as a name for somebody ("mug", "star", "hanger").
    """
    ranked = wordnet.ranked_senses(lemma, "n")
    seen = [
        one
        for one in ranked
        if one.sense.lexname in VISIBLE_LEXNAMES
        and one.share >= LEAST_SHARE
        and (one is ranked[0] or one.sense.lexname != _PERSON)
        and not one.sense.is_instance
        # A name or a slur is spelled the same: "turkey", "china".
        and lemma in one.sense.usable
    ]
    if len(seen) > 1 and seen[0].sense.lexname == _PERSON and wordnet.count(lemma, "n") == 0:
        del seen[0]
    return tuple(seen)


@functools.lru_cache(maxsize=65_536)
def adjective_attributes(adjective: str, wordnet: WordNet) -> frozenset[str]:
    """Return the attributes ("hue.n.01") that the two main senses of an adjective, or their heads, give a value to."""
    return frozenset[str]().union(
        *(
            sense.attributes
            for ranked in wordnet.ranked_senses(adjective, "a")[:2]
            for sense in wordnet.with_heads(ranked.sense)
        )
    )


def is_colour(adjective: str, wordnet: WordNet) -> bool:
    """Return whether a main sense of an adjective is a colour, or light or dark."""
    return not COLOUR_ATTRIBUTES.isdisjoint(adjective_attributes(adjective, wordnet))


class _Finder:
    def __init__(self, caption: str, tokens: Sequence[Token], wordnet: WordNet) -> None:
        self._caption, self._tokens, self._wordnet = caption, tokens, wordnet
        self._has_determiner = any(token.tag == "DET" for token in tokens)
        self._has_gender = any(token.lower in _GENDERED for token in tokens)

    def unit_at(self, place: int) -> tuple[Unit | None, int]:
        """Return the unit that starts at a token, or None, and how many tokens to go on by."""
        token = self._tokens[place]
        for words in range(min(_LONGEST_LEMMA, len(self._tokens) - place), 1, -1):
            if (lemma := self._compound(place, words)) is not None:
                return self._noun(place, place + words - 1, lemma), words
        if token.tag == "NOUN":
            lemma = self._noun_lemma(token.lower, is_counted=self._is_counted(place))
            return (None if lemma is None else self._noun(place, place, lemma)), 1
        if token.tag == "ADJ":
            return self._adjective(place), 1
        return None, 1

    def _compound(self, first: int, words: int) -> str | None:
        span = self._tokens[first : first + words]
        if span[-1].tag != "NOUN" or any(token.tag not in {"NOUN", "ADJ", "VERB", "ADV", "NUM"} for token in span):
            return None
        if any(not self._is_joined(before, after) for before, after in itertools.pairwise(span)):
            return None
        if any(token.is_possessive for token in span[:-1]):
            return None
        lemma = self._noun_lemma("_".join(token.lower for token in span))
        if lemma is None or "_" not in lemma:
            return None
        senses = visible_senses(lemma, self._wordnet)
        if not senses:
            return None
        return None if span[0].tag == "ADJ" and self._is_literal(span[0].lower, lemma, senses[0].sense) else lemma

    def _is_literal(self, adjective: str, lemma: str, sense: Sense) -> bool:
        """Return whether a lemma of adjective and noun means the words one by one ("young man", not "hot dog")."""
        if sense.lexname == _PERSON or is_colour(adjective, self._wordnet):
            return True
        if VISIBLE_ATTRIBUTES.isdisjoint(adjective_attributes(adjective, self._wordnet)):
            return False
        heads = {ranked.sense.name for ranked in self._wordnet.ranked_senses(lemma.rpartition("_")[2], "n")}
        return any(above in heads for _, above in self._wordnet.climb(sense.name, levels=_FEW_LEVELS))

    def _is_counted(self, place: int) -> bool:
        """Return whether a number stands before a noun or "of" behind it ("two glasses of wine")."""
        after = self._tokens[place + 1].lower if place + 1 < len(self._tokens) else ""
        return after == "of" or (place > 0 and self._tokens[place - 1].tag == "NUM")

    def _noun_lemma(self, word: str, *, is_counted: bool = False) -> str | None:
        """Return the lemma of a noun form; of two readings ("rooms") the one that was tagged more often."""
        own = word if self._wordnet.base_form(word, "n") == word else None
        phrase = word.replace("_", " ")
        singulars = (form.replace(" ", "_") for form in singular_forms(phrase))
        known = [form for form in singulars if self._wordnet.base_form(form, "n") == form]
        single = max(known, key=lambda form: self._wordnet.count(form, "n"), default=None)
        if own is None or single is None:
            return own or single
        if own in PLURAL_ONLY and not is_counted:
            return own
        if single in PAIRED:
            return single
        return single if self._wordnet.count(single, "n") > self._wordnet.count(own, "n") else own

    def _noun(self, first: int, last: int, lemma: str) -> Unit | None:
        after = self._tokens[last + 1] if last + 1 < len(self._tokens) else None
        senses = visible_senses(lemma, self._wordnet)
        if not senses or (senses[0].sense.lexname == _PERSON and self._has_gender):
            return None
        modifies = after is not None and after.tag == "NOUN" and self._is_joined(self._tokens[last], after)
        hidden = lemma in UNSEEN_NOUNS or lemma.rpartition("_")[2] in UNSEEN_NOUNS
        if modifies or hidden or self._tokens[last].is_possessive:
            return None
        start, end = self._tokens[first].start, self._tokens[last].end
        return Unit(lemma=lemma, pos="n", start=start, end=end, number=self._number(first, last, lemma))

    def _number(self, first: int, last: int, lemma: str) -> Number:
        text = "_".join(token.lower for token in self._tokens[first : last + 1])
        determiner = self._determiner(first)
        if lemma.rpartition("_")[2] in INVARIANT:
            verb = self._tokens[last + 1].lower if last + 1 < len(self._tokens) else ""
            # A caption without any article leaves them out before single things, too ("red sheep on white background").
            is_one = determiner in _SINGULAR_CUES or verb in _SINGULAR_VERBS or not self._has_determiner
            return "singular" if is_one and determiner != _NUMBER else "plural"
        if text != lemma or not looks_singular(lemma.replace("_", " ")):
            return "plural"
        return "mass" if is_mass(lemma.replace("_", " ")) and determiner not in _SINGULAR_CUES else "singular"

    def _determiner(self, place: int) -> str:
        """Return the determiner of the phrase that a noun ends, ``_NUMBER`` for a number over one, "" for none."""
        while place > 0 and self._tokens[place - 1].tag in _INSIDE_PHRASE | {"NOUN"}:
            place -= 1
            if self._tokens[place].tag == "NUM":
                return "one" if self._tokens[place].lower in {"one", "1"} else _NUMBER
        return self._tokens[place - 1].lower if place > 0 and self._tokens[place - 1].tag == "DET" else ""

    def _adjective(self, place: int) -> Unit | None:
        token = self._tokens[place]
        if not self._wordnet.ranked_senses(token.lower, "a") or self._is_compared(token.lower):
            return None
        span = self._noun_after(place) or self._subject_before(place)
        if span is None:
            return None
        first, last = span
        lemma = self._head_lemma(first, last)
        senses = visible_senses(lemma, self._wordnet) if lemma is not None else ()
        if lemma is None or lemma in UNSEEN_NOUNS or not senses:
            return None
        lexname = senses[0].sense.lexname
        if lexname == _PERSON and is_colour(token.lower, self._wordnet):
            return None
        shaded = self._tokens[place + 1] if place + 1 < len(self._tokens) else None
        is_shade = (
            token.lower in SHADES
            and shaded is not None
            and shaded.tag == "ADJ"
            and is_colour(shaded.lower, self._wordnet)
        )
        described = self._caption[self._tokens[first].start : self._tokens[last].end]
        if is_shade and shaded is not None and place < first:
            described = self._caption[shaded.start : self._tokens[last].end]
        return Unit(
            lemma=token.lower,
            pos="a",
            start=token.start,
            end=token.end,
            described=described,
            is_animate=lexname in _ANIMATE,
            is_shade=is_shade,
        )

    def _is_compared(self, adjective: str) -> bool:
        """Return whether an adjective is a comparative or superlative, even one with an entry of its own ("larger")."""
        ending = next((end for end in ("er", "est") if adjective.endswith(end)), None)
        if ending is None:
            return False
        stem = adjective.removesuffix(ending)
        doubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
        stems = (stem, f"{stem}e", doubled, f"{stem[:-1]}y" if stem.endswith("i") else stem)
        return any(self._wordnet.ranked_senses(one, "a") for one in stems if one)

    def _noun_after(self, place: int) -> tuple[int, int] | None:
        """Return the first and last token of the noun that an adjective stands before."""
        for first in range(place + 1, min(len(self._tokens), place + 1 + _FARTHEST_NOUN)):
            if self._tokens[first].tag == "NOUN":
                last = self._run_end(first)
                return None if self._tokens[last].is_possessive else (first, last)
            if self._tokens[first].tag not in _INSIDE_PHRASE:
                return None
        return None

    def _subject_before(self, place: int) -> tuple[int, int] | None:
        """Return the noun of which "is" and the like say an adjective ("the bus on the left is red" -> bus)."""
        verb = place
        while verb > 0 and self._tokens[verb - 1].tag in _INSIDE_PHRASE - {"VERB"}:
            verb -= 1
        if verb == 0 or self._tokens[verb - 1].tag != "AUX":
            return None
        last = verb - 2
        while last >= 0:
            if self._tokens[last].tag == "NOUN":
                first = last
                while first > 0 and self._tokens[first - 1].tag == "NOUN":
                    first -= 1
                if not self._hangs_on_preposition(first):
                    return first, last
                last = first
            last -= 1
        return None

    def _hangs_on_preposition(self, first: int) -> bool:
        place = first
        while place > 0 and self._tokens[place - 1].tag in {"DET", "ADJ", "NUM", "PRON", "ADV"}:
            place -= 1
        return place > 0 and self._tokens[place - 1].tag == "ADP"

    def _run_end(self, first: int) -> int:
        last = first
        while last + 1 < len(self._tokens) and self._tokens[last + 1].tag == "NOUN":
            if not self._is_joined(self._tokens[last], self._tokens[last + 1]):
                break
            last += 1
        return last

    def _head_lemma(self, first: int, last: int) -> str | None:
        for start in range(first, last):
            if (lemma := self._compound(start, last - start + 1)) is not None:
                return lemma
        return self._noun_lemma(self._tokens[last].lower)

    def _is_joined(self, before: Token, after: Token) -> bool:
        between = self._caption[before.end : after.start]
        return bool(between) and between.isspace()
