"""A training with everything switched on, and a process that is told to stop or killed in the middle of it.

Run as a module it trains and kills itself after a step: ``python -m tests.builders.stopped_training PIPELINE STORE
VERSION OUT STEP``.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from iedit_model.training.config import LossConfig, TrainConfig
from storage import ShardStore
from tasks.train.run_config import LoopConfig, TrainRunConfig
from tasks.train.stage import train
from tests.builders.tiny_pipeline import tiny_run, tiny_train

EVERYTHING = LossConfig(prompt_dropout=0.2, target_denoising_weight=0.5, latent_mask_mode="soft")
NUM_STEPS = 6


def everything(**fields: object) -> TrainConfig:
    """All losses, both turns, accumulation, an average, a warm-up and a cosine."""
    options = {"accumulation": 2, "ema_decay": 0.9, "max_grad_norm": 0.5, "warmup_steps": 2, "schedule": "cosine"}
    return tiny_train(EVERYTHING, num_steps=NUM_STEPS, **(options | fields))


def configured(pipeline: Path, train_config: TrainConfig | None = None) -> TrainRunConfig:
    loop = LoopConfig(sinks=(), save_every=2, calibration_samples=4)
    return tiny_run(pipeline, train_config or everything(), loop=loop)


class Signals:
    """Sends this process a signal after some step."""

    def __init__(self, number: signal.Signals, *, after: int) -> None:
        self.number, self.after = number, after

    def on_cache(self, done: int, total: int) -> None:
        """Wait for the steps."""

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        if step == self.after:
            os.kill(os.getpid(), self.number)


def main(pipeline: str, root: str, version: str, out: str, after: str) -> None:
    """Train, and die of SIGKILL after some step."""
    killer = Signals(signal.SIGKILL, after=int(after))
    train(version, configured(Path(pipeline)), ShardStore.at(root), Path(out), progress=killer)


if __name__ == "__main__":
    main(*sys.argv[1:])
