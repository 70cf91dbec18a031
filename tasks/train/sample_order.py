"""Which sample stands at which position of an endless training: epochs, each shuffled anew from the seed.

A position is all that a run must remember of its data: step, micro-step and process follow from it, so a resumed run,
another number of GPUs or another accumulation sees the same samples in the same optimiser step.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage import sample_seed
from tasks.train.errors import TrainingRowsError


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """The order of ``num_samples`` samples (sorted by id) under a seed.

    Raises:
        TrainingRowsError: there is no sample.
    """

    num_samples: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise TrainingRowsError(f"an order needs at least one sample, got {self.num_samples}")

    def index(self, position: int) -> int:
        """Return which sample (0 ... num_samples - 1) stands at ``position`` (from 0)."""
        epoch, place = divmod(position, self.num_samples)
        return int(_permutation(self.num_samples, self.seed, epoch)[place])

    def epoch(self, position: int) -> float:
        """Return how many times all samples have been seen before ``position``."""
        return position / self.num_samples


def step_positions(
    step: int, *, batch_size: int, accumulation: int, process: int = 0, num_processes: int = 1
) -> list[range]:
    """Return the positions of each micro-step of an optimiser step, for one process.

    All processes together see a step's positions once each, one after another.
    """
    micro = batch_size * num_processes
    first = step * accumulation * micro + process * batch_size
    return [range(first + i * micro, first + i * micro + batch_size) for i in range(accumulation)]


@functools.lru_cache(maxsize=4)
def _permutation(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(sample_seed(seed, "train-order", str(epoch))).permutation(num_samples)
