"""KID and CMMD against a loop over pairs and torchmetrics; subsets that fit; no bias at small N."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from iedit_model.errors import ConfigError
from iedit_model.metrics import mmd
from iedit_model.metrics.cmmd import cmmd
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError
from iedit_model.metrics.kid import KidConfig, draw_subsets, kid
from iedit_model.metrics.mmd import polynomial_kernel, squared_mmd
from tests.reference import metric_kernels as reference


def features(seed: int, count: int, width: int = 6, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, width), generator=generator, dtype=torch.float64) + shift


@pytest.mark.parametrize("unbiased", [False, True])
def test_both_estimators_are_the_loop_over_pairs(unbiased: bool) -> None:
    first, second = features(1, 9), features(2, 7, shift=0.5)
    lists = first.tolist(), second.tolist()
    expected = reference.mmd(lists[0], lists[1], reference.cubic, unbiased=unbiased)
    assert squared_mmd(first, second, polynomial_kernel, unbiased=unbiased) == pytest.approx(expected, rel=1e-10)
    units = [[reference.unit(row) for row in rows] for rows in lists]
    expected = 1000 * reference.mmd(units[0], units[1], reference.gaussian, unbiased=unbiased)
    result = cmmd(first, second, encoder="e", reference_set="r", unbiased=unbiased)
    assert result.value == pytest.approx(expected, rel=1e-8)


def test_kid_of_whole_sets_is_torchmetrics() -> None:
    first, second = features(3, 30), features(4, 30, shift=0.3)
    result = kid(first, second, network="n", reference_set="r")
    assert result.value == pytest.approx(poly_mmd(first, second).item(), rel=1e-10)
    assert (result.subset_size, result.num_subsets) == (None, 1)
    assert math.isnan(result.std)


def test_kid_of_subsets_is_torchmetrics_over_the_same_draws() -> None:
    first, second = features(5, 40), features(6, 33)
    result = kid(first, second, config=KidConfig(subset_size=10, num_subsets=7, seed=3), network="n", reference_set="r")
    draws = draw_subsets(40, 33, size=10, num_subsets=7, seed=3)
    expected = [poly_mmd(first[a], second[b]).item() for a, b in draws]
    assert result.value == pytest.approx(np.mean(expected), rel=1e-10)
    assert result.std == pytest.approx(np.std(expected), rel=1e-10)


def test_subsets_hold_distinct_rows_of_the_sets_and_follow_the_seed() -> None:
    draws = draw_subsets(40, 33, size=30, num_subsets=4, seed=1)
    for first, second in draws:
        assert len(set(first.tolist())) == len(set(second.tolist())) == 30
        assert max(first.tolist()) < 40
        assert max(second.tolist()) < 33
    again, other = (draw_subsets(40, 33, size=30, num_subsets=4, seed=seed) for seed in (1, 2))
    assert all(torch.equal(a, b) for one, two in zip(draws, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(draws[0][0], other[0][0])


def test_sets_above_a_thousand_images_fall_back_to_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iedit_model.metrics.kid.MAX_WHOLE_SET", 12)
    result = kid(features(1, 20), features(2, 9), config=KidConfig(num_subsets=3), network="n", reference_set="r")
    assert (result.subset_size, result.num_subsets) == (9, 3)


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
    shuffled = second[torch.randperm(15, generator=torch.Generator().manual_seed(seed))]
    assert kid(first, second, network="n", reference_set="r").value == pytest.approx(
        kid(first, shuffled, network="n", reference_set="r").value, rel=1e-9, abs=1e-12
    )


def test_small_sets_of_one_distribution_are_at_zero_on_average_and_biased_cmmd_is_not() -> None:
    draws = features(9, 400 * 2 * 8, width=16).reshape(400, 2, 8, 16)
    kids = [kid(first, second, network="n", reference_set="r").value for first, second in draws]
    error = np.std(kids) / np.sqrt(len(kids))
    assert abs(np.mean(kids)) < 4 * error
    means = {}
    for unbiased in (False, True):
        values = [cmmd(a, b, encoder="e", reference_set="r", unbiased=unbiased).value for a, b in draws[:200]]
        means[unbiased] = (np.mean(values), np.std(values) / np.sqrt(len(values)))
    assert abs(means[True][0]) < 4 * means[True][1]
    assert means[False][0] > 30 * means[False][1]


def test_identical_sets_score_zero_biased_and_below_it_unbiased() -> None:
    rows = features(10, 12)
    assert cmmd(rows, rows, encoder="e", reference_set="r").value == pytest.approx(0.0, abs=1e-10)
    assert kid(rows, rows, network="n", reference_set="r").value < 0


def test_cmmd_ignores_the_length_of_embeddings() -> None:
    first, second = features(11, 9), features(12, 9)
    values = [cmmd(first * scale, second, encoder="e", reference_set="r").value for scale in (1, 40)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_names_carry_network_and_estimator() -> None:
    rows = features(13, 4)
    assert kid(rows, rows, network="vgg16-pooled", reference_set="r").name == "kid@vgg16-pooled"
    results = [cmmd(rows, rows, encoder="vit-l-14", reference_set="r", unbiased=choice) for choice in (False, True)]
    assert [result.name for result in results] == ["cmmd@vit-l-14", "cmmd_unbiased@vit-l-14"]


def test_refusals() -> None:
    with pytest.raises(TooFewSamplesError, match="subsets of 9 do not fit sets of 20 and 8 images: ask for at most 8"):
        kid(features(1, 20), features(2, 8), config=KidConfig(subset_size=9), network="n", reference_set="r")
    with pytest.raises(TooFewSamplesError, match="at least 2 of each"):
        kid(features(1, 1), features(2, 8), network="n", reference_set="r")
    with pytest.raises(TooFewSamplesError, match="at least 1 of each"):
        cmmd(features(1, 0), features(2, 8), encoder="e", reference_set="r")
    with pytest.raises(MetricInputError, match="6 features an image, edited 5"):
        kid(features(1, 4), features(2, 4, width=5), network="n", reference_set="r")
    with pytest.raises(MetricInputError, match="1 embeddings are zero"):
        cmmd(torch.eye(3)[:, :2], torch.ones(2, 2), encoder="e", reference_set="r")
    with pytest.raises(ConfigError, match="subset_size is 1, expected at least 2"):
        KidConfig(subset_size=1)
