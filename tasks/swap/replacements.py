"""What a replacement is, and which words of WordNet may be one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tasks.swap.wordlists import BLOCKED_WORDS, UNSEEN_NOUNS, VISIBLE_LEXNAMES
from tasks.swap.wordnet import RankedSense, Sense, WordNet

RelationName = Literal["antonym", "cohyponym", "sibling_satellite"]
SwapPos = Literal["n", "a"]
"""Parts of speech that are swapped: noun, adjective."""
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
