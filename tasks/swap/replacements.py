"""Which words may replace a noun or an adjective of a caption, nearest first.

Nouns: antonyms, then co-hyponyms of the meant sense, level by level. Adjectives: antonyms, satellites of a head whose
satellites exclude one another, else its antonym.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from tasks.swap.caption_units import visible_senses
from tasks.swap.wordlists import (
    ANIMATE_SENSES,
    BLOCKED_SENSES,
    BLOCKED_WORDS,
    COLOUR_ATTRIBUTES,
    CONTRASTING_HEADS,
    INANIMATE_SENSES,
    ROOTS,
    UNSEEN_NOUNS,
    VISIBLE_ATTRIBUTES,
    VISIBLE_HEADS,
    VISIBLE_LEXNAMES,
)
from tasks.swap.wordnet import RankedSense, Sense, SwapPos, WordNet

RelationName = Literal["antonym", "cohyponym", "sibling_satellite"]
_DEEPEST: Final = 20
"""No noun of WordNet lies deeper under its root."""
_USUAL_SHARE: Final = 0.3
"""Share of a noun's uses from which on a person may be meant by another sense than the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A word that may stand in a unit's place, and how WordNet relates the two."""

    lemma: str
    relation: RelationName
    source_synset: str
    target_synset: str
    level: int
    """Steps up to what both have in common: 0 for a direct antonym, 1 for siblings, 2 for cousins."""


Tier = tuple[Replacement, ...]
"""Replacements that are equally near, each word once, sorted by lemma."""


class Admission:
    """Decides which words may enter an edit prompt: visible, decent, usual in their sense, known to the corpus."""

    def __init__(
        self, wordnet: WordNet, *, vocabulary: Mapping[str, int], min_corpus_count: int, min_sense_share: float
    ) -> None:
        """Take the settings of ``SwapConfig`` of the same names and the corpus's counts by key ("bus.n")."""
        self._wordnet = wordnet
        self._vocabulary = vocabulary
        self._min_count = min_corpus_count
        self._min_share = min_sense_share
        self._is_blocked = functools.lru_cache(maxsize=65_536)(self._find_blocked)

    def _find_blocked(self, sense_name: str) -> bool:
        """Return whether no word of a sense may stand in a prompt, for what it or another word of it means."""
        sense = self._wordnet.sense(sense_name)
        names = {sense_name, *(up for _, up in self._wordnet.climb(sense_name, levels=_DEEPEST))}
        words = {lemma.lower() for lemma in sense.lemmas} if sense.lexname == "noun.person" else set[str]()
        return not (BLOCKED_SENSES.isdisjoint(names) and BLOCKED_WORDS.isdisjoint(words))

    def admits(self, lemma: str, pos: SwapPos, sense_name: str) -> bool:
        """Return whether a lemma may stand in a prompt with this sense."""
        if self._min_count > 0 and self._vocabulary.get(f"{lemma}.{pos}", 0) < self._min_count:
            return False
        parts = lemma.split("_")
        if lemma in BLOCKED_WORDS or not BLOCKED_WORDS.isdisjoint(parts):
            return False
        if pos == "n" and (lemma in UNSEEN_NOUNS or parts[-1] in UNSEEN_NOUNS):
            return False
        ranked = self._wordnet.ranked_senses(lemma, pos)
        if pos == "n" and any(self._is_blocked(name) for name in (sense_name, *(one.sense.name for one in ranked[:1]))):
            return False
        return any(
            one.sense.name == sense_name
            and one.share >= self._min_share
            and lemma in one.sense.usable
            and (pos == "a" or _is_visible(one, is_first=place == 0))
            for place, one in enumerate(ranked)
        )

    def antonyms(
        self, sense: Sense, lemma: str, pos: SwapPos, *, source: Sense | None = None, source_lemma: str = ""
    ) -> Tier:
        """Return the admitted antonyms that a lemma has in a sense.

        Args:
            sense: where the antonyms stand.
            lemma: the lemma of ``sense`` that has them.
            pos: its part of speech.
            source: the swapped word's own sense when ``sense`` is the head of its cluster (an indirect antonym).
            source_lemma: the swapped word when it is not ``lemma``.
        """
        return as_tier(
            Replacement(
                lemma=antonym,
                relation="antonym",
                source_synset=(source or sense).name,
                target_synset=name,
                level=0 if source is None else 1,
            )
            for own, antonym, name in sense.antonyms
            if own == lemma and antonym not in {lemma, source_lemma} and self.admits(antonym, pos, name)
        )


