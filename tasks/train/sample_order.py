"""Which sample and which randomness stand at which position of an endless training, from the seed alone.

A position is all that a run must remember of its data: step, micro-step and process follow from it, so a resumed run,
another number of GPUs or another accumulation sees the same samples in the same optimiser step.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from iedit_model.training.batch import EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.train_step import Draws, draw_step
from storage import sample_seed
from tasks.errors import TrainingRowsError


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
        epoch, index = divmod(position, self.num_samples)
        return int(_permutation(self.num_samples, self.seed, epoch)[index])

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


def draw_positions(
    batch: EditBatch, positions: Sequence[int], config: LossConfig, *, num_train_timesteps: int, seed: int
) -> Draws:
    """Return the randomness of a batch whose samples stand at ``positions``, on the CPU.

    One generator per position: what a sample gets depends neither on the others in its batch nor on accumulation,
    processes or resuming, and there is no random state to be saved.

    Raises:
        TimestepError: the schedule ends at or before ``config.t_min``.
    """
    shape = batch.source_latents.shape[1:]
    drawn = []
    for sample_id, position in zip(batch.sample_ids, positions, strict=True):
        generator = torch.Generator().manual_seed(sample_seed(seed, "train-draws", str(position)))
        blank = torch.zeros((1, *shape))
        single = EditBatch(
            sample_ids=(sample_id,), source_latents=blank, target_latents=blank, prompt_embeds=blank[:, 0]
        )
        drawn.append(draw_step(single, config, num_train_timesteps=num_train_timesteps, generator=generator))
    names = [entry.name for entry in dataclasses.fields(Draws)]
    return Draws(**{name: torch.cat([getattr(one, name) for one in drawn]) for name in names})


@functools.lru_cache(maxsize=4)
def _permutation(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(sample_seed(seed, "train-order", str(epoch))).permutation(num_samples)
