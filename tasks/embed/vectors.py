"""Unit vectors: which rows can be used, and cosines that do not depend on the batch in which they are taken.

Axis names in this file: n = rows, m = candidates of a row, d = dimension of the embeddings.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]
Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FLAWS: Final = ("", "not_finite", "zero", "not_unit")
"""Names of the codes of ``find_flaws``."""

SCORE_STEP: Final = 1e-6
"""Scores that round to the same multiple of this count as equal when they are ranked."""

_NORM_TOLERANCE: Final = 0.01
"""Half precision moves a norm by 1e-3 at most; more is another kind of vector."""
_BLOCK_BYTES: Final = 1 << 20
"""Stays within a core's cache; larger blocks took 1.6 times as long."""


def find_flaws(rows: Rows) -> npt.NDArray[np.uint8]:
    """Return for each row of (n, d) a position in ``FLAWS``: 0 for a finite row of unit norm."""
    norms = np.sqrt(np.add.reduce(np.square(rows, dtype=np.float64), axis=-1))
    codes = np.zeros(len(rows), np.uint8)
    codes[np.abs(norms - 1) > _NORM_TOLERANCE] = FLAWS.index("not_unit")
    codes[norms == 0] = FLAWS.index("zero")
    codes[~np.isfinite(norms)] = FLAWS.index("not_finite")
    return codes


def unit_rows(rows: Rows) -> Float64s:
    """Return rows (..., d) in float64, each divided by its norm; a zero row stays zero."""
    exact = rows.astype(np.float64)
    norms = np.sqrt(np.add.reduce(np.square(exact), axis=-1, keepdims=True))
    exact /= np.where(norms == 0, 1, norms)
    return exact


def gathered_cosines(vectors: Rows, positions: Int64s, queries: Sequence[Float64s]) -> list[Float64s]:
    """Return for each of ``queries`` its cosines (n, m) with the rows of ``vectors`` at ``positions`` (n, m).

    Multiplied and summed in float64 along the last axis by einsum's own loop, never by a matrix product: BLAS sums in
    an order that depends on the shape of the batch, and then the last bits do too.

    Args:
        vectors: (rows, d), of any norm but zero; may be memory-mapped.
        positions: rows of ``vectors``; negative ones mean no candidate and give cosines of -1.
        queries: unit rows (n, d), float64.
    """
    n, m = positions.shape
    cosines = [np.empty((n, m)) for _ in queries]
    columns = max(1, min(m, _BLOCK_BYTES // (8 * vectors.shape[1])))
    rows = max(1, _BLOCK_BYTES // (8 * vectors.shape[1] * columns))
    for top in range(0, n, rows):
        for left in range(0, m, columns):
            block = np.s_[top : top + rows, left : left + columns]
            candidates = vectors[np.maximum(positions[block], 0)].astype(np.float64)
            norms = np.sqrt(np.einsum("nmd,nmd->nm", candidates, candidates))
            for out, query in zip(cosines, queries, strict=True):
                out[block] = np.einsum("nmd,nd->nm", candidates, query[top : top + rows]) / norms
    for out in cosines:
        np.clip(out, -1, 1, out=out)
        out[positions < 0] = -1
    return cosines


def row_cosines(left: Float64s, right: Float64s) -> Float64s:
    """Return the cosine (n,) of each row of ``left`` with the same row of ``right``; 0 where one of them is zero."""
    return np.clip(np.add.reduce(unit_rows(left) * unit_rows(right), axis=-1), -1, 1)


def rounded_scores(scores: Float64s, step: float = SCORE_STEP) -> Int64s:
    """Return scores as whole multiples of ``step``, by which they are compared."""
    return np.rint(scores / step).astype(np.int64)
