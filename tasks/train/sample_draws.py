"""The randomness of a training step, drawn for each sample by its position alone.

One generator a position, on the CPU: what a sample draws depends neither on its neighbours in the batch nor on
accumulation, processes or resuming, and there is no random state to be saved.
"""

import dataclasses
from collections.abc import Sequence

import torch

from iedit_model.training.batch import EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.train_step import Draws, draw_step
from storage import sample_seed


def draw_positions(
    batch: EditBatch, positions: Sequence[int], config: LossConfig, *, num_train_timesteps: int, seed: int
) -> Draws:
    """Return the draws of a batch whose samples stand at ``positions``, on the CPU.

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
