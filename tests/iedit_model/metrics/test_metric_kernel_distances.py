"""KID and CMMD against a loop over pairs and torchmetrics; subsets that fit; no bias at small N."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.kid import poly_mmd

from iedit_model.metrics import mmd
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from iedit_model.metrics.mmd import cmmd, cmmd_unbiased, kid, polynomial_kernel, sample_subsets, squared_mmd
from iedit_model.metrics.registry import Floats
from tests.references import metric_kernels as reference


def features(seed: int, count: int, width: int = 6, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


def torchmetrics_kid(first: Floats, second: Floats) -> float:
    return poly_mmd(torch.from_numpy(first), torch.from_numpy(second)).item()


@pytest.mark.parametrize("unbiased", [False, True])
def test_both_estimators_are_the_loop_over_pairs(unbiased: bool) -> None:
    first, second = features(1, 9), features(2, 7, shift=0.5)
    lists = first.tolist(), second.tolist()
    expected = reference.mmd(lists[0], lists[1], reference.cubic, unbiased=unbiased)
    assert squared_mmd(first, second, polynomial_kernel, unbiased=unbiased) == pytest.approx(expected, rel=1e-10)
    units = [[reference.unit(row) for row in rows] for rows in lists]
    expected = 1000 * reference.mmd(units[0], units[1], reference.gaussian, unbiased=unbiased)
    value = (cmmd_unbiased if unbiased else cmmd)(first, second)
    assert value == pytest.approx(expected, rel=1e-8)


def test_kid_of_whole_sets_is_torchmetrics() -> None:
    first, second = features(3, 30), features(4, 30, shift=0.3)
    assert kid(first, second) == pytest.approx(torchmetrics_kid(first, second), rel=1e-10)


def test_kid_of_subsets_is_torchmetrics_over_the_same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmd, "KID_SUBSET_SIZE", 10)
    monkeypatch.setattr(mmd, "KID_SUBSETS", 7)
    first, second = features(5, 40), features(6, 33)
    expected = [torchmetrics_kid(first[a], second[b]) for a, b in sample_subsets(40, 33, size=10)]
    assert len(expected) == 7
    assert kid(first, second) == pytest.approx(np.mean(expected), rel=1e-10)


def test_subsets_hold_distinct_rows_of_the_sets_and_are_the_same_each_time() -> None:
    draws, again = (sample_subsets(40, 33, size=30)[:4] for _ in range(2))
    for first, second in draws:
        assert len(set(first.tolist())) == len(set(second.tolist())) == 30
        assert max(first.tolist()) < 40
        assert max(second.tolist()) < 33
    assert all(
        np.array_equal(a, b) for one, two in zip(draws, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not np.array_equal(draws[0][0], draws[1][0])


def test_sets_above_a_thousand_images_fall_back_to_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = features(1, 20), features(2, 9)
    monkeypatch.setattr(mmd, "KID_SUBSET_SIZE", 12)
    expected = [torchmetrics_kid(first[a], second[b]) for a, b in sample_subsets(20, 9, size=9)]
    assert kid(first, second) == pytest.approx(np.mean(expected), rel=1e-10)


@given(cut=st.integers(1, 23), unbiased=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_size_of_the_blocks_does_not_matter(cut: int, unbiased: bool) -> None:
    first, second = features(7, 23), features(8, 11)
    whole = squared_mmd(first, second, polynomial_kernel, unbiased=unbiased)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmd, "BLOCK_ROWS", cut)
        assert squared_mmd(first, second, polynomial_kernel, unbiased=unbiased) == pytest.approx(whole, rel=1e-11)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_images_does_not_matter(seed: int) -> None:
    first, second = features(seed, 12), features(seed + 1, 15)
    shuffled = np.random.default_rng(seed).permutation(second)
    assert kid(first, second) == pytest.approx(kid(first, shuffled), rel=1e-9, abs=1e-12)


def test_small_sets_of_one_distribution_are_at_zero_on_average_and_biased_cmmd_is_not() -> None:
    draws = features(9, 400 * 2 * 8, width=16).reshape(400, 2, 8, 16)
    kids = [kid(first, second) for first, second in draws]
    error = np.std(kids) / np.sqrt(len(kids))
    assert abs(np.mean(kids)) < 4 * error
    biased, unbiased = ([distance(a, b) for a, b in draws[:200]] for distance in (cmmd, cmmd_unbiased))
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(200)
    assert np.mean(biased) > 30 * np.std(biased) / np.sqrt(200)


def test_identical_sets_score_zero_biased_and_below_it_unbiased() -> None:
    rows = features(10, 12)
    assert cmmd(rows, rows) == pytest.approx(0.0, abs=1e-10)
    assert kid(rows, rows) < 0


def test_cmmd_ignores_the_length_of_embeddings() -> None:
    first, second = features(11, 9), features(12, 9)
    assert cmmd(first, second) == pytest.approx(cmmd(first * 40, second), rel=1e-9)


def test_refusals() -> None:
    with pytest.raises(TooFewSamplesError, match="at least 2 of each"):
        kid(features(1, 1), features(2, 8))
    with pytest.raises(TooFewSamplesError, match="at least 1 of each"):
        cmmd(features(1, 0), features(2, 8))
    with pytest.raises(MetricInputError, match="6 features per image, edited 5"):
        kid(features(1, 4), features(2, 4, width=5))
    with pytest.raises(MetricInputError, match="1 embeddings are zero"):
        cmmd(np.eye(3)[:, :2], np.ones((2, 2)))
