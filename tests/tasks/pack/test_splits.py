"""No template, picture or text on two sides of a split, at a bearable price."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.split_corpora import groups_of, heavy_tailed, ids_of, miniature_like
from iedit_model.errors import ConfigError
from tasks.pack.splits import SPLITS, TEST, TRAIN, VAL, Assignment, CappedGroups, SplitConfig, assign_splits, components
from tests.references.split_rules import crossings, groups


def _named(assignment: Assignment) -> list[str | None]:
    return [SPLITS[code] if code >= 0 else None for code in assignment.splits]


def _shares(assignment: Assignment) -> dict[str | None, float]:
    named = _named(assignment)
    return {split: named.count(split) / len(named) for split in (*SPLITS, None)}


@settings(deadline=None, max_examples=150)
@given(
    samples=st.lists(st.tuples(st.integers(0, 12), *[st.integers(0, 15)] * 3), min_size=1, max_size=60),
    shares=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    cap=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    weight=st.sampled_from([0.1, 1.0, 4.0, 1000.0]),
    seed=st.integers(0, 5),
)
def test_no_template_picture_or_cluster_is_on_two_sides(samples, shares, cap, weight, seed):
    config = SplitConfig(
        val_share=shares[0], test_share=shares[1], seed=seed, max_cluster_share=cap, held_out_weight=weight
    )
    units, claims = np.array([row[0] for row in samples]), np.array([row[1:] for row in samples])
    assignment = assign_splits(ids_of(len(samples)), units, claims, config)
    named = _named(assignment)
    assert not crossings(named, [[("unit", unit), *row] for unit, row in zip(units, claims.tolist(), strict=True)])
    assert not crossings(named, [[cluster] for cluster in assignment.clusters])
    # A sample is dropped for a reason, and only then: what it claims has been claimed by another side.
    for row, split in enumerate(named):
        assert (split is None) == (assignment.conflicts[row] >= 0)
        assert split in (None, SPLITS[assignment.wanted[row]])
    for split, share in zip((VAL, TEST), shares, strict=True):
        assert (assignment.wanted == split).sum() <= round(share * len(samples))


@settings(deadline=None, max_examples=60)
@given(
    samples=st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=40),
    data=st.data(),
    seed=st.integers(0, 3),
)
def test_what_the_groups_are_called_does_not_matter(samples, data, seed):
    config = SplitConfig(val_share=0.2, test_share=0.2, max_cluster_share=0.1, seed=seed)
    units, claims = np.array([row[0] for row in samples]), np.array([row[1:] for row in samples])
    other_names = np.array(data.draw(st.permutations(range(10))))
    first = assign_splits(ids_of(len(samples)), units, claims, config)
    again = assign_splits(ids_of(len(samples)), other_names[units], 100 - 7 * other_names[claims], config)
    assert first.wanted.tolist() == again.wanted.tolist()
    assert first.splits.tolist() == again.splits.tolist()
    assert first.clusters.tolist() == again.clusters.tolist()


def test_with_nothing_held_out_nothing_is_lost():
    assignment = assign_splits(ids_of(500), *heavy_tailed(500), SplitConfig(val_share=0, test_share=0))
    assert set(_named(assignment)) == {"train"}


@pytest.mark.parametrize("seed", range(4))
def test_every_kind_has_its_share_of_the_held_out_splits(seed: int):
    """Nouns come in large templates, adjectives in small ones, as in the miniature: none takes the other's room."""
    rng = np.random.default_rng(seed)
    is_noun = rng.random(2000) < 0.5
    units = np.where(is_noun, rng.integers(56, size=2000), 100 + rng.integers(300, size=2000))
    claims = np.stack([units * 10**6 + rng.integers(300, size=2000), rng.integers(10**5, size=2000)], axis=1)
    kinds = is_noun.astype(np.int64)
    assignment = assign_splits(ids_of(2000), units, claims, SplitConfig(seed=seed), kinds=kinds)
    for kind in (0, 1):
        for split in (VAL, TEST):
            share = (assignment.splits[kinds == kind] == split).mean()
            assert 0.03 < share < 0.051, (kind, split)
    assert not crossings(_named(assignment), [list(row) for row in claims.tolist()])


def test_small_components_stay_whole_and_cost_nothing():
    rng = np.random.default_rng(0)
    component = rng.integers(200, size=1000)
    units = component * 3 + rng.integers(3, size=1000)
    claims = component[:, None] * 4 + rng.integers(4, size=(1000, 2))
    assignment = assign_splits(ids_of(1000), units, claims, SplitConfig(max_cluster_share=0.02))
    assert _shares(assignment) == {"train": 0.9, "val": 0.05, "test": 0.05, None: 0.0}
    links = [(i, j) for i in range(1000) for j in range(i) if units[i] == units[j] or set(claims[i]) & set(claims[j])]
    assert assignment.clusters.tolist() == groups(1000, links)


