"""The two sides of a mask, and the mean of a map over one of them."""

import math

import torch
from torch import Tensor


def sides(weights: Tensor) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    """Return the weights M and 1 - M under the names that results end with: inside and outside."""
    return ("inside", weights), ("outside", 1 - weights)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return sum w v / sum w of each map, (b,), NaN where the weight is empty.

    Args:
        values: (b, h, w) or (b, 1, h, w).
        weight: the same number of places, with or without the axis of 1.
    """
    weight = weight.reshape(values.shape)
    axes = tuple(range(1, values.dim()))
    area = weight.sum(dim=axes)
    return torch.where(area > 0, (values * weight).sum(dim=axes) / area, math.nan)
