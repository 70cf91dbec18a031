"""SSIM of two images, and three definitions of SSIM inside and outside of a mask.

All parameters are those of Wang et al. 2004 ("Image quality assessment: from error visibility to structural
similarity", section III-C) and are pinned: Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1,
weighted covariance without the sample correction, mean over the three colour channels. Masks M are weights in [0, 1],
1 = edit here; "inside" weighs with M, "outside" with 1 - M. An empty weight has no value: NaN. Symbols
in comments: G is the Gaussian window, * is convolution.
"""

import math
from typing import TYPE_CHECKING

from iedit_model.metrics.checks import require_image_pair, require_masks
from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.registry import EditBatch, MetricInfo, image_metric, masked_infos
from iedit_model.metrics.sides import sides, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

WINDOW_PX = 11
"""Side of the Gaussian window, pixels."""
SIGMA_PX = 1.5
"""Standard deviation of the Gaussian window, pixels."""
_BORDER_PX = WINDOW_PX // 2
_C1, _C2 = 0.01**2, 0.03**2


def ssim_map(source_images: "Tensor", edited_images: "Tensor") -> "Tensor":
    """Return SSIM at every pixel, the mean over colours.

    Windows that reach over the border see the image mirrored there, as in torchmetrics.

    Args:
        source_images: (b, 3, h, w) in [0, 1], at least 11 pixels a side.
        edited_images: the same.

    Returns:
        (b, h, w) float64 in [-1, 1].

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = _checked(source_images, edited_images)
    return _ssim_map(source, edited)


def ssim(source_images: "Tensor", edited_images: "Tensor") -> "Tensor":
    """Return the mean SSIM of each image over all windows that lie inside of it, (b,) float64.

    Equals skimage's ``structural_similarity`` with gaussian_weights, sigma 1.5 and use_sample_covariance=False.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = _checked(source_images, edited_images)
    return _inner_mean(_ssim_map(source, edited))


def ssim_zero_fill(source_images: "Tensor", edited_images: "Tensor", masks: "Tensor") -> "dict[str, Tensor]":
    """Multiply both images by the weight, then take SSIM of the whole frame: the paper's SSIM-M and SSIM-notM.

    What was masked out is black in both images and scores 1, so the value is an area meter: with a mask that covers a
    share a and similarity s where it is, about 1 - a (1 - s). PIE-Bench computes the same. Keep it for comparison with
    the paper and read ``ssim_normconv`` for what happened.

    Returns:
        ``ssim_zero_fill_inside`` and ``ssim_zero_fill_outside``, (b,) float64, NaN where the weight is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = _checked(source_images, edited_images)
    return {
        f"ssim_zero_fill_{side}": _undefined_where_empty(
            _inner_mean(_ssim_map(source * weight, edited * weight)), weight
        )
        for side, weight in sides(require_masks(masks, source))
    }


def ssim_map_mean(source_images: "Tensor", edited_images: "Tensor", masks: "Tensor") -> "dict[str, Tensor]":
    """Average the SSIM map of the whole images under the weight.

    Windows at the mask's edge see both sides of it, so an edit leaks into the score of a perfect background.

    Returns:
        ``ssim_map_mean_inside`` and ``ssim_map_mean_outside``, (b,) float64, NaN where the weight is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = _checked(source_images, edited_images)
    similarity = _ssim_map(source, edited)
    return {
        f"ssim_map_mean_{side}": weighted_mean(similarity, weight)
        for side, weight in sides(require_masks(masks, source))
    }


def ssim_normconv(source_images: "Tensor", edited_images: "Tensor", masks: "Tensor") -> "dict[str, Tensor]":
    """Take the local moments from weighted pixels alone (normalised convolution), then average under the weight.

    Knutsson and Westin 1993: G * (w x) / G * w in place of G * x, nothing beyond the border. Pixels without weight
    cannot change the value, and neither can the weight's area: the definition to read.

    Returns:
        ``ssim_normconv_inside`` and ``ssim_normconv_outside``, (b,) float64, NaN where the weight is empty.

    Raises:
        MetricInputError: shapes, types or ranges do not fit.
    """
    source, edited = _checked(source_images, edited_images)
    return {
        f"ssim_normconv_{side}": weighted_mean(_normconv_map(source, edited, weight), weight)
        for side, weight in sides(require_masks(masks, source))
    }


