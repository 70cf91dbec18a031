"""Where metrics go beside the parquet log: TensorBoard, Weights & Biases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.train.errors import MissingPackageError
from tasks.train.run_config import LoopConfig


class MetricSink(Protocol):
    """Takes the metrics of a step."""

    def write(self, step: int, row: Mapping[str, float | None]) -> None:
        """Take one row; values that are None are left out."""
        ...

    def close(self) -> None:
        """Bring everything to its place."""
        ...


class TensorBoardSink:
    """Event files in ``tensorboard/``; a resumed run hides what an earlier process wrote from its first step on."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingPackageError(
                "loop.sinks names tensorboard, which is not installed: install it, or leave it out of loop.sinks"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, row: Mapping[str, float | None]) -> None:
        """Take one row."""
        for name, value in row.items():
            if value is not None and name != "step":
                self._writer.add_scalar(_grouped(name), value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases, offline or online as its own environment says."""

    def __init__(self, folder: Path, *, project: str, described: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingPackageError(
                "loop.sinks names wandb, which is not installed: install it, or leave it out of loop.sinks"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        # The same run has the same id, so that a resumed one goes on in its own curves.
        name = str(described["fingerprint"])[:16]
        self._run: Any = wandb.init(
            project=project, dir=str(folder), id=name, config=dict(described["config"]), resume="allow"
        )

    def write(self, step: int, row: Mapping[str, float | None]) -> None:
        """Take one row."""
        self._run.log({_grouped(name): value for name, value in row.items() if value is not None}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_sinks(
    config: LoopConfig, folder: Path, *, first_step: int, described: Mapping[str, Any]
) -> Sequence[MetricSink]:
    """Return the configured sinks.

    Args:
        config: names them.
        folder: the run's folder.
        first_step: the first that will be written.
        described: the run's manifest.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    opened: list[MetricSink] = []
    for name in config.sinks:
        if name == "tensorboard":
            opened.append(TensorBoardSink(folder / "tensorboard", first_step=first_step))
        else:
            opened.append(WandbSink(folder / "wandb", project=config.wandb_project, described=described))
    return opened


def _grouped(name: str) -> str:
    head, _, tail = name.partition("_")
    return f"{head}/{tail}" if head in ("term", "part") else f"run/{name}" if name != "loss" else name
