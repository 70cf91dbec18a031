"""Train, val and test without leaks: no edit template, image or text stands on two sides (docs/decisions/0006).

Pairs link images to images, so that the connected components of a real corpus are one giant and some crumbs, and
keeping components whole would put everything into train. Instead:

1. Samples of one template are a *group*, which is never cut.
2. Groups that share images or texts are joined into clusters, those that share most first, as long as they stay small:
   small components stay whole, a giant one is cut where it is thinnest.
3. Whole clusters go to test, then to val, in an order that the seed decides, until the share of each kind of sample
   (its relation) is full; groups over the limit are train.
4. An image or text (a *leakage key*) that is still wanted by several splits is assigned to one of them by the weight of
   the samples that have it, held-out ones weighing more; samples whose split did not get a key are dropped. Keys that
   only dropped samples have are assigned again.

Everything depends on the samples and the seed alone. Axis names: n = samples, k = leakage keys of a sample.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.configuration import Share, configuration
from storage import sample_seed
from tasks.corpus import Ids

Int64s = npt.NDArray[np.int64]


def components(num: int, one: Int64s, other: Int64s, *, labels: Int64s | None = None) -> Int64s:
    """Return for each of ``num`` things the smallest number in its component, int64 (num,).

    Args:
        num: how many things there are, numbered from 0.
        one: one end of each link.
        other: the other end.
        labels: an earlier result, to which the links are added; it stays as it is.
    """
    labels = np.arange(num) if labels is None else labels.copy()
    while True:
        ends = labels[one], labels[other]
        if np.array_equal(*ends):
            return labels
        np.minimum.at(labels, np.maximum(*ends), np.minimum(*ends))
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter


class CappedGroups:
    """Groups that may be joined as long as the sum of their weights stays within a cap."""

    def __init__(self, weights: Int64s, cap: int) -> None:
        self._parents = list(range(len(weights)))
        self._weights = weights.tolist()
        self._cap = cap

    def join(self, one: int, other: int) -> bool:
        """Join the groups of two things if the cap allows it; return whether they are in one group now."""
        one, other = self._root(one), self._root(other)
        if one == other:
            return True
        weight = self._weights[one] + self._weights[other]
        if weight > self._cap:
            return False
        root, child = min(one, other), max(one, other)
        self._parents[child] = root
        self._weights[root] = weight
        return True

    def labels(self) -> Int64s:
        """Return for each thing the smallest number in its group."""
        return np.array([self._root(thing) for thing in range(len(self._parents))], dtype=np.int64)

    def _root(self, thing: int) -> int:
        parents = self._parents
        while parents[thing] != thing:
            parents[thing] = parents[parents[thing]]
            thing = parents[thing]
        return thing


SPLITS: Final = ("train", "val", "test")
"""Names of the codes of a split."""

TRAIN, VAL, TEST = 0, 1, 2
DROPPED: Final = -1
_FILLED: Final = (TEST, VAL)
"""Held-out splits in the order in which they choose."""
_ROUNDS: Final = 8
_KEPT_WHOLE: Final = 40
"""Samples of a cluster that are kept whole in a corpus of any size, if they leave half of a split to others."""

Codes = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.integer[Any]]


@configuration
class SplitConfig:
    """How samples are divided; every field is part of the fingerprint."""

    val_share: Annotated[float, Field(ge=0, le=0.499)] = 0.05
    """Share of the samples that val may have, [0, 0.5)."""
    test_share: Annotated[float, Field(ge=0, le=0.499)] = 0.05
    """Share of the samples that test may have, [0, 0.5)."""
    seed: int = 0
    """Decides which clusters are held out."""
    max_cluster_share: Share = 0.005
    """Largest cluster of templates that is kept whole, as a share of the samples; larger templates are train. In a
    small corpus 40 samples, or half of a held-out split, are kept whole, too; 0 keeps none."""
    held_out_weight: Annotated[float, Field(ge=0.01, le=1e6)] = 4.0
    """How many samples of train may be lost for one that is held out; see ``assigned_weight``."""

    @property
    def assigned_weight(self) -> float:
        """Weight of a held-out sample, of which one in train has 1.

        ``held_out_weight``, but never so much that a hub which all splits want alike could be taken from train, with a
        factor of 2 to spare.
        """
        held_out = max(self.val_share, self.test_share)
        most = (1 - self.val_share - self.test_share) / (2 * held_out) if held_out else self.held_out_weight
        return min(self.held_out_weight, most)

    def largest_cluster(self, num_samples: int) -> int:
        """Return how many samples a cluster has at most."""
        half = int(max(self.val_share, self.test_share) * num_samples) // 2
        least = min(_KEPT_WHOLE, half) if self.max_cluster_share else 1
        return max(1, least, int(self.max_cluster_share * num_samples))


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What became of n samples."""

    splits: Codes
    """Position in ``SPLITS`` (n,), or ``DROPPED``."""
    wanted: Codes
    """Position in ``SPLITS`` of the sample's cluster (n,): where it would be if it did not conflict."""
    clusters: Int64s
    """First sample of the cluster (n,); no cluster crosses a split."""
    conflicts: Int64s
    """Which of the sample's k keys is assigned to another split, the first of them (n,), or -1."""


