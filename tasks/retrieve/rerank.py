"""Re-ranking: order the candidates of a source by a weighted sum of their scores.

The paper takes the nearest neighbour as it is; see docs/decisions/0005-retrieval-query.md for why we do not.
"""

from dataclasses import fields
from typing import Annotated

import numpy as np
from pydantic import Field

from iedit_model.configuration import configuration
from tasks.embed.vectors import Bools, Float64s, Int64s, rounded_scores
from tasks.retrieve.pair_scores import NEEDED_COLUMN, MissingScoreError, PairScores


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
