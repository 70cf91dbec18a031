"""The mean over images as sums and one division, so that neither batch size nor sharding can change it."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from iedit_model.metrics.errors import MetricInputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean and what stands behind it."""

    value: float
    """Mean of the defined values; NaN where there are none."""
    num_defined: int
    """Images with a value."""
    num_undefined: int
    """Images without one: an empty mask, an unchanged picture for a direction."""


@dataclass(kw_only=True, slots=True)
class MeanState:
    """Sum and counts of a per-image metric; NaN marks an image on which the metric is undefined."""

    total: float = 0.0
    num_defined: int = 0
    num_undefined: int = 0

    def update(self, values: Tensor) -> Self:
        """Add one value an image, (b,).

        Raises:
            MetricInputError: ``values`` has another number of axes.
        """
        if values.dim() != 1:
            raise MetricInputError(f"values are {tuple(values.shape)}, expected one an image: (b,)")
        undefined = torch.isnan(values)
        # fsum is correctly rounded: the order within a batch cannot show in the sum.
        self.total = math.fsum((self.total, *values[~undefined].double().tolist()))
        self.num_undefined += int(undefined.sum())
        self.num_defined += len(values) - int(undefined.sum())
        return self

    def merge(self, other: "MeanState") -> Self:
        """Add what another state has seen."""
        self.total += other.total
        self.num_defined += other.num_defined
        self.num_undefined += other.num_undefined
        return self

    def compute(self) -> Mean:
        """Return the mean over everything seen so far."""
        value = self.total / self.num_defined if self.num_defined else math.nan
        return Mean(value=value, num_defined=self.num_defined, num_undefined=self.num_undefined)
