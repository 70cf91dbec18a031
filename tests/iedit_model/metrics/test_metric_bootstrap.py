"""The bootstrap against resamples written out by hand, known coverage, and what clustering and pairing are for."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from iedit_model.metrics.bootstrap import (
    BootstrapConfig,
    difference_interval,
    mean_interval,
    ordering,
    sample_resamples,
    win_rate,
)
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from tests.references.metric_bootstrap import resampled_means

FEW = BootstrapConfig(num_resamples=200, seed=5)


def table(seed: int, *, sources: int = 12, edits: int = 3) -> tuple[list[str], np.ndarray]:
    """Values with a strong common part in each source image, some undefined."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(sources, 1)) + 0.3 * rng.normal(size=(sources, edits))
    values[rng.random(values.shape) < 0.1] = math.nan
    return [f"image-{row // edits:03d}" for row in range(sources * edits)], values.ravel()


@given(seed=st.integers(0, 2**16), crossed=st.booleans())
@settings(max_examples=10, deadline=None)
def test_every_resample_is_the_written_out_one(seed: int, crossed: bool) -> None:
    ids, values = table(seed)
    replicates = [row % 3 for row in range(len(ids))] if crossed else None
    resamples = sample_resamples(ids, replicate_ids=replicates, config=BootstrapConfig(num_resamples=20, seed=seed))
    expected = resampled_means(
        values.tolist(),
        resamples.source_index.tolist(),
        resamples.source_counts.tolist(),
        replicates=replicates,
        replicate_draws=resamples.replicate_counts.tolist(),
    )
    assert resamples.means(values).tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_the_interval_is_the_percentiles_of_the_written_out_means() -> None:
    ids, values = table(1)
    resamples = sample_resamples(ids, config=FEW)
    means = resampled_means(values.tolist(), resamples.source_index.tolist(), resamples.source_counts.tolist())
    interval = mean_interval(values, resamples)
    assert (interval.low, interval.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), rel=1e-12)
    assert interval.value == pytest.approx(np.nanmean(values), rel=1e-12)
    assert (interval.num_values, interval.num_undefined) == (np.isfinite(values).sum(), np.isnan(values).sum())


def test_each_resample_draws_as_many_sources_and_each_source_equally_often() -> None:
    ids, _ = table(2)
    counts = sample_resamples(ids, config=BootstrapConfig(num_resamples=4000)).source_counts
    assert set(counts.sum(axis=1)) == {12.0}
    # the mean of 4000 binomial counts with variance 11/12 has a standard error of 0.015
    assert np.abs(counts.mean(axis=0) - 1).max() < 5 * 0.0152


def test_the_draws_depend_on_seed_and_sources_not_on_the_order_of_the_rows() -> None:
    ids, values = table(3)
    order = np.random.default_rng(0).permutation(len(ids))
    intervals = [
        mean_interval(values, sample_resamples(ids, config=FEW)),
        mean_interval(values[order], sample_resamples([ids[row] for row in order], config=FEW)),
        mean_interval(values, sample_resamples(ids, config=BootstrapConfig(num_resamples=200, seed=6))),
    ]
    assert intervals[1].low == pytest.approx(intervals[0].low, rel=1e-12)
    assert intervals[2].low != pytest.approx(intervals[0].low, rel=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    ids = [f"{row // 2:03d}" for row in range(80)]
    resamples = sample_resamples(ids, config=BootstrapConfig(num_resamples=400))
    covered = []
    for _ in range(300):
        values = (rng.normal(size=(40, 1)) + rng.normal(size=(40, 2))).ravel()
        interval = mean_interval(values, resamples)
        covered.append(interval.low <= 0 <= interval.high)
    # percentile intervals from 40 sources fall a little short of 95 %; the count itself has a deviation of 1.3 %
    assert 0.89 <= np.mean(covered) <= 0.98


def test_edits_of_one_source_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(8)
    values = np.repeat(rng.normal(size=20), 10)
    clustered = mean_interval(values, sample_resamples([f"{row // 10:03d}" for row in range(200)]))
    naive = mean_interval(values, sample_resamples([f"{row:03d}" for row in range(200)]))
    assert clustered.num_sources == 20
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(math.sqrt(10), rel=0.25)


def test_pairing_finds_a_difference_that_two_separate_intervals_hide() -> None:
    rng = np.random.default_rng(9)
    ids = [f"{row:03d}" for row in range(30)]
    first = rng.normal(scale=5, size=30)
    second = first + 0.2 + 0.1 * rng.normal(size=30)
    resamples = sample_resamples(ids)
    alone = [mean_interval(values, resamples) for values in (first, second)]
    assert alone[0].high > alone[1].low
    difference = difference_interval(second, first, resamples)
    assert difference.interval.low > 0
    assert difference.probability_greater == 1.0
    assert difference_interval(first, second, resamples).probability_greater == 0.0


def test_equal_methods_are_at_even_odds() -> None:
    ids, values = table(10)
    difference = difference_interval(values, values, sample_resamples(ids, config=FEW))
    assert (difference.interval.value, difference.interval.low, difference.interval.high) == (0.0, 0.0, 0.0)
    assert difference.probability_greater == 0.5


def test_a_comparison_leaves_out_edits_that_either_leaves_undefined() -> None:
    ids, first = table(11)
    second = first + 1
    first[0], second[1] = math.nan, math.nan
    interval = difference_interval(second, first, sample_resamples(ids, config=FEW)).interval
    assert interval.num_undefined == np.isnan(first + second).sum()
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))


