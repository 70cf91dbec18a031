"""The settings of the word swap: what is swapped, against what, and which captions are read at all."""

from typing import Annotated

from pydantic import Field

from iedit_model.configuration import Share, configuration
from tasks.swap.noun_replacements import SensePolicy


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
