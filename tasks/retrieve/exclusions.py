"""Which images may never be a sample's target: the same picture again, and pictures of what it already shows.

Axis names in this file: n = sources, m = candidates of a source.
"""

from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.configuration import Cosine, configuration
from tasks.corpus import Facts
from tasks.embed.vectors import Float64s, Int64s, rounded_scores

EXCLUSIONS: Final = ("", "same_url", "same_hash", "near_duplicate", "same_caption")
"""Names of the codes of ``exclusion_codes``; where several hold, the first is the reason."""

_STEP: Final = 1e-4


@configuration
class ExclusionConfig:
    """What is excluded before a target is chosen, beside the source itself.

    About 30 % of LAION-2B are duplicates (arXiv:2303.12733): without this many targets would be copies of the source.
    """

    same_url: bool = True
    """Exclude images whose address differs at most in scheme, ``www.`` or fragment."""
    same_hash: bool = True
    """Exclude images whose original bytes are the source's."""
    max_image_similarity: Cosine | None = 0.98
    """Exclude images whose cosine with the source image is above this; None excludes none."""
    max_phash_distance: Annotated[int, Field(ge=0, le=64)] | None = 4
    """Exclude images whose 64-bit perceptual hash differs in at most so many bits; None excludes none."""
    phash_min_image_similarity: Cosine = 0.95
    """The hash counts only from this image cosine on: it hardly sees colour, and alone it would exclude the best
    targets of colour edits. -1 lets it count always."""
    same_caption: bool = False
    """Exclude images whose caption is the source's (case and spacing aside). Not in the paper."""


def exclusion_codes(
    sources: Int64s, candidates: Int64s, image_similarity: Float64s, facts: Facts, config: ExclusionConfig
) -> npt.NDArray[np.uint8]:
    """Return for each candidate a position in ``EXCLUSIONS``, uint8 (n, m): 0 when it may be a target.

    Args:
        sources: positions (n,) of the source images in the corpus.
        candidates: positions (n, m); what stands at negative ones has no meaning.
        image_similarity: cosines (n, m) of candidate and source image, compared in steps of 1e-4.
        facts: the corpus, in the order of the positions.
        config: what to exclude.
    """
    mine, theirs = facts[sources][:, None], facts[np.maximum(candidates, 0)]
    codes = np.zeros(candidates.shape, np.uint8)
    rounded = rounded_scores(image_similarity, _STEP)
    # The last to be written wins, so the first reason comes last.
    if config.same_caption:
        codes[_same("caption", mine, theirs)] = EXCLUSIONS.index("same_caption")
    if config.max_phash_distance is not None:
        bits = np.bitwise_count(mine["phash"].view(np.uint64) ^ theirs["phash"].view(np.uint64))
        close = (bits <= config.max_phash_distance) & mine["has_phash"] & theirs["has_phash"]
        close &= rounded >= round(config.phash_min_image_similarity / _STEP)
        codes[close] = EXCLUSIONS.index("near_duplicate")
    if config.max_image_similarity is not None:
        codes[rounded > round(config.max_image_similarity / _STEP)] = EXCLUSIONS.index("near_duplicate")
    if config.same_hash:
        codes[_same("content", mine, theirs)] = EXCLUSIONS.index("same_hash")
    if config.same_url:
        codes[_same("url", mine, theirs)] = EXCLUSIONS.index("same_url")
    return codes


def _same(field: str, mine: Facts, theirs: Facts) -> npt.NDArray[np.bool_]:
    return (mine[field] == theirs[field]) & (mine[field] != 0)
