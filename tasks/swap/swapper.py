"""Caption -> edit prompt: one noun or adjective becomes its antonym or a random co-hyponym (WordNet).

A pure function of the caption, a seed, the configuration and the corpus's vocabulary.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from iedit_model.configuration import Share, configuration
from iedit_model.errors import ConfigError
from iedit_model.inflection import indefinite_article, is_mass, looks_singular, match_case, plural, singular_forms
from tasks.swap.caption_units import LEAST_SHARE, Unit, find_units, visible_senses
from tasks.swap.replacements import (
    AdjectiveReplacements,
    Admission,
    NounReplacements,
    RelationName,
    Replacement,
    SensePolicy,
    Tier,
)
from tasks.swap.tagger import Tagger, Token, load_tagger
from tasks.swap.wordlists import PAIRED
from tasks.swap.wordnet import SwapPos, WordNet, load_wordnet


@configuration
class SwapConfig:
    """What decides the edit prompts; every field is part of the fingerprint."""

    seed: int = 0
    """Mixed with the sample id into the seed of each caption."""
    min_corpus_count: Annotated[int, Field(ge=0, le=10**9)] = 0
    """How often the corpus's captions must hold a replacement, so that a target can exist; 0 asks nothing (paper)."""
    max_levels: Annotated[int, Field(ge=1, le=10)] = 2
    """Hypernym levels to climb for a co-hyponym when nearer ones are missing; 1 takes only true siblings."""
    noun_weight: Annotated[float, Field(ge=0, le=1e9)] = 0.5
    """Weight of swapping a noun when the caption offers both; any unit, only the ratio to the other counts."""
    adjective_weight: Annotated[float, Field(ge=0, le=1e9)] = 0.5
    """Weight of swapping an adjective when the caption offers both."""
    sense_policy: SensePolicy = "corpus"
    """Sense of the swapped noun: "first" the most frequent (the paper's simplest reading), "visible" the most frequent
    that can be seen, "corpus" of the first visible ones that whose neighbours the corpus holds. Without a vocabulary
    the last two are the same."""
    min_sense_share: Share = 0.2
    """Share in [0, 1] of a replacement's own uses that must have the sense in question ("boot" is no part of a car)."""
    only_contrasting: bool = True
    """Swap adjectives among satellites only where these exclude one another (red, blue; not huge, vast)."""
    extra_stop_words: tuple[str, ...] = ()
    """Further lower-case words that are neither swapped nor brought in."""
    max_characters: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Longest caption, characters."""
    max_words: Annotated[int, Field(ge=1, le=1000)] = 60
    """Longest caption, tokens."""
    min_known_share: Share = 0.6
    """Least share in [0, 1] of a caption's words that must be English."""

    def __post_init__(self) -> None:
        if self.noun_weight + self.adjective_weight == 0:
            raise ValueError("noun_weight and adjective_weight are both 0, so nothing could be swapped")
        for word in self.extra_stop_words:
            if word != word.lower():
                raise ValueError(f"extra_stop_words holds {word!r}, expected lower-case words")


