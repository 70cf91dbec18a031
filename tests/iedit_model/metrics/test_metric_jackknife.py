"""The jackknife against the textbook error of a mean, and why sets are not bootstrapped."""

import numpy as np
import pytest

from iedit_model.metrics.bootstrap import jackknife_interval
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from iedit_model.metrics.mmd import kid


def test_the_error_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(size=25)
    result = jackknife_interval(lambda rows: float(values[rows].mean()), [f"{row}" for row in range(25)])
    assert result.standard_error == pytest.approx(values.std(ddof=1) / 5, rel=1e-12)
    assert result.value == pytest.approx(values.mean())
    assert (result.low, result.high) == pytest.approx(
        (result.value - 1.959964 * result.standard_error, result.value + 1.959964 * result.standard_error), rel=1e-6
    )


def test_all_edits_of_a_source_are_left_out_together() -> None:
    seen = []

    def statistic(rows: np.ndarray) -> float:
        seen.append(rows.tolist())
        return 0.0

    jackknife_interval(statistic, ["b", "a", "b", "c"])
    assert seen == [[0, 1, 2, 3], [0, 2, 3], [1, 3], [0, 1, 2]]


def test_copies_of_images_would_bias_kid_and_the_jackknife_has_none() -> None:
    first, second = np.random.default_rng(1).normal(size=(2, 30, 32))
    rng = np.random.default_rng(2)

    def value(rows: np.ndarray) -> float:
        return kid(first, second[rows])

    result = jackknife_interval(value, [f"{row}" for row in range(30)])
    bootstrapped = np.mean([value(rng.integers(0, 30, 30)) for _ in range(100)])
    assert bootstrapped > result.high
    assert result.low < result.value < result.high


def test_refusals() -> None:
    with pytest.raises(TooFewSamplesError, match="at least 3"):
        jackknife_interval(lambda _: 0.0, ["a", "b", "a"])
    with pytest.raises(MetricInputError, match="confidence is 0"):
        jackknife_interval(lambda _: 0.0, ["a", "b", "c"], confidence=0)
