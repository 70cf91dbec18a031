"""The URLs that were seen before, as 64-bit numbers: eight bytes per URL, whatever its length."""

from typing import Final

import numpy as np

_DIGITS: Final = 16


def url_number(sample_id: str) -> int:
    """Return the first 64 of a sample id's 80 bits, 0 to 2**64 - 1."""
    return int(sample_id[:_DIGITS], 16)


class SeenNumbers:
    """A growing set of 64-bit numbers in a few sorted runs, each more than twice as long as the next.

    Of n URLs, two different ones share a number with a probability of about n**2 / 2**65: one in 3,700 for a hundred
    million. The second of them would count as a duplicate.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Add numbers and return, for each, whether it was new: neither in the set nor earlier among them.

        Args:
            numbers: uint64, one axis.
        """
        new = np.zeros(len(numbers), dtype=bool)
        new[np.unique(numbers, return_index=True)[1]] = True
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, numbers), len(run) - 1)
            new &= run[places] != numbers
        if new.any():
            self._take(np.sort(numbers[new]))
        return new

    def _take(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        self._runs.append(run)