@pytest.mark.parametrize("num", [2000, 20_000])
def test_a_giant_component_is_broken_at_a_bearable_price(num: int):
    for planted, least_held_out in ((miniature_like, 0.045), (heavy_tailed, 0.03)):
        units, claims = planted(num)
        sizes = np.bincount(groups_of(units, claims))
        assert sizes[sizes > SplitConfig().max_cluster_share * num].sum() > 0.75 * num  # too large to stay whole
        assignment = assign_splits(ids_of(num), units, claims, SplitConfig())
        shares = _shares(assignment)
        assert shares[None] < 0.1
        assert min(shares["val"], shares["test"]) > least_held_out
        assert not crossings(_named(assignment), [list(row) for row in claims.tolist()])
        # What drawing a side for each template, picture and text by itself would leave.
        sides = np.random.default_rng(0).choice(3, p=[0.9, 0.05, 0.05], size=2 * (claims.size + num))
        _, things = np.unique(np.concatenate([claims, 10**12 + units[:, None]], axis=1), return_inverse=True)
        drawn = sides[things.reshape(num, -1)]
        alone = (drawn == drawn[:, :1]).all(axis=1)
        assert alone.mean() < 0.7
        assert (alone & (drawn[:, 0] > 0)).mean() < 0.001


@pytest.mark.parametrize("share", [0.05, 0.2, 0.3])
@pytest.mark.parametrize("weight", [0.5, 4.0, 1e6])
def test_a_hub_that_many_claim_stays_in_train(share: float, weight: float):
    num = 1000
    claims = np.stack([np.arange(num), np.where(np.arange(num) % 2, 10**6, 10**7 + np.arange(num))], axis=1)
    config = SplitConfig(val_share=share, test_share=share, max_cluster_share=0, held_out_weight=weight)
    assignment = assign_splits(ids_of(num), np.arange(num), claims, config)
    lost = assignment.splits < 0
    # Lost are the held-out samples that have the hub, not those of train that have it.
    assert np.array_equal(lost, (assignment.wanted != TRAIN) & (np.arange(num) % 2 == 1))
    assert 0.5 * share * num < lost.sum() < 1.5 * share * num


def test_a_template_over_the_limit_is_train():
    units = np.concatenate([np.zeros(300, int), np.arange(1, 701)])
    assignment = assign_splits(ids_of(1000), units, np.arange(1000)[:, None], SplitConfig(max_cluster_share=0.1))
    assert set(assignment.splits[:300]) == {TRAIN}
    assert _shares(assignment)["test"] == 0.05


def test_a_dropped_sample_holds_nothing_back():
    # The third sample loses picture 1 to train. Then picture 2, where it outvotes the fourth one, is free for that.
    units, claims = np.array([0, 0, 1, 2]), np.array([[1, 1], [1, 9], [1, 2], [2, 3]])
    config = {"val_share": 0.25, "test_share": 0.25, "max_cluster_share": 0, "held_out_weight": 1}
    for seed in range(20):
        assignment = assign_splits(ids_of(4), units, claims, SplitConfig(seed=seed, **config))
        assert sorted(assignment.wanted[2:]) == [VAL, TEST]
        assert assignment.splits.tolist() == [TRAIN, TRAIN, -1, assignment.wanted[3]]
        assert assignment.conflicts.tolist() == [-1, -1, 0, -1]


def test_another_seed_holds_out_other_samples_and_the_same_seed_the_same():
    units, claims = heavy_tailed(1000)
    first, again, other = (assign_splits(ids_of(1000), units, claims, SplitConfig(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.splits, again.splits)
    assert (first.splits != other.splits).mean() > 0.05


def test_one_sample_is_train():
    assert _named(assign_splits(ids_of(1), np.zeros(1, int), np.zeros((1, 4), int), SplitConfig())) == ["train"]


@pytest.mark.parametrize(
    "wrong", [{"val_share": 0.5}, {"test_share": -0.1}, {"max_cluster_share": 2}, {"held_out_weight": float("nan")}]
)
def test_a_share_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SplitConfig(**wrong)


@settings(deadline=None, max_examples=100)
@given(num=st.integers(1, 30), data=st.data())
def test_components_are_what_following_the_links_gives(num, data):
    ends = st.tuples(st.integers(0, num - 1), st.integers(0, num - 1))
    links, more = data.draw(st.lists(ends, max_size=40)), data.draw(st.lists(ends, max_size=10))
    found = components(num, *np.array([*links, (0, 0)]).T)
    assert found.tolist() == groups(num, links)
    assert components(num, *np.array([*more, (0, 0)]).T, labels=found).tolist() == groups(num, [*links, *more])


@settings(deadline=None, max_examples=100)
@given(weights=st.lists(st.integers(1, 5), min_size=1, max_size=15), cap=st.integers(1, 20), data=st.data())
def test_capped_groups_never_outgrow_their_cap(weights, cap, data):
    capped = CappedGroups(np.array(weights), cap)
    ends = st.integers(0, len(weights) - 1)
    joined = [pair for pair in data.draw(st.lists(st.tuples(ends, ends), max_size=30)) if capped.join(*pair)]
    labels = capped.labels()
    assert labels.tolist() == groups(len(weights), joined)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        assert len(members) == 1 or np.array(weights)[members].sum() <= cap
