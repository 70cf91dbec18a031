"""How often one method beats another on the same edit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iedit_model.metrics.bootstrap import Floats, Interval, Resamples, mean_interval
from iedit_model.metrics.errors import MetricInputError


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """Wins of the first method over the second."""

    interval: Interval
    """Share of the edits won, a tie counting half; in [0, 1]."""
    num_wins: int
    """Edits on which the first method is better."""
    num_ties: int
    """Edits on which both are within the tolerance."""
    num_losses: int
    """Edits on which the second is better."""


def win_rate(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    resamples: Resamples,
    *,
    higher_is_better: bool = True,
    tie_tolerance: float = 0.0,
) -> WinRate:
    """Return the share of edits on which the first method beats the second, with its interval.

    Args:
        first: one value an edit, NaN where undefined.
        second: the same of the other method; an edit that either leaves undefined is left out and counted.
        resamples: the shared draws.
        higher_is_better: whether the larger value wins.
        tie_tolerance: largest distance of two values that is a tie.

    Raises:
        MetricInputError: the values do not fit each other or the ids, one is infinite, or the tolerance is negative.
    """
    gains = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if gains[0].shape != gains[1].shape or not tie_tolerance >= 0:
        raise MetricInputError(
            f"values of shape {gains[0].shape} and {gains[1].shape} at tie tolerance {tie_tolerance}: "
            "expected equal shapes and a tolerance of at least 0"
        )
    if any(np.isinf(values).any() for values in gains):
        raise MetricInputError("an infinite value wins by nothing that can be measured: bound the values first")
    margin = (gains[0] - gains[1]) * (1 if higher_is_better else -1)
    points = np.select([np.isnan(margin), margin > tie_tolerance, margin < -tie_tolerance], [np.nan, 1.0, 0.0], 0.5)
    return WinRate(
        interval=mean_interval(points, resamples),
        num_wins=int((points == 1.0).sum()),
        num_ties=int((points == 0.5).sum()),
        num_losses=int((points == 0.0).sum()),
    )
