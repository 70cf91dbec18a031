"""What becomes of a caption: an edit prompt, or the reason why it has none."""

from dataclasses import dataclass
from typing import Literal

from tasks.swap.replacements import RelationName

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
