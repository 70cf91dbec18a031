import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from tasks.embed.vectors import (
    QUERIES,
    MeanAccumulator,
    ModalityMeans,
    QueryConfig,
    find_flaws,
    gathered_cosines,
    query_embeds,
    rounded_scores,
    unit_rows,
)
from tests.builders.planted_corpus import clusters, half

ZERO = ModalityMeans(image=np.zeros(2), text=np.zeros(2))


def test_the_paper_takes_the_normalised_mean_of_the_two():
    query = query_embeds(np.array([[1.0, 0]]), np.array([[0, 1.0]]), QUERIES["paper"], ZERO)
    assert query == pytest.approx(np.array([[math.sqrt(0.5), math.sqrt(0.5)]]), abs=1e-15)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.8, 1.0])
def test_the_weight_is_the_share_of_the_text(weight: float):
    query = query_embeds(np.array([[1.0, 0]]), np.array([[0, 1.0]]), QueryConfig(text_weight=weight), ZERO)
    length = math.hypot(1 - weight, weight)
    assert query[0] == pytest.approx([(1 - weight) / length, weight / length], abs=1e-15)


def test_lengths_of_the_stored_vectors_do_not_shift_the_weight():
    image, text = np.array([[0.999, 0]]), np.array([[0, 1.001]])
    assert query_embeds(image, text, QueryConfig(), ZERO)[0, 0] == pytest.approx(math.sqrt(0.5), abs=1e-15)


def test_two_sides_that_cancel_out_make_no_query():
    query = query_embeds(np.array([[1.0, 0], [1.0, 0]]), np.array([[-1.0, 0], [0, 1.0]]), QueryConfig(), ZERO)
    assert not query[0].any()
    assert query[1].any()


def test_centring_removes_what_a_whole_modality_shares():
    rng = np.random.default_rng(0)
    content = rng.normal(size=(200, 16))
    image, text = (half(content + 8 * shift) for shift in rng.normal(size=(2, 16)))
    means = ModalityMeans(image=image.astype(float).mean(axis=0), text=text.astype(float).mean(axis=0))
    plain = np.sum(unit_rows(image) * unit_rows(text), axis=1)
    centred = [query_embeds(image, text, QueryConfig(text_weight=weight, centred=True), means) for weight in (0.0, 1.0)]
    assert np.median(np.sum(centred[0] * centred[1], axis=1)) > 0.9
    assert np.median(plain) < 0.5


def test_a_centred_query_ranks_a_plain_corpus_as_a_centred_one():
    corpus = clusters(50, 8).astype(np.float64)
    means = ModalityMeans(image=corpus.mean(axis=0), text=corpus.mean(axis=0))
    query = query_embeds(corpus[:5], corpus[5:10], QueryConfig(centred=True), means)
    assert np.array_equal(np.argsort(query @ corpus.T), np.argsort(query @ (corpus - means.image).T))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 60))
def test_a_mean_is_the_same_to_the_last_bit_in_any_order_and_division(seed: int, cut: int):
    rows = clusters(60, 7, seed=seed)
    shuffled = np.random.default_rng(seed).permutation(rows)
    whole, pieces = MeanAccumulator(7), MeanAccumulator(7)
    whole.add(rows)
    for start in range(0, 60, cut):
        pieces.add(shuffled[start : start + cut])
    assert np.array_equal(whole.mean(), pieces.mean())
    assert whole.mean().tolist() == [math.fsum(column) / 60 for column in rows.astype(float).T.tolist()]


def test_the_mean_of_nothing_is_zero():
    assert MeanAccumulator(3).mean().tolist() == [0, 0, 0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 9), part=st.integers(1, 12))
def test_cosines_are_the_same_to_the_last_bit_in_any_batch(seed: int, width: int, part: int):
    vectors, queries = clusters(40, 33, seed=seed), unit_rows(clusters(12, 33, seed=seed + 1))
    positions = np.random.default_rng(seed).integers(-1, 40, size=(12, width))
    [whole] = gathered_cosines(vectors, positions, [queries])
    for start in range(0, 12, part):
        rows = slice(start, start + part)
        for columns in (slice(None), slice(0, 1)):
            [piece] = gathered_cosines(vectors, positions[rows, columns], [queries[rows]])
            assert np.array_equal(piece, whole[rows, columns])
    for (row, column), position in np.ndenumerate(positions):
        expected = -1 if position < 0 else queries[row] @ unit_rows(vectors)[position]
        assert whole[row, column] == pytest.approx(expected, abs=1e-14)


def test_flaws_are_told_apart():
    rows = np.array([[0.6, 0.8], [0, 0], [np.nan, 1], [np.inf, 0], [0.6, 0.7], [1.0, 0.1]])
    assert find_flaws(rows).tolist() == [0, 2, 1, 1, 3, 0]


def test_scores_within_a_step_are_equal():
    assert rounded_scores(np.array([0.1, 0.1 + 4e-7, 0.1 + 6e-7])).tolist() == [100000, 100000, 100001]


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_its_range_is_refused(weight: float):
    with pytest.raises(ConfigError, match=r"QueryConfig\.text_weight"):
        QueryConfig(text_weight=weight)
