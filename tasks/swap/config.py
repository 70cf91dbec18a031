"""The settings of the word swap: what is swapped, against what, and which captions are read at all."""

from dataclasses import dataclass
from typing import get_args

from tasks.errors import TaskConfigError
from tasks.swap.noun_replacements import SensePolicy


@dataclass(frozen=True, kw_only=True)
class SwapConfig:
    """What decides the edit prompts; every field is part of the fingerprint."""

    seed: int = 0
    """Mixed with the sample id into the seed of each caption."""
    min_corpus_count: int = 0
    """How often the corpus's captions must hold a replacement, so that a target can exist; 0 asks nothing (paper)."""
    max_levels: int = 2
    """Hypernym levels to climb for a co-hyponym when nearer ones are missing; 1 takes only true siblings."""
    noun_weight: float = 0.5
    """Weight of swapping a noun when the caption offers both; any unit, only the ratio to the other counts."""
    adjective_weight: float = 0.5
    """Weight of swapping an adjective when the caption offers both."""
    sense_policy: SensePolicy = "corpus"
    """Sense of the swapped noun: "first" the most frequent (the paper's simplest reading), "visible" the most frequent
    that can be seen, "corpus" of the first visible ones that whose neighbours the corpus holds. Without a vocabulary
    the last two are the same."""
    min_sense_share: float = 0.2
    """Share in [0, 1] of a replacement's own uses that must have the sense in question ("boot" is no part of a car)."""
    only_contrasting: bool = True
    """Swap adjectives among satellites only where these exclude one another (red, blue; not huge, vast)."""
    extra_stop_words: tuple[str, ...] = ()
    """Further lower-case words that are neither swapped nor brought in."""
    max_characters: int = 500
    """Longest caption, characters."""
    max_words: int = 60
    """Longest caption, tokens."""
    min_known_share: float = 0.6
    """Least share in [0, 1] of a caption's words that must be English."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TaskConfigError: a value is out of range.
        """
        for name, low, high in (
            ("min_corpus_count", 0, 10**9),
            ("max_levels", 1, 10),
            ("noun_weight", 0, 1e9),
            ("adjective_weight", 0, 1e9),
            ("min_sense_share", 0, 1),
            ("max_characters", 1, 10_000),
            ("max_words", 1, 1_000),
            ("min_known_share", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise TaskConfigError(f"swap.{name} is {value}, expected a number in [{low}, {high}]")
        if self.noun_weight + self.adjective_weight == 0:
            raise TaskConfigError("swap.noun_weight and swap.adjective_weight are both 0, so nothing could be swapped")
        for word in self.extra_stop_words:
            if word != word.lower():
                raise TaskConfigError(f"swap.extra_stop_words holds {word!r}, expected lower-case words")
        if self.sense_policy not in get_args(SensePolicy):
            known = ", ".join(get_args(SensePolicy))
            raise TaskConfigError(f"swap.sense_policy is {self.sense_policy!r}, expected one of {known}")
