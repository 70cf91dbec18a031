"""The two sides of a mask, the mean of a map over one of them, and the mask's own area."""

import math
from typing import TYPE_CHECKING

from iedit_model.metrics.checks import require_masks
from iedit_model.metrics.registry import EditBatch, MetricInfo, image_metric

if TYPE_CHECKING:
    from torch import Tensor


def sides(weights: "Tensor") -> "tuple[tuple[str, Tensor], tuple[str, Tensor]]":
    """Return the weights M and 1 - M under the names that results end with: inside and outside."""
    return ("inside", weights), ("outside", 1 - weights)


def weighted_mean(values: "Tensor", weight: "Tensor") -> "Tensor":
    """Return sum w v / sum w of each map, (b,), NaN where the weight is empty.

    Args:
        values: (b, h, w) or (b, 1, h, w).
        weight: the same number of pixels, with or without the axis of 1.
    """
    weight = weight.reshape(values.shape)
    axes = tuple(range(1, values.dim()))
    area = weight.sum(dim=axes)
    return ((values * weight).sum(dim=axes) / area).where(area > 0, math.nan)


@image_metric(
    MetricInfo(
        name="mask_area",
        title="mask area",
        unit="%",
        display_factor=100,
        better="neither",
        definition="Share of the frame inside of the mask.",
        needs_mask=True,
        shown_in=("edits",),
    ),
    version=1,
)
def _mask_area(edits: EditBatch) -> "dict[str, Tensor]":
    return {"mask_area": require_masks(edits.masks, edits.source_images).mean(dim=(1, 2, 3))}
