"""The query of the retrieval: a mix of the source image's embedding and the edit prompt's (Section 3.1 of the paper).

Axis names in this file: n = samples, d = dimension of the embeddings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from iedit_model.configuration import Share, configuration
from tasks.embed.vectors import Float64s, Rows, unit_rows

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
