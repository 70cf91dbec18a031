"""Unit vectors: which rows can be used, cosines that no batch size changes, and the query of the retrieval.

A query is a mix of the source image's embedding and the edit prompt's (Section 3.1 of the paper). Axis names in this
file: n = rows, m = candidates of a row, d = dimension of the embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from iedit_model.configuration import Share, configuration

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


QueryMode = Literal["paper", "ours"]


@configuration
class QueryConfig:
    """How image and text are mixed."""

    text_weight: Share = 0.5
    """Share of the edit prompt in [0, 1]; the source image has the rest. The paper takes the mean: 0.5."""
    centred: bool = False
    """Subtract from each embedding the mean of its modality over the corpus first, so that the gap between images and
    texts no longer decides (arXiv:2507.19054). Not in the paper."""


@dataclass(frozen=True, kw_only=True)
class ModalityMeans:
    """Means (d,) of all raw image and text embeddings of the corpus, float64."""

    image: Float64s
    text: Float64s


QUERIES: Final[Mapping[QueryMode, QueryConfig]] = {
    "paper": QueryConfig(),
    # docs/decisions/0005-retrieval-query.md
    "ours": QueryConfig(text_weight=0.8),
}
"""The paper's query, and the one that this project takes by default."""


def query_embeds(image_embeds: Rows, text_embeds: Rows, config: QueryConfig, means: ModalityMeans) -> Float64s:
    """Return the queries (n, d), float64: normalise((1 - w) image + w text), each side a unit vector.

    The paper: "we use the mean of these embeddings to retrieve the nearest-neighbour image" (Section 3.1). With
    ``centred`` each side is normalise(embedding - mean of its modality). The corpus needs no change then: a query's
    product with (x - mean) differs from its product with x by the same number for all x, so that the order is one.

    Args:
        image_embeds: source images (n, d), of about unit norm.
        text_embeds: their edit prompts (n, d).
        config: weight and centring.
        means: means of the two modalities; used only for centring.

    Returns:
        Unit rows; a row of zeros where the two sides cancel out, for which there is no query.
    """
    image, text = (
        unit_rows(rows.astype(np.float64) - mean if config.centred else rows)
        for rows, mean in ((image_embeds, means.image), (text_embeds, means.text))
    )
    mixed = (1 - config.text_weight) * image + config.text_weight * text
    mixed[np.sqrt(np.add.reduce(np.square(mixed), axis=-1)) < 1e-6] = 0
    return unit_rows(mixed)


class MeanAccumulator:
    """Mean of half-precision rows that comes out the same, to the last bit, in any order and any division.

    A half-precision number of size 1 or less is a multiple of 2**-24. Sums of up to 2**29 of them are multiples of
    2**-24 below 2**29, which float64 holds exactly: nothing is ever rounded before the final division.
    """

    def __init__(self, dim: int) -> None:
        """Begin with no rows of ``dim`` numbers."""
        self._sum = np.zeros(dim, np.float64)
        self._count = 0

    def add(self, rows: Rows) -> None:
        """Add rows (n, d), float16, with entries of size 1 or less."""
        self._sum += np.add.reduce(rows, axis=0, dtype=np.float64)
        self._count += len(rows)

    def mean(self) -> Float64s:
        """Return the mean (d,), float64; zeros when there was no row."""
        return self._sum / max(self._count, 1)
