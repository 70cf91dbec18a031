"""Mean squared error and PSNR, over the whole image and inside and outside of a mask."""

from typing import TYPE_CHECKING

from iedit_model.metrics.checks import require_image_pair, require_masks
from iedit_model.metrics.registry import EditBatch, MetricInfo, image_metric, masked_infos
from iedit_model.metrics.sides import sides, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

PSNR_MAX_DB = 60.0
"""Largest PSNR reported, decibel: libvmaf's bound for 8-bit images. Equal images would give infinity, and infinity has
neither a mean nor an interval."""


def squared_errors(source_images: "Tensor", edited_images: "Tensor", masks: "Tensor") -> "dict[str, Tensor]":
    """Return the mean squared differences of images in [0, 1] over the frame and over both sides of the mask.

    Inside and outside it is sum w d^2 / (3 sum w) for w = M and w = 1 - M: divided by the weight's area. PIE-Bench
    divides by the frame, which makes a small mask look like a good edit.

    Args:
        source_images: (b, 3, h, w) in [0, 1].
        edited_images: the same.
        masks: (b, h, w) or (b, 1, h, w), bool or in [0, 1], 1 = edit here.

    Returns:
        ``mse``, ``mse_inside`` and ``mse_outside``, (b,) float64, NaN where the weight is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = require_image_pair(source_images, edited_images)
    squares = (source - edited) ** 2
    inside, by_pixel = require_masks(masks, source), squares.mean(dim=1, keepdim=True)
    return {
        "mse": squares.mean(dim=(1, 2, 3)),
        **{f"mse_{side}": weighted_mean(by_pixel, weight) for side, weight in sides(inside)},
    }


def decibels(errors: "Tensor") -> "Tensor":
    """Return -10 log10 of mean squared errors, at most ``PSNR_MAX_DB``; NaN stays NaN."""
    return (-10 * errors.log10()).clamp(max=PSNR_MAX_DB)


@image_metric(
    MetricInfo(
        name="mse",
        title="MSE",
        unit="x 1e-3",
        display_factor=1000,
        better="neither",
        definition="Mean squared difference of source and edited image in [0, 1].",
    ),
    *masked_infos(
        "mse",
        "MSE-{}",
        definition="Mean squared difference {}, divided by the area there.",
        better="lower",
        unit="x 1e-3",
        display_factor=1000,
        same_order_as="psnr_outside",
    ),
    MetricInfo(name="psnr", title="PSNR", unit="dB", better="neither", definition="-10 log10 of the MSE, at most 60."),
    *masked_infos(
        "psnr",
        "PSNR-{}",
        definition="-10 log10 of the MSE {}, at most 60.",
        better="higher",
        unit="dB",
        shown_outside=("comparisons", "edits"),
    ),
    version=1,
)
def mse_and_psnr(edits: EditBatch) -> "dict[str, Tensor]":
    """Return ``squared_errors`` and the same in decibel."""
    errors = squared_errors(edits.source_images, edits.edited_images, edits.masks)
    return errors | {name.replace("mse", "psnr"): decibels(values) for name, values in errors.items()}