DropReason = Literal["empty", "too_long", "malformed", "not_english", "no_candidate_word", "no_replacement"]
"""Why a caption has no edit prompt:

- ``empty``: no letter in it
- ``too_long``: more characters or words than the configuration allows
- ``malformed``: control characters, direction overrides or halves of surrogate pairs
- ``not_english``: too few known words
- ``no_candidate_word``: no noun or adjective of something that can be seen
- ``no_replacement``: candidates, but nothing fits in the place of any
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """An edit prompt and how it came about; all texts as they stand in the captions."""

    caption: str
    edit_prompt: str
    swapped_from: str
    swapped_to: str
    relation: RelationName
    pos: Literal["noun", "adjective"]
    source_synset: str
    """NLTK's name of the sense of ``swapped_from``: "bus.n.01"."""
    target_synset: str
    level: int
    """Steps up in WordNet to what both words have in common; 0 for a direct antonym."""
    source_diff: str
    """Difference prompt of the source: the noun, or the adjective with the noun that it describes."""
    target_diff: str
    """Difference prompt of the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapDrop:
    """A caption without an edit prompt."""

    caption: str
    reason: DropReason
    detail: str = ""
    """What was found, for a person; at most 200 characters."""


_MALFORMED: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def read_caption(caption: str, config: SwapConfig, tagger: Tagger) -> list[Token] | SwapDrop:
    """Return the tagged tokens of a caption that a swap can work on, else why it cannot."""
    if len(caption) > config.max_characters:
        detail = f"{len(caption)} characters, at most {config.max_characters}"
        return SwapDrop(caption=caption[: config.max_characters], reason="too_long", detail=detail)
    if (found := _MALFORMED.search(caption)) is not None:
        detail = f"character U+{ord(found.group()):04X} at place {found.start()}"
        return SwapDrop(caption=caption, reason="malformed", detail=detail)
    if not any(character.isalpha() for character in caption):
        return SwapDrop(caption=caption, reason="empty")
    tokens = tagger(caption)
    if len(tokens) > config.max_words:
        return SwapDrop(caption=caption, reason="too_long", detail=f"{len(tokens)} words, at most {config.max_words}")
    words = [token.lower for token in tokens if token.text[0].isalpha()]
    known = sum(tagger.knows(word) for word in words)
    if known < config.min_known_share * len(words):
        return SwapDrop(caption=caption, reason="not_english", detail=f"{known} of {len(words)} words are known")
    return tokens


_DETAIL_CHARACTERS: Final = 200
_BETWEEN: Final = " \t\r\n\u00a0\"'(\u2018\u201c"
"""What may stand between an article and its word."""


class Swapper:
    """Turns captions into edit prompts; made once for a configuration and a vocabulary, called for each caption."""

    def __init__(
        self,
        config: SwapConfig,
        vocabulary: Mapping[str, int] | None = None,
        *,
        tagger: Tagger | None = None,
        wordnet: WordNet | None = None,
    ) -> None:
        """Make a swapper.

        Args:
            config: the settings.
            vocabulary: how often the corpus's captions hold each word, by the keys of ``count_terms``.
            tagger: by default ``load_tagger()``.
            wordnet: by default ``load_wordnet()``.

        Raises:
            ConfigError: ``min_corpus_count`` asks for a vocabulary and there is none, or one with other keys.
            WordNetError: WordNet cannot be loaded.
        """
        _check_vocabulary(config, vocabulary)
        self.config = config
        self._wordnet = wordnet or load_wordnet()
        self._tagger = tagger or load_tagger()
        self._stop_words = frozenset(word.replace(" ", "_") for word in config.extra_stop_words)
        vocabulary = vocabulary or {}
        admission = Admission(
            self._wordnet,
            vocabulary=vocabulary,
            min_corpus_count=config.min_corpus_count,
            min_sense_share=config.min_sense_share,
        )
        self._nouns = NounReplacements(
            self._wordnet,
            admission,
            corpus_nouns=(key[:-2] for key, count in vocabulary.items() if key.endswith(".n") and count > 0),
            only_corpus=config.min_corpus_count > 0,
            max_levels=config.max_levels,
            sense_policy=config.sense_policy,
            min_sense_share=config.min_sense_share,
        )
        self._adjectives = AdjectiveReplacements(
            self._wordnet,
            admission,
            only_first_sense=config.sense_policy == "first",
            only_contrasting=config.only_contrasting,
        )

    def __call__(self, caption: str, *, seed: int) -> Swap | SwapDrop:
        """Swap one word of ``caption``; the result depends on the arguments alone, not on earlier calls.

        Args:
            caption: any text.
            seed: decides between equally good words; ``storage.ids.sample_seed`` makes one for each sample.
        """
        tokens = read_caption(caption, self.config, self._tagger)
        if isinstance(tokens, SwapDrop):
            return tokens
        units = [unit for unit in find_units(caption, tokens, self._wordnet) if unit.lemma not in self._stop_words]
        if not units:
            return SwapDrop(caption=caption, reason="no_candidate_word")
        rng = random.Random(seed)
        present = {*_words_of(tokens), *(unit.lemma for unit in units)}
        for unit in self._in_random_order(units, rng):
            if (replacement := self._draw(unit, present, rng)) is not None:
                return _swap(caption, tokens, unit, replacement)
        tried = ", ".join(caption[unit.start : unit.end] for unit in units)[:_DETAIL_CHARACTERS]
        return SwapDrop(caption=caption, reason="no_replacement", detail=tried)

    def _in_random_order(self, units: list[Unit], rng: random.Random) -> list[Unit]:
        """Shuffle, the part of speech drawn by its weight first; one with weight 0 is left out."""
        weights = {"n": self.config.noun_weight, "a": self.config.adjective_weight}
        noun_first = rng.random() * sum(weights.values()) < weights["n"]
        rng.shuffle(units)
        order = ("n", "a") if noun_first else ("a", "n")
        return [unit for pos in order if weights[pos] > 0 for unit in units if unit.pos == pos]

    def _draw(self, unit: Unit, present: set[str], rng: random.Random) -> Replacement | None:
        """Draw one of the nearest replacements that fit the caption, all with the same chance.

        None that the caption names already, by this or another word.
        """
        others = present.difference((unit.lemma, *unit.lemma.split("_")))
        named = frozenset[str]().union(*(self._meanings(word, unit.pos) for word in others))
        for tier in self._tiers(unit):
            fitting = [
                replacement
                for replacement in tier
                if others.isdisjoint(replacement.lemma.split("_"))
                and named.isdisjoint({replacement.target_synset, *self._meanings(replacement.lemma, unit.pos)})
                and replacement.lemma not in self._stop_words
                and _can_stand_as(replacement.lemma, unit)
            ]
            if fitting:
                return fitting[rng.randrange(len(fitting))]
        return None

    def _meanings(self, lemma: str, pos: SwapPos) -> frozenset[str]:
        """Return the names of the senses that a caption may mean by a word."""
        if pos == "n":
            return frozenset(one.sense.name for one in visible_senses(lemma, self._wordnet))
        ranked = self._wordnet.ranked_senses(lemma, pos)
        return frozenset(one.sense.name for one in ranked if one.share >= LEAST_SHARE)

    def _tiers(self, unit: Unit) -> Iterator[Tier]:
        if unit.pos == "a":
            yield self._adjectives.tier(unit.lemma, is_animate=unit.is_animate, is_shade=unit.is_shade)
        else:
            for place in range(self._nouns.num_tiers):
                yield self._nouns.tier(unit.lemma, place)


def swap_caption(
    caption: str, *, seed: int, config: SwapConfig, vocabulary: Mapping[str, int] | None = None
) -> Swap | SwapDrop:
    """Swap one word of one caption; for more than one make a ``Swapper``, which remembers what it looked up.

    Raises:
        ConfigError: ``config.min_corpus_count`` asks for a vocabulary and there is none.
        WordNetError: WordNet cannot be loaded.
    """
    return Swapper(config, vocabulary)(caption, seed=seed)


def _check_vocabulary(config: SwapConfig, vocabulary: Mapping[str, int] | None) -> None:
    if config.min_corpus_count > 0 and vocabulary is None:
        raise ConfigError(
            f"swap.min_corpus_count is {config.min_corpus_count} but no vocabulary was given; count the corpus's "
            "captions with count_terms, or set it to 0"
        )
    wrong = next((key for key in vocabulary or () if not key.endswith((".n", ".a"))), None)
    if wrong is not None:
        raise ConfigError(f"the vocabulary has the key {wrong!r}, expected keys as of count_terms: 'bus.n', 'red.a'")


def _words_of(tokens: Iterable[Token]) -> frozenset[str]:
    """Return the words of a caption that mean something, plurals as singulars, too."""
    words: set[str] = set()
    for token in tokens:
        if token.tag in {"NOUN", "PROPN", "ADJ", "VERB"}:
            words.add(token.lower)
            words.update(singular_forms(token.lower))
    return frozenset(words)


def _can_stand_as(lemma: str, unit: Unit) -> bool:
    """Return whether a replacement has the number that the unit has in its caption."""
    if unit.pos == "a":
        return True
    word = lemma.replace("_", " ")
    if unit.number == "mass":
        return is_mass(word)
    comes_alone = looks_singular(word) and word.rpartition(" ")[2] not in PAIRED
    return not is_mass(word) and (unit.number == "plural" or comes_alone)


def _swap(caption: str, tokens: list[Token], unit: Unit, replacement: Replacement) -> Swap:
    old = caption[unit.start : unit.end]
    new = replacement.lemma.replace("_", " ")
    if unit.number == "plural":
        new = plural(new)
    new = match_case(new, like=old)
    before = _with_article(caption[: unit.start], tokens, unit.start, new)
    prompts = (old, new) if unit.pos == "n" else (f"{old} {unit.described}", f"{new} {unit.described}")
    return Swap(
        caption=caption,
        edit_prompt=before + new + caption[unit.end :],
        swapped_from=old,
        swapped_to=new,
        relation=replacement.relation,
        pos="noun" if unit.pos == "n" else "adjective",
        source_synset=replacement.source_synset,
        target_synset=replacement.target_synset,
        level=replacement.level,
        source_diff=prompts[0],
        target_diff=prompts[1],
    )


def _with_article(before: str, tokens: list[Token], start: int, new: str) -> str:
    """Return the text before the new word with "a" or "an" made right when it ends in one."""
    token = next((token for token in reversed(tokens) if token.end <= start and token.tag != "PUNCT"), None)
    if token is None or token.lower not in {"a", "an"} or before[token.end :].strip(_BETWEEN):
        return before
    article = indefinite_article(new.lower())
    if token.text.isupper() and (len(token.text) > 1 or new.isupper()):
        article = article.upper()
    return before[: token.start] + match_case(article, like=token.text) + before[token.end :]