def as_tier(found: Iterable[Replacement]) -> Tier:
    """Return replacements as a tier; of two with the same word the first counts."""
    first: dict[str, Replacement] = {}
    for replacement in found:
        first.setdefault(replacement.lemma, replacement)
    return tuple(first[lemma] for lemma in sorted(first))


def _is_visible(ranked: RankedSense, *, is_first: bool) -> bool:
    sense = ranked.sense
    if sense.lexname not in VISIBLE_LEXNAMES or sense.is_instance:
        return False
    return sense.lexname != "noun.person" or is_first or ranked.share >= _USUAL_SHARE


SensePolicy = Literal["first", "visible", "corpus"]
"""How the sense of a noun is chosen: the most frequent; the most frequent that can be seen; of the first ones that can
be seen that whose neighbours the corpus holds."""
_SENSES_WEIGHED: Final = 5
"""Senses of a noun that the policy "corpus" compares."""
_LEVEL_DISCOUNT: Final = 0.5
"""What a neighbour one level farther away counts for a sense."""


class _Member(NamedTuple):
    """A word under a hypernym."""

    lemma: str
    sense: str
    down: int
    """Steps from the hypernym down to the sense."""


_Index = Mapping[str, tuple[_Member, ...]]
"""Hypernym's name -> words under it."""


