"""The scores of each candidate pair (text, image, direction, layout), and the re-ranking by their weighted sum.

The paper takes the nearest neighbour as it is; see docs/decisions/0005-retrieval-query.md for why we do not. Axis names
in this file: n = sources, w = candidates of a source, d = dimension of the embeddings, l = of the layouts.
"""

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
from pydantic import Field

from iedit_model.configuration import configuration
from tasks.embed.stage import EmbedRows
from tasks.embed.vectors import Bools, Float64s, Int64s, gathered_cosines, rounded_scores, row_cosines, unit_rows
from tasks.errors import TaskError
from tasks.index.vector_index import VectorIndex


class MissingScoreError(TaskError):
    """A gate or a weight asks for a score that was not measured; the message says what the embed stage must store."""

    stops_run = True


NEEDED_COLUMN = {
    "source_text": "caption_embeds",
    "directional": "caption_embeds",
    "layout": "layout_embeds",
}
"""Score -> column of the embed stage without which it cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """Scores of n sources with w candidates each, all cosines in [-1, 1]; None where the embeddings are not there."""

    similarity: Float64s
    """Query against target image, (n, w)."""
    source_text: Float64s | None
    """Source image against its caption, (n,)."""
    target_text: Float64s
    """Target image against the edit prompt, (n, w)."""
    image: Float64s
    """Source image against target image, (n, w)."""
    directional: Float64s | None
    """Change from source to target image against change from caption to edit prompt, (n, w); 0 where nothing changes
    (StyleGAN-NADA, arXiv:2108.00946)."""
    layout: Float64s | None
    """Agreement of the layout descriptors, (n, w)."""


def measure_pairs(
    index: VectorIndex, rows: EmbedRows, *, queries: Float64s, sources: Int64s, positions: Int64s
) -> PairScores:
    """Return the scores of sources with candidates.

    Args:
        index: the corpus.
        rows: what the embed stage stored for the sources, (n, d) each.
        queries: unit rows (n, d).
        sources: positions (n,) of the sources in the index.
        positions: positions (n, w) of the candidates; the scores of negative ones have no meaning.

    Raises:
        EmbedTableError: ``rows`` came without images or edit prompts.
    """
    images, prompts = unit_rows(rows.held("image_embeds")), unit_rows(rows.held("text_embeds"))
    captions = None if rows.caption_embeds is None else unit_rows(rows.caption_embeds)
    wanted = [queries, images, prompts, *([] if captions is None else [captions])]
    similarity, image, target_text, *target_caption = gathered_cosines(index.vectors, positions, wanted)
    layout = None
    if index.layouts is not None:
        [layout] = gathered_cosines(index.layouts, positions, [unit_rows(index.layouts[sources])])
    directional = None
    if captions is not None:
        # (x - s) . (p - c), where x is the target image, s the source image, p the edit prompt and c the caption
        along = target_text - target_caption[0] - np.add.reduce(images * (prompts - captions), axis=-1)[:, None]
        image_step = np.sqrt(np.maximum(0, 2 - 2 * image))
        text_step = np.sqrt(np.add.reduce(np.square(prompts - captions), axis=-1))[:, None]
        steps = image_step * text_step
        directional = np.clip(np.divide(along, steps, out=np.zeros_like(along), where=steps > 1e-6), -1, 1)
    return PairScores(
        similarity=similarity,
        source_text=None if captions is None else row_cosines(images, captions),
        target_text=target_text,
        image=image,
        directional=directional,
        layout=layout,
    )


@configuration
class RerankConfig:
    """Weights of the scores; they are divided by their sum, so that a ranking score is a mean of cosines."""

    similarity: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Query against target image. The paper ranks by this alone."""
    target_text: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Target image against the edit prompt."""
    image: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Source image against target image."""
    directional: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Change of the images against change of the texts; needs ``caption_embeds``."""
    layout: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Agreement of the layouts; needs ``layout_embeds``."""

    def __post_init__(self) -> None:
        if not sum(getattr(self, field.name) for field in fields(self)):
            raise ValueError("the weights are all 0, so that nothing would be ranked")


def ranking_scores(scores: PairScores, config: RerankConfig) -> Float64s:
    """Return the mean of the scores (n, w) under the weights, in [-1, 1].

    Raises:
        MissingScoreError: a weighted score was not measured.
    """
    total = np.zeros_like(scores.similarity)
    weights = {field.name: getattr(config, field.name) for field in fields(config)}
    for name, weight in weights.items():
        if weight:
            score = getattr(scores, name)
            if score is None:
                raise MissingScoreError(
                    f"rerank.{name} is {weight}, but the embed stage stored no {NEEDED_COLUMN[name]}: "
                    "set it to 0 or embed again with that column"
                )
            total += weight * score
    return total / sum(weights.values())


def reranked(scores: Float64s, positions: Int64s, eligible: Bools) -> Int64s:
    """Return the order (n, w) of each row: eligible ones by (-score in steps of 1e-6, position), then the rest."""
    places = np.broadcast_to(np.arange(positions.shape[1]), positions.shape)
    keys = np.where(eligible, -rounded_scores(scores), 0)
    return np.lexsort((np.where(eligible, positions, places), keys, ~eligible), axis=-1)
