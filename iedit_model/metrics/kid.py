"""Kernel Inception Distance (Binkowski et al. 2018, arXiv:1801.01401): an unbiased distance for small sets.

The published default of 100 subsets of 1000 images fails where there are fewer; here the subsets fit the sets.
"""

import statistics
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from iedit_model.configuration import configuration
from iedit_model.metrics.checks import require_feature_sets
from iedit_model.metrics.errors import TooFewSamplesError
from iedit_model.metrics.mmd import polynomial_kernel, squared_mmd

MAX_WHOLE_SET = 1000
"""Largest set that is used whole when no subset size is asked for; the published subset size."""


@configuration
class KidConfig:
    """How the distance is estimated."""

    subset_size: Annotated[int, Field(ge=2)] | None = None
    """Images drawn from each set for one estimate; None takes both sets whole, once, when each has at most
    ``MAX_WHOLE_SET`` images, and subsets of that size otherwise."""
    num_subsets: PositiveInt = 100
    """Estimates that are averaged when subsets are drawn."""
    seed: int = 0
    """Seed of the draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KidResult:
    """A kernel distance and all it depends on."""

    value: float
    """Squared MMD, unbiased: about 0, and as often below as above, for two samples of one distribution."""
    std: float
    """Standard deviation over the subsets; NaN where the sets were used whole, once."""
    network: str
    """The feature network's name."""
    reference_set: str
    """What the images are compared with, in words."""
    num_reference: int
    """Images in the reference set."""
    num_edited: int
    """Edited images."""
    subset_size: int | None
    """Images drawn from each set for one estimate; None where both were used whole."""
    num_subsets: int
    """Estimates averaged."""

    @property
    def name(self) -> str:
        """The result's name: ``kid@network``."""
        return f"kid@{self.network}"


def kid(
    reference: Tensor, edited: Tensor, *, network: str, reference_set: str, config: KidConfig | None = None
) -> KidResult:
    """Return the unbiased squared MMD under the cubic kernel.

    Args:
        reference: features (n, d) of the reference images.
        edited: features (m, d) of the edited images, from the same network.
        network: ``FeatureNetwork.name``.
        reference_set: which images the reference is, as the table will say it.
        config: subsets and seed; the defaults of ``KidConfig`` when left out.

    Raises:
        MetricInputError: the sets do not fit each other, or a value is not finite.
        TooFewSamplesError: a set is smaller than the subsets, or than two.
    """
    config = config or KidConfig()
    reference, edited = require_feature_sets(reference, edited, minimum=2)
    size = _subset_size(len(reference), len(edited), config)
    if size is None:
        values = [squared_mmd(reference, edited, polynomial_kernel, unbiased=True)]
    else:
        draws = draw_subsets(len(reference), len(edited), size=size, num_subsets=config.num_subsets, seed=config.seed)
        values = [squared_mmd(reference[a], edited[b], polynomial_kernel, unbiased=True) for a, b in draws]
    return KidResult(
        value=statistics.fmean(values),
        std=float("nan") if size is None else statistics.pstdev(values),
        network=network,
        reference_set=reference_set,
        num_reference=len(reference),
        num_edited=len(edited),
        subset_size=size,
        num_subsets=len(values),
    )


def draw_subsets(
    num_reference: int, num_edited: int, *, size: int, num_subsets: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the row numbers of each subset of either set, drawn without replacement from a generator of ``seed``."""
    rng = np.random.default_rng(seed)
    counts = (num_reference, num_edited)
    draws = [[torch.from_numpy(rng.permutation(count)[:size]) for count in counts] for _ in range(num_subsets)]
    return [(first, second) for first, second in draws]


def _subset_size(num_reference: int, num_edited: int, config: KidConfig) -> int | None:
    smaller = min(num_reference, num_edited)
    if config.subset_size is None:
        return None if max(num_reference, num_edited) <= MAX_WHOLE_SET else min(MAX_WHOLE_SET, smaller)
    if config.subset_size > smaller:
        raise TooFewSamplesError(
            f"subsets of {config.subset_size} do not fit sets of {num_reference} and {num_edited} images: "
            f"ask for at most {smaller}, or None for the whole sets"
        )
    return config.subset_size
