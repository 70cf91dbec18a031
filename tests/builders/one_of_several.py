"""One process of a training on several: ``python -m tests.builders.one_of_several PIPELINE STORE VERSION OUT``.

Rank, number of processes and address come from the environment, as torchrun and accelerate set them.
"""

import sys
from pathlib import Path

from storage import ShardStore
from tasks.train.run_config import LoopConfig, TrainRunConfig
from tasks.train.stage import train
from tests.builders.stopped_training import EVERYTHING
from tests.builders.tiny_pipeline import tiny_run, tiny_train


def shared_run(pipeline: Path, *, batch_size: int) -> TrainRunConfig:
    """A run of three steps in two turns, with clipping; epsilon keeps Adam from blowing rounding up."""
    fields = {"num_steps": 3, "batch_size": batch_size, "adam_epsilon": 1.0, "learning_rate": 1.0, "ema_decay": 0.5}
    loop = LoopConfig(sinks=(), save_every=1, calibration_samples=4)
    return tiny_run(pipeline, tiny_train(EVERYTHING, max_grad_norm=0.5, **fields), loop=loop)


def main(pipeline: str, root: str, version: str, out: str) -> None:
    """Train as one of two."""
    train(version, shared_run(Path(pipeline), batch_size=2), ShardStore.at(root), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
