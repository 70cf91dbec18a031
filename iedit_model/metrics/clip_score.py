"""Similarities of CLIP embeddings: CLIPScore, the raw cosine, the direction of the edit, image to image.

All take embeddings (b, d) as tensors, of any length, and return one value per row in float64. A similarity is NaN for a
vector without a direction. iEdit trains on a CLIP loss, so report a held-out encoder beside the one of the loss.
"""

import math
from typing import TYPE_CHECKING

from iedit_model.metrics.checks import require_embeds
from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.registry import ClipEmbeds, MetricInfo, image_metric

if TYPE_CHECKING:
    from torch import Tensor

CLIP_SCORE_WEIGHT = 2.5
"""The w of CLIPScore (Hessel et al. 2021, Eq. 1)."""
MIN_CHANGE = 1e-5
"""Shortest difference of two unit embeddings that counts as a change: above what fp32 encoders vary with batch size."""


def clip_cosine(image_embeds: "Tensor", text_embeds: "Tensor") -> "Tensor":
    """Return the raw cosine of each image with its text, (b,) in [-1, 1]; torchmetrics reports 100 times this.

    Raises:
        MetricInputError: shapes differ, or a value is not finite.
    """
    return _cosine(*_pair(image_embeds, text_embeds, names=("image_embeds", "text_embeds")))


def clip_score(image_embeds: "Tensor", text_embeds: "Tensor") -> "Tensor":
    """Return CLIPScore as published, in percent: 100 * 2.5 * max(cos, 0), (b,).

    Hessel et al. 2021 (arXiv:2104.08718) Eq. 1, clipped image by image. The paper's Tables 1 and 2 are in this unit
    (62 to 67 % is a cosine of 0.25 to 0.27).

    Raises:
        MetricInputError: shapes differ, or a value is not finite.
    """
    return 100 * CLIP_SCORE_WEIGHT * clip_cosine(image_embeds, text_embeds).clamp(min=0)


def clip_image_similarity(source_image_embeds: "Tensor", edited_image_embeds: "Tensor") -> "Tensor":
    """Return the cosine of the source with the edited image, (b,) in [-1, 1].

    Raises:
        MetricInputError: shapes differ, or a value is not finite.
    """
    return _cosine(
        *_pair(source_image_embeds, edited_image_embeds, names=("source_image_embeds", "edited_image_embeds"))
    )


def clip_directional(
    source_image_embeds: "Tensor",
    edited_image_embeds: "Tensor",
    source_text_embeds: "Tensor",
    edit_text_embeds: "Tensor",
) -> "Tensor":
    """Return cos(E(edited) - E(source), E(edit prompt) - E(source prompt)) of unit embeddings, (b,).

    StyleGAN-NADA (arXiv:2108.00946), as InstructPix2Pix evaluates it. NaN where the image or the text has not changed
    (a difference shorter than ``MIN_CHANGE``): copying the source has no direction, good or bad.

    Raises:
        MetricInputError: shapes differ, or a value is not finite.
    """
    images = _pair(source_image_embeds, edited_image_embeds, names=("source_image_embeds", "edited_image_embeds"))
    texts = _pair(source_text_embeds, edit_text_embeds, names=("source_text_embeds", "edit_text_embeds"))
    if images[0].shape != texts[0].shape:
        raise MetricInputError(
            f"image embeddings {tuple(images[0].shape)} and text embeddings {tuple(texts[0].shape)} differ in shape"
        )
    image_change, text_change = (_unit(after) - _unit(before) for before, after in (images, texts))
    return _cosine(image_change, text_change, min_norm=MIN_CHANGE)


@image_metric(
    MetricInfo(
        name="clip_score",
        title="CLIPScore",
        unit="%",
        better="higher",
        definition="100 * 2.5 * max(cos, 0) of the edited image and the edit prompt, as published.",
        shown_in=("comparisons", "strata", "edits"),
        is_watched=True,
    ),
    MetricInfo(
        name="clip_cosine",
        title="CLIP cosine",
        better="higher",
        definition="Raw cosine of the edited image and the edit prompt.",
        same_order_as="clip_score",
    ),
    MetricInfo(
        name="clip_directional",
        title="CLIP directional",
        better="higher",
        definition="Cosine of the change of the image and the change of the prompt; undefined without a change.",
        shown_in=("comparisons", "edits"),
    ),
    MetricInfo(
        name="clip_image_similarity",
        title="CLIP image similarity",
        better="neither",
        definition="Cosine of the source and the edited image.",
    ),
    version=1,
    network="clip",
)
def _clip_metrics(embeds: ClipEmbeds) -> "dict[str, Tensor]":
    return {
        "clip_score": clip_score(embeds.edited_images, embeds.edit_prompts),
        "clip_cosine": clip_cosine(embeds.edited_images, embeds.edit_prompts),
        "clip_directional": clip_directional(
            embeds.source_images, embeds.edited_images, embeds.source_prompts, embeds.edit_prompts
        ),
        "clip_image_similarity": clip_image_similarity(embeds.source_images, embeds.edited_images),
    }


def _pair(first: "Tensor", second: "Tensor", *, names: tuple[str, str]) -> "tuple[Tensor, Tensor]":
    if first.shape != second.shape:
        raise MetricInputError(f"{names[0]} {tuple(first.shape)} and {names[1]} {tuple(second.shape)} differ in shape")
    return require_embeds(first, name=names[0]), require_embeds(second, name=names[1])


def _unit(embeds: "Tensor") -> "Tensor":
    norms = embeds.norm(dim=1, keepdim=True)
    return (embeds / norms).where(norms > 0, math.nan)


def _cosine(first: "Tensor", second: "Tensor", *, min_norm: float = 0.0) -> "Tensor":
    shorter = first.norm(dim=1).minimum(second.norm(dim=1))
    cosine = (_unit(first) * _unit(second)).sum(dim=1).clamp(-1, 1)
    return cosine.where(shorter > min_norm, math.nan)
