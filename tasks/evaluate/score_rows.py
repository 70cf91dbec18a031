"""Metrics of a batch of edited images, and their features for the distances between sets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iedit_model.metrics.catalogue import metric_info
from tasks.evaluate.networks import ScoringNetworks
from tasks.evaluate.sets.evalset import EvalPair
from tasks.evaluate.sets.pixels import Frame

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """One edited image with its source."""

    pair: EvalPair
    seed: int
    frame: Frame
    edited: "Image"


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchScores:
    """The metrics of a batch, and the image embeddings that they were made of."""

    metrics: list[dict[str, float | None]]
    """One a row, by the metric's name; None where it is undefined."""
    embeds: "dict[str, Tensor]"
    """Encoder -> embeddings of the edited images."""


def score_batch(batch: Sequence[Scored], networks: ScoringNetworks) -> BatchScores:
    """Return every per-image metric of a batch.

    A pair without a mask in the set leaves all masked metrics undefined; one whose mask is empty leaves those inside
    of it undefined.

    Raises:
        MetricInputError: images or masks are not what the metrics can take.
    """
    import torch

    from iedit_model.metrics.catalogue import score_edits
    from iedit_model.metrics.registry import ClipEmbeds, EditBatch

    # Several seeds of a pair stand beside each other: its source and its prompts are embedded once.
    pairs = {one.pair.pair_id: one for one in batch}
    row_of = {pair_id: row for row, pair_id in enumerate(pairs)}
    rows_of_batch = [row_of[one.pair.pair_id] for one in batch]
    clip: dict[str, ClipEmbeds] = {}
    for name, encoder in networks.encoders.items():
        edited = torch.from_numpy(encoder.encode_images([one.edited for one in batch]))
        source, before, after = (
            torch.from_numpy(found)[rows_of_batch]
            for found in (
                encoder.encode_images([one.frame.image for one in pairs.values()]),
                encoder.encode_texts([one.pair.source_prompt for one in pairs.values()]),
                encoder.encode_texts([one.pair.edit_prompt for one in pairs.values()]),
            )
        )
        clip[name] = ClipEmbeds(source_images=source, edited_images=edited, source_prompts=before, edit_prompts=after)
    columns = score_edits(
        EditBatch(
            source_images=image_tensor([one.frame.image for one in batch]),
            edited_images=image_tensor([one.edited for one in batch]),
            masks=torch.from_numpy(np.stack([one.frame.mask for one in batch])),
            clip=clip,
            lpips=networks.lpips,
        )
    )
    lists = {name: values.tolist() for name, values in columns.items()}
    rows = [
        {name: _value(name, values[index], one) for name, values in lists.items()} for index, one in enumerate(batch)
    ]
    return BatchScores(metrics=rows, embeds={name: embeds.edited_images for name, embeds in clip.items()})


def feature_rows(
    batch: Sequence[Scored], scores: BatchScores | None, networks: ScoringNetworks
) -> list[dict[str, Any]]:
    """Return the rows of ``FEATURES``: the feature network and every encoder on the edited images.

    Args:
        batch: the images.
        scores: their scores, whose embeddings are used; None embeds them here.
        networks: the networks.
    """
    import torch

    images = [one.edited for one in batch]
    found = {networks.features.name: networks.features(image_tensor(images)).float()}
    for name, encoder in networks.encoders.items():
        found[name] = torch.from_numpy(encoder.encode_images(images)) if scores is None else scores.embeds[name]
    return [
        {
            "pair_id": one.pair.pair_id,
            "image_id": one.pair.image_id,
            "seed": one.seed,
            "network": network,
            "features": features[index].tolist(),
        }
        for network, features in found.items()
        for index, one in enumerate(batch)
    ]


def image_tensor(images: "Sequence[Image]") -> "Tensor":
    """Return RGB pictures of one size as (b, 3, h, w) in [0, 1], fp32."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def _value(name: str, value: float, one: Scored) -> float | None:
    needs_mask = metric_info(name).needs_mask
    return None if math.isnan(value) or (needs_mask and not one.frame.mask_known) else value
