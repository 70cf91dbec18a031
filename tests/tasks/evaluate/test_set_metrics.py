"""Distances between sets of images: against the metrics' own functions, and at their corner cases."""

import math

import numpy as np
import pytest

from iedit_model.metrics.fid import fid
from iedit_model.metrics.mmd import cmmd, cmmd_unbiased, kid
from tasks.evaluate.results import SetFeatures
from tasks.evaluate.summary import set_metrics


def features(count, *, shift=0.0, seed=0, draws=1, dim=12, ids=None):
    values = np.random.default_rng(seed).normal(shift, 1, (count * draws, dim))
    ids = ids or [f"real/{index}" for index in range(count)]
    return SetFeatures(
        network="net", source_ids=tuple(ids * draws), seeds=tuple(d for d in range(draws) for _ in ids), features=values
    )


def test_the_number_is_the_mean_over_draws_and_not_that_of_all_of_them_pooled():
    reference, edited = features(10), features(10, shift=0.5, seed=2, draws=3)
    found = {m.name: m for m in set_metrics("m", [edited], reference, reference_set="sources", kind="features")}
    draws = [edited.features[start : start + 10] for start in (0, 10, 20)]
    expected = [fid(reference.features, draw) for draw in draws]
    assert found["fid@net"].value == pytest.approx(sum(expected) / 3)
    kids = [kid(reference.features, d) for d in draws]
    assert found["kid@net"].value == pytest.approx(sum(kids) / 3)
    assert (found["fid@net"].num_reference, found["fid@net"].num_edited, found["fid@net"].num_sets) == (10, 10, 3)
    assert found["fid@net"].rank_deficient
    assert not found["kid@net"].rank_deficient


def test_an_interval_holds_its_value_and_is_the_jackknife_of_a_loop():
    reference, edited = features(8), features(8, shift=0.3, seed=3)
    (value, _) = set_metrics("m", [edited], reference, reference_set="sources", kind="features")
    left_out = []
    for source in range(8):
        rows = [index for index in range(8) if index != source]
        left_out.append(fid(reference.features[rows], edited.features[rows]))
    error = math.sqrt(7 / 8 * sum((one - np.mean(left_out)) ** 2 for one in left_out))
    assert value.high - value.value == pytest.approx(1.959964 * error, rel=1e-5)
    assert value.low < value.value < value.high


def test_several_edits_of_one_source_leave_together():
    ids = [f"real/{index // 2}" for index in range(12)]
    edited = features(12, seed=4, ids=ids)
    found = set_metrics("m", [edited], features(6), reference_set="sources", kind="features")
    assert found[0].num_edited == 12
    assert math.isfinite(found[0].low)


def test_clip_embeddings_give_cmmd_in_both_forms():
    reference, edited = features(9), features(9, shift=0.2, seed=5)
    found = {m.name: m.value for m in set_metrics("m", [edited], reference, reference_set="sources", kind="clip")}
    assert found["cmmd@net"] == pytest.approx(cmmd(reference.features, edited.features))
    assert found["cmmd_unbiased@net"] == pytest.approx(cmmd_unbiased(reference.features, edited.features))


def test_too_few_images_give_no_number_and_no_error():
    found = set_metrics("m", [features(1)], features(1), reference_set="sources", kind="features")
    assert all(math.isnan(metric.value) for metric in found)
    two = set_metrics("m", [features(2)], features(2, seed=1), reference_set="sources", kind="features")
    assert all(math.isfinite(metric.value) and math.isnan(metric.low) for metric in two)
