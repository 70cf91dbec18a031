"""How many of the true nearest neighbours an index finds, measured against a full search."""

from collections.abc import Callable
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from iedit_model.configuration import Seed, Share, configuration
from tasks.embed.rows import Float16s
from tasks.embed.vectors import Float64s, Int64s, gathered_cosines, unit_rows

Search = Callable[[Float64s, int], Int64s]
"""Queries (n, d) and k -> positions (n, k), -1 where there is none."""

_TOLERANCE: Final = 2e-6
"""The full search runs in float32; a neighbour that is worse by less is as good."""
_BLOCK_ROWS: Final = 16_384


@configuration
class RecallConfig:
    """How the recall is measured, and how high it must be."""

    least: Share = 0.95
    """Share of the true neighbours in [0, 1] that must be found, else the stage fails."""
    queries: Annotated[int, Field(ge=1, le=10**6)] = 256
    """Images whose queries are tried."""
    top_k: Annotated[int, Field(ge=1, le=2048)] = 20
    """Neighbours of each that should be found; the retrieval's ``top_k``."""
    text_weights: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.8)
    """Text weights of the queries; the worst one counts."""
    seed: Seed = 0
    """Decides which images."""

    def sample(self, num_rows: int) -> Int64s:
        """Return the sorted positions of the images whose queries are tried."""
        size = min(self.queries, num_rows)
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(num_rows, size, replace=False, shuffle=False)).astype(np.int64)


def kth_scores(vectors: Float16s, queries: Float64s, k: int) -> Float64s:
    """Return the k-th highest cosine (n,) of each query with all vectors (rows, d), k at most the number of rows."""
    best = np.zeros((len(queries), 0), np.float32)
    rows = queries.astype(np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = rows @ unit_rows(vectors[start : start + _BLOCK_ROWS]).astype(np.float32).T
        best = np.concatenate([best, block], axis=1)
        if best.shape[1] > k:
            best = np.partition(best, best.shape[1] - k, axis=1)[:, -k:]
    return best.min(axis=1).astype(np.float64)


def recall(search: Search, vectors: Float16s, queries: Float64s, kth: Float64s, k: int) -> float:
    """Return the share in [0, 1] of the k nearest neighbours that ``search`` finds; ties with the k-th all count.

    Args:
        search: what is measured.
        vectors: the whole corpus (rows, d), unit norm.
        queries: unit rows (n, d), n > 0.
        kth: ``kth_scores`` of them.
        k: neighbours of a query, at most the rows of the corpus.
    """
    positions = search(queries, k)
    [scores] = gathered_cosines(vectors, positions, [queries])
    found = (scores >= kth[:, None] - _TOLERANCE) & (positions >= 0)
    return float(found.sum(axis=1).mean() / k)
