"""Groups of things that are linked: connected components, and components that stop growing at a size."""

import numpy as np
import numpy.typing as npt

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