class NounReplacements:
    """Finds replacements of nouns; equal questions have equal answers, which are remembered."""

    def __init__(
        self,
        wordnet: WordNet,
        admission: Admission,
        *,
        corpus_nouns: Iterable[str],
        only_corpus: bool,
        max_levels: int,
        sense_policy: SensePolicy,
        min_sense_share: float,
    ) -> None:
        """Make a finder.

        Args:
            wordnet: where relations come from.
            admission: which words may stand in a prompt.
            corpus_nouns: lemmas that the corpus's captions hold.
            only_corpus: whether replacements come from these alone; else they only help to choose senses.
            max_levels: hypernym levels to climb for co-hyponyms.
            sense_policy: how the sense of a noun is chosen.
            min_sense_share: share of a corpus noun's weight that a sense must have to be meant at all.
        """
        self._wordnet = wordnet
        self._admission = admission
        self._corpus_nouns = sorted(set(corpus_nouns))
        self._only_corpus = only_corpus
        self._max_levels = max_levels
        self._policy: SensePolicy = sense_policy
        self._min_share = min_sense_share
        self._tier = functools.lru_cache(maxsize=65_536)(self._find)
        self._sense_of = functools.lru_cache(maxsize=65_536)(self._choose_sense)
        self._family = functools.lru_cache(maxsize=65_536)(self._find_family)

    @property
    def num_tiers(self) -> int:
        """How many tiers a noun can have: antonyms, then for each level the words as deep as it and the deeper ones."""
        return 1 + 2 * self._max_levels

    def tier(self, lemma: str, place: int) -> Tier:
        """Return the ``place``-th nearest replacements of a noun, 0 <= place < num_tiers; mostly empty."""
        return self._tier(lemma, place)

    def _find(self, lemma: str, place: int) -> Tier:
        sense = self._sense_of(lemma)
        if sense is None:
            return ()
        if place == 0:
            return self._antonyms(lemma, sense)
        return self._cohyponyms(lemma, sense, level=(place + 1) // 2, is_deeper=place % 2 == 0)

    def _antonyms(self, lemma: str, sense: Sense) -> Tier:
        """Return the antonyms of the sense, else of a sense that is about as usual (the child that a "girl" is)."""
        usual = [one.sense for one in self._wordnet.ranked_senses(lemma, "n") if one.share >= _USUAL_SHARE]
        tiers = (self._admission.antonyms(one, lemma, "n") for one in (sense, *usual) if one.lexname == sense.lexname)
        return next((tier for tier in tiers if tier), ())

    def _cohyponyms(self, lemma: str, sense: Sense, *, level: int, is_deeper: bool) -> Tier:
        return as_tier(
            Replacement(
                lemma=member.lemma,
                relation="cohyponym",
                source_synset=sense.name,
                target_synset=member.sense,
                level=level,
            )
            for up, ancestor in self._ancestors(sense.name, level)
            if up == level
            for member in self._members(ancestor, level)
            if (member.down > level) is is_deeper and self._is_other_thing(lemma, sense, member)
        )

    def _ancestors(self, name: str, levels: int) -> list[tuple[int, str]]:
        return [(up, ancestor) for up, ancestor in self._wordnet.climb(name, levels=levels) if ancestor not in ROOTS]

    def _members(self, ancestor: str, level: int) -> Iterable[_Member]:
        if self._only_corpus:
            return self._corpus_index.get(ancestor, ())
        return self._all_members(ancestor, level)

    def _all_members(self, ancestor: str, levels: int) -> Iterable[_Member]:
        for down, name in self._wordnet.descend(ancestor, levels=levels):
            for lemma in self._wordnet.sense(name).lemmas:
                if self._admission.admits(lemma, "n", name):
                    yield _Member(lemma, name, down)

    def _is_other_thing(self, lemma: str, sense: Sense, member: _Member) -> bool:
        """Return whether a member is of the same kind, and in no sense a synonym, hypernym or hyponym."""
        if self._wordnet.sense(member.sense).lexname != sense.lexname:
            return False
        words, others = set(lemma.split("_")), set(member.lemma.split("_"))
        if words <= others or others <= words:
            return False
        own, above = self._family(member.lemma)
        source_own, _ = self._family(lemma)
        source_above = {name for _, name in self._wordnet.climb(sense.name, levels=_DEEPEST)}
        return sense.name not in above and own.isdisjoint(source_above) and own.isdisjoint(source_own)

    def _find_family(self, lemma: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return the names of all senses of a noun and of all their hypernyms."""
        own = frozenset(ranked.sense.name for ranked in self._wordnet.ranked_senses(lemma, "n"))
        return own, frozenset(up for name in own for _, up in self._wordnet.climb(name, levels=_DEEPEST))

    # Which sense is meant

    def _choose_sense(self, lemma: str) -> Sense | None:
        ranked = visible_senses(lemma, self._wordnet)[:_SENSES_WEIGHED]
        if self._policy == "first":
            first = self._wordnet.ranked_senses(lemma, "n")[:1]
            ranked = tuple(one for one in ranked if one in first)
        if self._policy == "corpus" and self._corpus_nouns and len(ranked) > 1:
            # max takes the first of equals, which is the more frequent sense.
            return max(ranked, key=lambda one: self._weight(lemma, one, self._corpus_index)).sense
        return ranked[0].sense if ranked else None

    def _weight(self, lemma: str, ranked: RankedSense, index: _Index) -> float:
        """Return how likely the corpus means this sense: its share times how many neighbours the corpus holds."""
        support = 0.0
        for level, ancestor in self._ancestors(ranked.sense.name, self._max_levels):
            words = {
                member.lemma
                for member in index.get(ancestor, ())
                if member.lemma != lemma and self._wordnet.sense(member.sense).lexname == ranked.sense.lexname
            }
            support += len(words) * _LEVEL_DISCOUNT ** (level - 1)
        return ranked.share * math.log1p(support)

    @functools.cached_property
    def _corpus_index(self) -> _Index:
        """The corpus's nouns under each of their hypernyms: much smaller than all of WordNet."""
        senses = {
            lemma: [
                one
                for one in visible_senses(lemma, self._wordnet)
                if self._admission.admits(lemma, "n", one.sense.name)
            ]
            for lemma in self._corpus_nouns
        }
        if self._policy == "corpus":
            index = self._index_of(senses)
            senses = {lemma: self._meant(lemma, ranked, index) for lemma, ranked in senses.items()}
        return self._index_of(senses)

    def _meant(self, lemma: str, ranked: list[RankedSense], index: _Index) -> list[RankedSense]:
        """Return the senses that the corpus may mean: a "cake" of soap is left out where there is other food."""
        weights = [self._weight(lemma, one, index) for one in ranked]
        least = self._min_share * sum(weights)
        return [one for one, weight in zip(ranked, weights, strict=True) if weight >= least]

    def _index_of(self, senses: Mapping[str, list[RankedSense]]) -> _Index:
        members: dict[str, list[_Member]] = {}
        for lemma, ranked in senses.items():
            for one in ranked:
                for down, ancestor in self._wordnet.climb(one.sense.name, levels=_DEEPEST):
                    members.setdefault(ancestor, []).append(_Member(lemma, one.sense.name, down))
        return {ancestor: tuple(sorted(found)) for ancestor, found in members.items()}


_LEAST_SHARE: Final = 0.05
"""A sense that stands for less of an adjective's uses than this is not what a caption means."""


class AdjectiveReplacements:
    """Finds replacements of adjectives; equal questions have equal answers, which are remembered."""

    def __init__(
        self, wordnet: WordNet, admission: Admission, *, only_first_sense: bool, only_contrasting: bool
    ) -> None:
        """Make a finder.

        Args:
            wordnet: where relations come from.
            admission: which words may stand in a prompt.
            only_first_sense: take the most frequent sense or nothing, instead of the first that can be seen.
            only_contrasting: swap satellites only under heads whose satellites exclude one another; the others'
                satellites mean nearly the same (huge, vast), and their head's antonym is taken instead.
        """
        self._wordnet = wordnet
        self._admission = admission
        self._only_first_sense = only_first_sense
        self._only_contrasting = only_contrasting
        self._tier = functools.lru_cache(maxsize=65_536)(self._find)

    def tier(self, lemma: str, *, is_animate: bool, is_shade: bool) -> Tier:
        """Return the replacements of an adjective.

        Args:
            lemma: lower-case adjective.
            is_animate: whether it describes a person or an animal ("old" is then not "new" but "young").
            is_shade: whether it shades a colour ("light" in "light blue").
        """
        return self._tier(lemma, is_animate=is_animate, is_shade=is_shade)

    def _find(self, lemma: str, *, is_animate: bool, is_shade: bool) -> Tier:
        sense = self._sense_of(lemma, is_animate=is_animate, is_shade=is_shade)
        if sense is None:
            return ()
        if any(own == lemma for own, _, _ in sense.antonyms):
            return self._admission.antonyms(sense, lemma, "a")
        heads = self._wordnet.with_heads(sense)[1:]
        for head in heads:
            if head.name in CONTRASTING_HEADS or not self._only_contrasting:
                return self._siblings(lemma, sense, head)
        for head in heads:
            tier = self._admission.antonyms(head, head.lemmas[0], "a", source=sense, source_lemma=lemma)
            if tier:
                return tier
        return ()

    def _sense_of(self, lemma: str, *, is_animate: bool, is_shade: bool) -> Sense | None:
        """Return the most frequent sense that can be seen on such a thing."""
        wrong = INANIMATE_SENSES if is_animate else ANIMATE_SENSES
        ranked = self._wordnet.ranked_senses(lemma, "a")
        senses = [one.sense for one in ranked if one.share >= _LEAST_SHARE]
        for sense in senses[:1] if self._only_first_sense else senses:
            family = self._wordnet.with_heads(sense)
            attributes = frozenset[str]().union(*(one.attributes for one in family))
            seen = attributes & VISIBLE_ATTRIBUTES or any(one.name in VISIBLE_HEADS for one in family)
            fits = not is_shade or attributes & COLOUR_ATTRIBUTES
            if seen and fits and sense.name not in wrong and lemma in sense.usable:
                return sense
        return None

    def _siblings(self, lemma: str, sense: Sense, head: Sense) -> Tier:
        synonyms = {word for one in self._wordnet.ranked_senses(lemma, "a") for word in one.sense.lemmas}
        return as_tier(
            Replacement(
                lemma=other,
                relation="sibling_satellite",
                source_synset=sense.name,
                target_synset=name,
                level=1,
            )
            for name in self._wordnet.related(head.name, "similar_tos")
            if name != sense.name
            for other in self._wordnet.sense(name).lemmas
            # Mixtures ("blue-violet") are no contrast to their parts.
            if other not in synonyms and "-" not in other and "_" not in other
            if self._admission.admits(other, "a", name)
        )
