"""Refuse what a metric is not defined on, before any arithmetic."""

from typing import TYPE_CHECKING

import numpy as np

from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from iedit_model.metrics.registry import Floats

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_CHANNELS = 3


def require_images(images: "Tensor", *, name: str) -> "Tensor":
    """Return ``images`` when they are floats in [0, 1], (b, 3, h, w).

    Raises:
        MetricInputError: another shape, an integer type, or values outside [0, 1] (NaN included).
    """
    if images.dim() != 4 or images.shape[1] != IMAGE_CHANNELS:
        raise MetricInputError(f"{name} is {tuple(images.shape)}, expected (b, 3, h, w)")
    if not images.is_floating_point():
        raise MetricInputError(f"{name} is {images.dtype}, expected floats in [0, 1]: divide 8-bit images by 255")
    if images.numel():
        _require_unit_range(images, name=name)
    return images


def require_image_pair(source_images: "Tensor", edited_images: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return both image batches in float64.

    fp32 is not enough: a local variance is the small difference of two large moments.

    Raises:
        MetricInputError: one is no image batch, or their shapes differ.
    """
    require_images(source_images, name="source_images")
    require_images(edited_images, name="edited_images")
    if source_images.shape != edited_images.shape:
        raise MetricInputError(
            f"source_images {tuple(source_images.shape)} and edited_images {tuple(edited_images.shape)} differ in shape"
        )
    return source_images.double(), edited_images.double()


def require_masks(masks: "Tensor", images: "Tensor") -> "Tensor":
    """Return the masks as float64 weights (b, 1, h, w) that fit ``images``.

    Args:
        masks: bool or float in [0, 1], (b, h, w) or (b, 1, h, w), 1 = edit here.
        images: the batch they belong to, (b, 3, h, w).

    Raises:
        MetricInputError: the shape does not fit, an integer type, or values outside [0, 1].
    """
    import torch

    weights = masks.unsqueeze(1) if masks.dim() == 3 else masks
    wanted = (images.shape[0], 1, *images.shape[2:])
    if tuple(weights.shape) != wanted:
        raise MetricInputError(f"masks are {tuple(masks.shape)}, expected {wanted} (its channel may be left out)")
    if weights.dtype is torch.bool:
        return weights.double()
    if not weights.is_floating_point():
        raise MetricInputError(f"masks are {masks.dtype}, expected bool or floats in [0, 1]")
    if weights.numel():
        _require_unit_range(weights, name="masks")
    return weights.double()


def require_embeds(embeds: "Tensor", *, name: str) -> "Tensor":
    """Return embeddings (b, d) in float64.

    Raises:
        MetricInputError: another number of axes, no columns, or a value that is not finite.
    """
    if embeds.dim() != 2 or not embeds.shape[1]:
        raise MetricInputError(f"{name} is {tuple(embeds.shape)}, expected (b, d)")
    if not bool(embeds.isfinite().all()):
        raise MetricInputError(f"{name} has {int((~embeds.isfinite()).sum())} values that are not finite")
    return embeds.double()


def require_feature_sets(reference: Floats, edited: Floats, *, minimum: int) -> tuple[Floats, Floats]:
    """Return two sets of features in float64 that can be compared.

    Raises:
        MetricInputError: one is no (n, d) of finite values, or they differ in their number of features.
        TooFewSamplesError: one has fewer than ``minimum`` rows.
    """
    for name, features in (("reference", reference), ("edited", edited)):
        if features.ndim != 2 or not features.shape[1]:
            raise MetricInputError(f"{name} features are {features.shape}, expected (n, d)")
        if not np.isfinite(features).all():
            raise MetricInputError(f"{name} features have {int((~np.isfinite(features)).sum())} values not finite")
    if reference.shape[1] != edited.shape[1]:
        raise MetricInputError(f"reference has {reference.shape[1]} features per image, edited {edited.shape[1]}")
    if min(len(reference), len(edited)) < minimum:
        raise TooFewSamplesError(
            f"reference has {len(reference)} images and edited {len(edited)}; at least {minimum} of each are needed"
        )
    return np.asarray(reference, np.float64), np.asarray(edited, np.float64)


def _require_unit_range(values: "Tensor", *, name: str) -> None:
    low, high = values.min().item(), values.max().item()
    # Written so that NaN, which compares false with everything, is refused too.
    if not (low >= 0 and high <= 1):
        raise MetricInputError(f"{name} lie in [{low:.4g}, {high:.4g}], expected [0, 1]")
