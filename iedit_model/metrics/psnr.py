"""Mean squared error and PSNR, over the whole image and inside and outside of a mask."""

import torch
from torch import Tensor

from iedit_model.metrics.checks import require_image_pair, require_masks
from iedit_model.metrics.sides import sides, weighted_mean

PSNR_MAX_DB = 60.0
"""Largest PSNR reported, decibel: libvmaf's bound for 8-bit images. Equal images would give infinity, and infinity has
neither a mean nor an interval."""


def mse(source_images: Tensor, edited_images: Tensor) -> Tensor:
    """Return the mean squared difference over pixels and colours of images in [0, 1], (b,) float64.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = require_image_pair(source_images, edited_images)
    return ((source - edited) ** 2).mean(dim=(1, 2, 3))


def masked_mse(source_images: Tensor, edited_images: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return sum w d^2 / (3 sum w) for w = M and w = 1 - M: divided by the weight's area, not by the frame's.

    PIE-Bench divides by the frame, which makes a small mask look like a good edit.

    Args:
        source_images: (b, 3, h, w) in [0, 1].
        edited_images: the same.
        masks: (b, h, w) or (b, 1, h, w), bool or in [0, 1], 1 = edit here.

    Returns:
        ``mse_inside`` and ``mse_outside``, (b,) float64, NaN where the weight is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = require_image_pair(source_images, edited_images)
    inside = require_masks(masks, source)
    squares = ((source - edited) ** 2).mean(dim=1, keepdim=True)
    return {f"mse_{side}": weighted_mean(squares, weight) for side, weight in sides(inside)}


def psnr(source_images: Tensor, edited_images: Tensor, *, max_db: float = PSNR_MAX_DB) -> Tensor:
    """Return -10 log10(MSE) of each image for data range 1, decibel, at most ``max_db``, (b,) float64.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    return decibels(mse(source_images, edited_images), max_db=max_db)


def masked_psnr(
    source_images: Tensor, edited_images: Tensor, masks: Tensor, *, max_db: float = PSNR_MAX_DB
) -> dict[str, Tensor]:
    """Return ``psnr_inside`` and ``psnr_outside`` from ``masked_mse``, (b,) float64, NaN where the weight is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    errors = masked_mse(source_images, edited_images, masks)
    return {name.replace("mse", "psnr"): decibels(values, max_db=max_db) for name, values in errors.items()}


def decibels(errors: Tensor, *, max_db: float = PSNR_MAX_DB) -> Tensor:
    """Return -10 log10 of mean squared errors, at most ``max_db`` (``math.inf`` for no bound); NaN stays NaN."""
    return (-10 * torch.log10(errors)).clamp(max=max_db)
