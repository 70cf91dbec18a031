"""Pictures that show the same are found by bytes, by close hashes and by what the retrieval met."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iedit_model.errors import ConfigError
from tasks.pack.near_duplicates import CorpusImages, DuplicateConfig, close_hashes, duplicate_groups
from tests.references.split_rules import close_pairs, groups

NO_COPIES = (np.zeros(0, np.int64), np.zeros(0, np.int64))
CLOSE = DuplicateConfig(max_phash_distance=4)


def _pictures(phashes, *, keys=None, embeds=None) -> CorpusImages:
    phashes = np.array(phashes, dtype=np.int64)
    keys = np.arange(len(phashes)) if keys is None else keys
    return CorpusImages(keys=(np.array(keys, dtype=np.uint64),), phashes=phashes, embeds=embeds)


def _hashes(rng: np.random.Generator, num: int, *, grey: bool = False) -> list[int]:
    """Return hashes of which many are close; those of grey pictures have no chroma bits, the lower half."""
    known = rng.integers(0, 2**63, size=max(1, num // 4), dtype=np.uint64) * np.uint64(2)
    chosen = known[rng.integers(len(known), size=num)]
    for row in range(num):
        for bit in rng.permutation(64)[: rng.integers(8)]:
            chosen[row] ^= np.uint64(1) << np.uint64(bit)
    if grey:
        chosen &= ~np.uint64(2**32 - 1)
    return chosen.view(np.int64).tolist()


@settings(deadline=None, max_examples=60)
@given(num=st.integers(1, 60), distance=st.integers(0, 6), seed=st.integers(0, 10**6), grey=st.booleans())
def test_close_hashes_are_those_that_comparing_all_finds(num, distance, seed, grey):
    hashes = np.unique(np.array(_hashes(np.random.default_rng(seed), num, grey=grey), dtype=np.int64))
    one, other = close_hashes(hashes, distance)
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == close_pairs(hashes.tolist(), distance)


@settings(deadline=None, max_examples=60)
@given(num=st.integers(1, 40), distance=st.integers(0, 6), seed=st.integers(0, 10**6), data=st.data())
def test_groups_follow_hashes_bytes_and_known_copies(num, distance, seed, data):
    hashes = _hashes(np.random.default_rng(seed), num)
    keys = data.draw(st.lists(st.integers(0, 2 * num), min_size=num, max_size=num))
    copies = data.draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1)), max_size=5))
    found = duplicate_groups(
        _pictures(hashes, keys=keys),
        DuplicateConfig(max_phash_distance=distance),
        copies=(np.array([one for one, _ in copies], np.int64), np.array([other for _, other in copies], np.int64)),
    )
    same_bytes = [(i, j) for i in range(num) for j in range(i) if keys[i] == keys[j]]
    assert found.tolist() == groups(num, [*close_pairs(hashes, distance), *same_bytes, *copies])


@settings(deadline=None, max_examples=40)
@given(num=st.integers(1, 40), seed=st.integers(0, 10**6), least=st.sampled_from([-1.0, 0.0, 0.5, 0.9]))
def test_close_hashes_count_only_where_the_embeddings_agree(num, seed, least):
    rng = np.random.default_rng(seed)
    hashes = _hashes(rng, num)
    exact = rng.normal(size=(num, 3))
    embeds = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float16)
    config = DuplicateConfig(max_phash_distance=4, min_image_similarity=least)
    found = duplicate_groups(_pictures(hashes, embeds=embeds), config, copies=NO_COPIES)
    rows = embeds.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.rint(rows @ rows.T * 10_000)
    agreeing = [(i, j) for i, j in close_pairs(hashes, 4) if cosines[i, j] >= round(least * 10_000)]
    assert found.tolist() == groups(num, agreeing)


def test_the_hash_can_be_left_out():
    config = DuplicateConfig(max_phash_distance=None)
    assert duplicate_groups(_pictures([5, 5, 5], keys=[1, 2, 1]), config, copies=NO_COPIES).tolist() == [0, 1, 0]


def test_many_copies_of_one_picture_cost_no_more_than_their_number():
    num = 20_000
    embeds = np.ones((num, 4), np.float16) / 2
    started = time.process_time()
    found = duplicate_groups(_pictures(np.full(num, 7), keys=np.zeros(num)), CLOSE, copies=NO_COPIES)
    assert set(found.tolist()) == {0}
    one_by_one = duplicate_groups(_pictures(np.full(2000, 7), embeds=embeds[:2000]), CLOSE, copies=NO_COPIES)
    assert set(one_by_one.tolist()) == {0}
    assert time.process_time() - started < 10


@pytest.mark.parametrize("wrong", [{"max_phash_distance": 7}, {"min_image_similarity": 1.1}])
def test_a_threshold_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DuplicateConfig(**wrong)
