"""The best candidates of each query, ranked exactly and with what must be excluded marked.

What is defined here does not depend on how faiss finds candidates: all images but the source itself are ranked by the
cosine with the query in steps of 1e-6, equal ones by sample id; the first ``top_k`` that no exclusion hits are kept, in
that order, and behind them the first ``top_k`` excluded ones that stood before the last of these.

Axis names in this file: n = queries, m = candidates looked at, w = candidates kept, d = dimension of the embeddings.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.configuration import Cosine, configuration
from tasks.corpus import Facts
from tasks.embed.vectors import Bools, Float64s, Int64s, gathered_cosines, rounded_scores
from tasks.index.vector_index import VectorIndex

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


_UNSETTLED_STEPS: Final = 20
"""faiss computes in float32: within so many steps of 1e-6 of the worst score found, others may have been missed."""
_BLOCK_NUMBERS: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Queries (n, d) with the positions (n,) of their sources in the index and the source images (n, d), unit rows."""

    queries: Float64s
    sources: Int64s
    images: Float64s

    def take(self, rows: Int64s) -> "Batch":
        """Return some of the rows."""
        return Batch(queries=self.queries[rows], sources=self.sources[rows], images=self.images[rows])


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates (n, w) of n queries: first those that may be a target, best first, then excluded ones, best first."""

    positions: Int64s
    """Position in the index; -1 pads short rows at their end."""
    exclusions: npt.NDArray[np.uint8]
    """Position in ``EXCLUSIONS``; 0 for those that may be a target and for padding."""

    @property
    def present(self) -> Bools:
        """Where there is a candidate."""
        return self.positions >= 0

    @property
    def eligible(self) -> Bools:
        """Where there is a candidate that may be a target."""
        return self.present & (self.exclusions == 0)


def find_candidates(
    index: VectorIndex, batch: Batch, *, top_k: int, margin: int, exclude: ExclusionConfig
) -> Candidates:
    """Return the candidates of each query.

    ``margin`` more than ``top_k`` are fetched at first, and twice as many again for the queries for which too many are
    excluded or tie with the last one, until there are enough or the index has no more.
    """
    n = len(batch.queries)
    positions = np.full((n, 2 * top_k), -1, np.int64)
    exclusions = np.zeros((n, 2 * top_k), np.uint8)
    todo = np.arange(n)
    fetch = min(top_k + margin + 1, index.neighbours.max_fetch)
    while todo.size:
        rows_at_once = max(1, _BLOCK_NUMBERS // fetch)
        left = []
        for start in range(0, todo.size, rows_at_once):
            rows = todo[start : start + rows_at_once]
            found, codes, enough = _look(index, batch.take(rows), fetch, top_k=top_k, exclude=exclude)
            positions[rows], exclusions[rows] = found, codes
            left.append(rows[~enough])
        todo = np.concatenate(left)
        fetch = min(2 * fetch, index.neighbours.max_fetch)
    width = max(1, int((positions >= 0).sum(axis=1).max(initial=0)))
    return Candidates(positions=positions[:, :width], exclusions=exclusions[:, :width])


def _look(
    index: VectorIndex, batch: Batch, fetch: int, *, top_k: int, exclude: ExclusionConfig
) -> tuple[Int64s, npt.NDArray[np.uint8], Bools]:
    """Return positions and exclusions (n, 2 top_k) from one search, and which queries have all that they need."""
    found = index.neighbours.search(batch.queries, fetch)
    # Fewer than asked for: the search has seen all that it can see. So has one that may not fetch more.
    seen_all = np.any(found < 0, axis=1, keepdims=True) | (fetch >= index.neighbours.max_fetch)
    similarity, image_similarity = gathered_cosines(index.vectors, found, [batch.queries, batch.images])
    scores = rounded_scores(similarity)
    best_first = np.lexsort((found, -scores, found < 0), axis=-1)
    found, scores, image_similarity = (
        np.take_along_axis(found, best_first, axis=1),
        np.take_along_axis(scores, best_first, axis=1),
        np.take_along_axis(image_similarity, best_first, axis=1),
    )
    codes = exclusion_codes(batch.sources, found, image_similarity, index.facts, exclude)
    worst = np.where(found >= 0, scores, np.iinfo(np.int32).max).min(axis=1, keepdims=True)
    settled = (scores > worst + _UNSETTLED_STEPS) | seen_all
    counts = (found >= 0) & settled & (found != batch.sources[:, None])
    eligible = counts & (codes == 0)
    before = np.cumsum(eligible, axis=1) - eligible  # eligible candidates in front of each
    enough = seen_all[:, 0] | (eligible.sum(axis=1) >= top_k)
    excluded = counts & (codes != 0) & (before < top_k)
    excluded &= np.cumsum(excluded, axis=1) <= top_k
    group = np.select([eligible & (before < top_k), excluded], [0, 1], default=2)
    order = np.argsort(group, axis=1, kind="stable")[:, : 2 * top_k]
    group = np.take_along_axis(group, order, axis=1)
    kept = np.where(group < 2, np.take_along_axis(found, order, axis=1), -1)
    kept_codes = np.where(group == 1, np.take_along_axis(codes, order, axis=1), 0).astype(np.uint8)
    padding = ((0, 0), (0, 2 * top_k - kept.shape[1]))
    return np.pad(kept, padding, constant_values=-1), np.pad(kept_codes, padding), enough