def test_an_ordering_holds_in_the_share_of_resamples_that_a_loop_counts() -> None:
    ids, base = table(12)
    rng = np.random.default_rng(12)
    values = {
        name: base + shift + 0.4 * rng.normal(size=base.shape) for name, shift in (("a", 0.2), ("b", 0.1), ("c", 0.0))
    }
    values["c"][4] = math.nan
    resamples = sample_resamples(ids, config=FEW)
    common = np.isfinite(sum(values.values()))
    sources, draws = resamples.source_index.tolist(), resamples.source_counts.tolist()
    means = {
        name: resampled_means(np.where(common, column, math.nan).tolist(), sources, draws)
        for name, column in values.items()
    }
    expected = np.mean([a > b > c for a, b, c in zip(means["a"], means["b"], means["c"], strict=True)])
    result = ordering(values, ("a", "b", "c"), resamples)
    assert 0 < result.probability < 1
    assert result.probability == pytest.approx(expected, abs=1e-12)
    assert result.means == pytest.approx([values[name][common].mean() for name in "abc"])
    assert result.holds == (result.means[0] > result.means[1] > result.means[2])
    assert (result.num_values, result.num_undefined) == (common.sum(), (~common).sum())
    flipped = ordering(
        {name: -column for name, column in values.items()}, ("a", "b", "c"), resamples, higher_is_better=False
    )
    assert flipped.probability == pytest.approx(expected, abs=1e-12)


def test_a_tie_is_no_ordering() -> None:
    ids, values = table(13)
    result = ordering({"a": values, "b": values}, ("a", "b"), sample_resamples(ids, config=FEW))
    assert (result.holds, result.probability) == (False, 0.0)


def test_drawing_training_seeds_widens_the_interval_where_seeds_differ() -> None:
    rng = np.random.default_rng(14)
    ids = [f"{row % 30:03d}" for row in range(90)]
    seeds = [row // 30 for row in range(90)]
    values = np.repeat([-1.0, 0.0, 1.0], 30) + 0.1 * rng.normal(size=90)
    fixed = mean_interval(values, sample_resamples(ids, config=FEW))
    drawn = mean_interval(values, sample_resamples(ids, replicate_ids=seeds, config=FEW))
    assert drawn.value == fixed.value
    assert drawn.high - drawn.low > 10 * (fixed.high - fixed.low)


def test_resamples_without_a_defined_value_are_counted_and_left_out() -> None:
    values = [1.0, math.nan, math.nan]
    resamples = sample_resamples(["a", "b", "c"], config=BootstrapConfig(num_resamples=1000))
    interval = mean_interval(values, resamples)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)
    assert interval.num_empty_resamples == (resamples.source_counts[:, 0] == 0).sum() > 200
    nothing = mean_interval([math.nan] * 3, resamples)
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)
    assert nothing.num_empty_resamples == 1000


@pytest.mark.parametrize("higher", [True, False])
def test_the_win_rate_counts_ties_half_and_undefined_edits_not_at_all(higher: bool) -> None:
    first = np.array([1.0, 2.0, 3.0, 4.0, math.nan, 1.0])
    second = np.array([0.0, 2.0, 5.0, 1.0, 1.0, math.nan])
    resamples = sample_resamples([f"{row}" for row in range(6)], config=FEW)
    result = win_rate(first, second, resamples, higher_is_better=higher)
    assert result.value == pytest.approx(2.5 / 4 if higher else 1.5 / 4)
    assert result.num_undefined == 2
    assert 0 <= result.low <= result.value <= result.high <= 1


def test_refusals() -> None:
    with pytest.raises(TooFewSamplesError, match="1 source images"):
        sample_resamples(["a", "a"])
    with pytest.raises(TooFewSamplesError, match="1 training seeds"):
        sample_resamples(["a", "b"], replicate_ids=[0, 0])
    with pytest.raises(MetricInputError, match="3 replicate_ids do not fit 2 source_ids"):
        sample_resamples(["a", "b"], replicate_ids=[0, 1, 2])
    with pytest.raises(MetricInputError, match="take at most 671088 resamples"):
        sample_resamples([f"{row}" for row in range(100)], config=BootstrapConfig(num_resamples=10**6))
    with pytest.raises(ConfigError, match="expected at least 2"):
        BootstrapConfig(num_resamples=1)
    with pytest.raises(ConfigError, match="expected less than 1"):
        BootstrapConfig(confidence=1.0)
    resamples = sample_resamples(["a", "b"], config=FEW)
    with pytest.raises(MetricInputError, match=r"values are \(3,\)"):
        mean_interval([1.0, 2.0, 3.0], resamples)
    with pytest.raises(MetricInputError, match="infinite"):
        mean_interval([math.inf, 1.0], resamples)
    with pytest.raises(MetricInputError, match=r"missing: \['b'\]"):
        ordering({"a": [1.0, 2.0]}, ("a", "b"), resamples)
    with pytest.raises(MetricInputError, match="two methods"):
        ordering({"a": [1.0, 2.0]}, ("a",), resamples)
    with pytest.raises(MetricInputError, match="bound them first"):
        win_rate([math.inf, 2.0], [math.inf, 2.0], resamples)


def test_intervals_and_names_load_without_torch() -> None:
    code = "import sys, iedit_model.metrics.bootstrap, iedit_model.metrics.catalogue; "
    found = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "False", found.stderr