@image_metric(
    MetricInfo(
        name="ssim",
        title="SSIM",
        unit="%",
        display_factor=100,
        better="neither",
        definition="Mean SSIM of source and edited image (Gaussian window 11 x 11, sigma 1.5, data range 1).",
    ),
    *masked_infos(
        "ssim_zero_fill",
        "SSIM-{} (zero-fill)",
        definition="SSIM of the whole frame after all but what lies {} was set to black; the paper's definition, "
        "which rises with the area set to black.",
        better="higher",
        unit="%",
        display_factor=100,
        shown_inside=("edits",),
        shown_outside=("comparisons", "strata", "edits"),
        is_watched=True,
    ),
    *masked_infos(
        "ssim_map_mean",
        "SSIM-{} (map mean)",
        definition="Mean of the SSIM map {}; windows at the edge see both sides.",
        better="higher",
        unit="%",
        display_factor=100,
    ),
    *masked_infos(
        "ssim_normconv",
        "SSIM-{} (normalised convolution)",
        definition="Mean SSIM {} from pixels there alone; independent of the area.",
        better="higher",
        unit="%",
        display_factor=100,
        shown_outside=("comparisons", "strata", "edits"),
        is_watched=True,
    ),
    version=1,
)
def _ssim_metrics(edits: EditBatch) -> "dict[str, Tensor]":
    images = edits.source_images, edits.edited_images
    return {
        "ssim": ssim(*images),
        **ssim_zero_fill(*images, edits.masks),
        **ssim_map_mean(*images, edits.masks),
        **ssim_normconv(*images, edits.masks),
    }


def _checked(source_images: "Tensor", edited_images: "Tensor") -> "tuple[Tensor, Tensor]":
    source, edited = require_image_pair(source_images, edited_images)
    if min(source.shape[2:]) < WINDOW_PX:
        raise MetricInputError(f"images are {tuple(source.shape[2:])}, SSIM needs {WINDOW_PX} pixels a side")
    return source, edited


def _ssim_map(source: "Tensor", edited: "Tensor") -> "Tensor":
    from torch.nn import functional

    padding = (_BORDER_PX,) * 4
    moments = _moments(functional.pad(source, padding, mode="reflect"), functional.pad(edited, padding, mode="reflect"))
    return _similarity(_blur(moments).chunk(5, dim=1))


def _normconv_map(source: "Tensor", edited: "Tensor", weight: "Tensor") -> "Tensor":
    from torch.nn import functional

    padding = (_BORDER_PX,) * 4
    mass = _blur(functional.pad(weight, padding))
    # Without any weight in reach the moments are 0 / 0; such a pixel has no weight itself and is never averaged.
    mass = mass.where(mass > 0, 1.0)
    weighted = functional.pad(weight * _moments(source, edited), padding)
    return _similarity((_blur(weighted) / mass).chunk(5, dim=1))


def _moments(source: "Tensor", edited: "Tensor") -> "Tensor":
    import torch

    return torch.cat((source, edited, source * source, edited * edited, source * edited), dim=1)


def _similarity(moments: "tuple[Tensor, ...]") -> "Tensor":
    """Return Wang et al. 2004 Eq. 13 from blurred x, y, x^2, y^2, xy, as the mean over colours, (b, h, w)."""
    mean_x, mean_y, square_x, square_y, product = moments
    variances = (square_x - mean_x**2) + (square_y - mean_y**2)
    covariance = product - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    denominator = (mean_x**2 + mean_y**2 + _C1) * (variances + _C2)
    return (numerator / denominator).mean(dim=1)


def _blur(images: "Tensor") -> "Tensor":
    """Convolve each channel with G where it fits wholly, (b, c, h - 10, w - 10)."""
    import torch
    from torch.nn import functional

    offsets = torch.arange(WINDOW_PX, dtype=images.dtype, device=images.device) - _BORDER_PX
    window = torch.exp(-(offsets**2) / (2 * SIGMA_PX**2))
    window = window / window.sum()
    columns, channels = window.view(1, 1, WINDOW_PX, 1), images.shape[1]
    kernel = columns.expand(channels, 1, WINDOW_PX, 1)
    down = functional.conv2d(images, kernel, groups=channels)
    return functional.conv2d(down, kernel.transpose(2, 3), groups=channels)


def _inner_mean(similarity: "Tensor") -> "Tensor":
    inner = similarity[:, _BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX]
    return inner.mean(dim=(1, 2))


def _undefined_where_empty(values: "Tensor", weight: "Tensor") -> "Tensor":
    return values.where(weight.sum(dim=(1, 2, 3)) > 0, math.nan)