def assign_splits(
    ids: Ids, groups: Names, keys: Int64s, config: SplitConfig, *, kinds: Int64s | None = None
) -> Assignment:
    """Divide samples so that no group and no leakage key is on two sides.

    Args:
        ids: sample ids (n,), sorted: with that, no other order can show in the result.
        groups: a number (n,) that is equal for samples which stay together (their template).
        keys: numbers (n, k), equal for equal images and texts, of what a sample shows or says.
        config: the shares.
        kinds: a number from 0 (n,) for each kind of sample, of each of which the splits shall have their share; None
            takes all for one kind.
    """
    kinds = np.zeros(len(ids), np.int64) if kinds is None else kinds
    groups, keys = _numbered(groups), _numbered(keys.ravel()).reshape(keys.shape)
    limit = config.largest_cluster(len(ids))
    clusters = _clusters(groups, keys, limit)
    wanted = _held_out(ids, clusters, kinds, limit, config)
    assigned = _assigned(wanted, keys, config.assigned_weight)
    foreign = assigned[keys] != wanted[:, None]
    conflicts = np.where(foreign.any(axis=1), foreign.argmax(axis=1), -1)
    splits = np.where(conflicts < 0, wanted, DROPPED).astype(np.int8)
    return Assignment(splits=splits, wanted=wanted, clusters=clusters, conflicts=conflicts)


def _numbered(names: Names) -> Int64s:
    """Return numbers from 0 in the order in which the names first come, so that the names themselves do not matter."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _clusters(groups: Int64s, keys: Int64s, limit: int) -> Int64s:
    """Return for each sample the first sample of its cluster."""
    sizes = np.bincount(groups)
    capped = CappedGroups(sizes, limit)
    for one, other in _links(groups, keys, sizes <= limit):
        capped.join(one, other)
    merged = capped.labels()[groups]
    _, first, inverse = np.unique(merged, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _links(groups: Int64s, keys: Int64s, small: Bools) -> list[tuple[int, int]]:
    """Return pairs of small groups that share keys, those first that would lose most samples if they were parted."""
    rows = np.flatnonzero(small[groups])
    num_groups = len(small)
    # One line per (key, group) with the number of its samples, the group that has the key most often on top.
    lines, counts = np.unique((keys[rows] * num_groups + groups[rows, None]).ravel(), return_counts=True)
    shared, holders = lines // num_groups, lines % num_groups
    order = np.lexsort((holders, -counts, shared))
    shared, holders, counts = shared[order], holders[order], counts[order]
    first = np.concatenate([[True], shared[1:] != shared[:-1]]) if len(shared) else np.zeros(0, bool)
    top = holders[first][np.cumsum(first) - 1]
    ends = np.minimum(top, holders), np.maximum(top, holders)
    pairs, inverse = np.unique((ends[0] * num_groups + ends[1])[~first], return_inverse=True)
    weights = np.bincount(inverse, weights=counts[~first], minlength=len(pairs))
    strongest = np.lexsort((pairs, -weights))
    return [divmod(pair, num_groups) for pair in pairs[strongest].tolist()]


def _held_out(ids: Ids, clusters: Int64s, kinds: Int64s, limit: int, config: SplitConfig) -> Codes:
    """Return the split that each sample's cluster is put into, so that no kind takes another's room."""
    names, inverse = np.unique(clusters, return_inverse=True)
    sizes = np.zeros((len(names), int(kinds.max(initial=0)) + 1), np.int64)
    np.add.at(sizes, (inverse, kinds), 1)
    small = sizes.sum(axis=1) <= limit
    names, sizes = names[small], sizes[small]
    shares = {VAL: config.val_share, TEST: config.test_share}
    room = {split: np.rint(shares[split] * np.bincount(kinds)).astype(np.int64) for split in _FILLED}
    seeds = [sample_seed(config.seed, "splits", bytes(ids[name]).decode()) for name in names]
    chosen = np.full(len(ids), TRAIN, np.int8)
    for position in np.argsort(np.array(seeds, dtype=np.int64), kind="stable"):
        split = next((split for split in _FILLED if (sizes[position] <= room[split]).all()), None)
        if split is not None:
            chosen[names[position]] = split
            room[split] -= sizes[position]
    return chosen[clusters]


def _assigned(wanted: Codes, keys: Int64s, weight: float) -> Int64s:
    """Return the split that each key is assigned to, after as many rounds as keep further samples."""
    num = int(keys.max(initial=-1)) + 1
    assigned = np.full(num, DROPPED)
    kept = np.zeros(len(wanted), bool)
    for _ in range(_ROUNDS):
        # The keys of a kept sample are assigned; of the rest those count that could still be kept.
        could = ~kept & ((assigned[keys] == wanted[:, None]) | (assigned[keys] == DROPPED)).all(axis=1)
        heaviest = _heaviest(wanted[could], keys[could], num, weight)
        decided = np.where(assigned == DROPPED, heaviest, assigned)
        more = could & (decided[keys] == wanted[:, None]).all(axis=1)
        if not more.any():
            break
        kept |= more
        assigned[keys[more]] = wanted[more, None]
    final = _heaviest(wanted, keys, num, weight)
    return np.where(assigned == DROPPED, final, assigned)


def _heaviest(wanted: Codes, keys: Int64s, num: int, weight: float) -> Int64s:
    """Return the split with the largest weight for each key; test before val before train when they are equal."""
    counts = np.bincount((keys * len(SPLITS) + wanted[:, None]).ravel(), minlength=num * len(SPLITS))
    weights = np.array([1.0, weight, weight])
    weighted = counts.reshape(num, len(SPLITS)) * weights
    return TEST - weighted[:, ::-1].argmax(axis=1)
