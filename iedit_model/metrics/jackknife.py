"""Intervals of a distance between sets (FID, KID, CMMD) by leaving out one source image at a time.

A bootstrap would put copies of an image into the set, and these distances take copies for similarity. The delete-one
jackknife over source images (Efron and Stein 1981) does without. It tells how far the number would move with other
images; it does not take away the floor of FID at small N.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError


@dataclass(frozen=True, kw_only=True, slots=True)
class JackknifeInterval:
    """A statistic of the whole set with a normal interval from the jackknife's standard error."""

    value: float
    """The statistic of the whole set."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    standard_error: float
    """Square root of (K - 1) / K times the sum of squared deviations of the K leave-one-out values."""
    num_sources: int
    """Source images left out in turn, K."""


def jackknife_interval(
    statistic: Callable[[NDArray[np.int64]], float], source_ids: Sequence[str], *, confidence: float = 0.95
) -> JackknifeInterval:
    """Return a set's statistic with its interval.

    Args:
        statistic: maps the numbers of the rows kept to the statistic of those rows.
        source_ids: the source image of each row.
        confidence: share of a normal distribution inside of the interval, in (0, 1).

    Raises:
        MetricInputError: the confidence lies outside (0, 1).
        TooFewSamplesError: there are fewer than three source images.
    """
    if not 0 < confidence < 1:
        raise MetricInputError(f"confidence is {confidence}, expected a share in (0, 1)")
    sources, index = np.unique(np.asarray(source_ids, dtype=str), return_inverse=True)
    count = len(sources)
    if count < 3:
        raise TooFewSamplesError(f"{count} source images: leaving one out needs at least 3")
    value = statistic(np.arange(len(index)))
    left_out = np.array([statistic(np.flatnonzero(index != source)) for source in range(count)])
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return JackknifeInterval(
        value=value, low=value - reach, high=value + reach, standard_error=error, num_sources=count
    )
