"""Replacements of adjectives: antonyms, satellites of a head whose satellites exclude one another, else its antonym."""

import functools
from typing import Final

from tasks.swap.replacements import Admission, Replacement, Tier, as_tier
from tasks.swap.wordlists import (
    ANIMATE_SENSES,
    COLOUR_ATTRIBUTES,
    CONTRASTING_HEADS,
    INANIMATE_SENSES,
    VISIBLE_ATTRIBUTES,
    VISIBLE_HEADS,
)
from tasks.swap.wordnet import Sense, WordNet

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
