"""What a run reports: its log, the curves of its losses, metric sinks and progress.

The log has one parquet row per optimiser step, each step once, however often the run was resumed.
"""

import io
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from storage import Column, CorruptFileError, TableSchema, parquet_bytes, read_parquet
from storage.atomic import disk_errors, is_disk_full, replace_bytes
from tasks.charts import COLOURS, INK, chart, chart_image
from tasks.errors import MissingPackageError
from tasks.train.run_config import LoopConfig

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image


def _number(name: str, description: str, unit: str = "") -> Column:
    return Column(name=name, type="float32", description=description, unit=unit, nullable=True)


def log_schema() -> TableSchema:
    """Return the columns of the log; those of the losses follow from the registered terms."""
    from iedit_model.training.terms import MASK_SHARES, TERMS

    measured = {name: term.description for name, term in TERMS.items()} | MASK_SHARES
    weighted = [name for name, term in TERMS.items() if term.weight is not None]
    return TableSchema(
        name="train_log",
        description="One row per optimiser step.",
        columns=(
            Column(name="step", type="int64", description="Optimiser step, 0 the first.", unit="steps"),
            _number("epoch", "How often all samples were seen before this step."),
            _number("loss", "What was differentiated: the weighted sum of all losses."),
            *(_number(f"term_{name}", f"Unweighted. {text}") for name, text in measured.items()),
            *(_number(f"part_{name}", f"Weighted part of the loss: {name}.") for name in weighted),
            _number("learning_rate", "Of this step."),
            _number("grad_norm", "L2 norm of the gradient before clipping."),
            _number("skipped", "1 where an fp16 gradient overflowed and the update was left out."),
            _number("phase", "Phase of the layer plan."),
            _number("seconds", "Wall time of the step.", "s"),
            _number("data_wait", "Of it, waiting for the batch.", "s"),
            _number("images_per_s", "Samples per second, all processes together."),
            _number("peak_memory", "Most memory so far: of the GPU, else of the process.", "MiB"),
            _number("peak_fraction", "Floating point operations against what the GPU is sold for.", "[0, 1]"),
        ),
        sort_by=("step",),
    )


class TrainLog:
    """The rows of a run, in memory and, from time to time, on the disk."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Go on with what an earlier process logged before ``first_step``; later rows will be taken anew.

        Raises:
            CorruptFileError: the log is damaged.
        """
        self._path = path
        rows = read_log(path).to_pylist() if path.is_file() else []
        self.rows: list[dict[str, Any]] = [row for row in rows if row["step"] < first_step]

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add the row of one step; names outside the schema are an error when it is written."""
        self.rows.append(dict(row))

    def recent_mean(self, name: str, count: int) -> float:
        """Return the mean of one column over the last ``count`` rows, NaN where there are none."""
        values = [row[name] for row in self.rows[-count:] if row.get(name) is not None]
        return math.fsum(values) / len(values) if values else math.nan

    def write(self) -> None:
        """Bring all rows to the disk, atomically."""
        schema = log_schema()
        replace_bytes(self._path, parquet_bytes(schema.table(self.rows), schema))


def read_log(path: Path) -> "pa.Table":
    """Return the log of a run, sorted by step.

    Raises:
        CorruptFileError: it is damaged or missing.
    """
    try:
        return read_parquet(io.BytesIO(path.read_bytes()), name=str(path))
    except OSError as error:
        raise CorruptFileError(f"the log {path} cannot be read: {error}") from error


class TrainProgress(Protocol):
    """Told about a run as it goes; called in the main thread of its first process."""

    def on_cache(self, done: int, total: int) -> None:
        """``done`` of ``total`` samples are encoded."""
        ...

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """``step`` of ``total`` optimiser steps are done; ``terms`` is the row of the log."""
        ...


class NullProgress:
    """Says nothing."""

    def on_cache(self, done: int, total: int) -> None:
        """Say nothing."""

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Say nothing."""


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
        self._folder, hook = folder, threading.excepthook
        # Its thread writes; what ends that is raised again by the next row, and printed here a second time.
        threading.excepthook = lambda raised: None if is_disk_full(raised.exc_value) else hook(raised)
        with disk_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, row: Mapping[str, float | None]) -> None:
        """Take one row.

        Raises:
            DiskFullError: no room for the rows before.
        """
        with disk_errors(self._folder):
            for name, value in row.items():
                if value is not None and name != "step":
                    self._writer.add_scalar(_grouped(name), value, step)

    def close(self) -> None:
        """Flush and close the files."""
        with disk_errors(self._folder):
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


Floats = npt.NDArray[np.float64]

WIDTH_PX, HEIGHT_PX = 880, 460
_PART: Final = "part_"
_WINDOWS: Final = 60
_LEAST: Final = 1e-12
_DECADES: Final = 6
"""What lies further below the rest (a part that is nearly nothing) must not flatten the curves."""


def smoothed(values: Floats, window: int) -> Floats:
    """Return the mean of each value and those before it, at most ``window`` of them, (n,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> "Image":
    """Return the image of a log's rows (``train_log``), sorted by step; an empty log gives empty axes."""
    steps = np.array([row["step"] for row in rows], np.float64)
    series = _series(rows)
    window = max(1, len(rows) // _WINDOWS)
    with chart(WIDTH_PX, HEIGHT_PX) as (figure, axes):
        axes.set_title(f"Loss and its weighted parts (mean of {window} steps)", loc="left", color=INK)
        axes.set_xlabel("optimiser step")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        for number, (name, values) in enumerate(series):
            colour = INK if name == "loss" else COLOURS[(number - 1) % len(COLOURS)]
            style = "-" if number <= len(COLOURS) else "--"
            axes.plot(steps, smoothed(values, window), style, color=colour, label=name.replace("_", " "), zorder=3)
            if name == "loss":
                axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
        if series:
            highest = max(values.max() for _, values in series)
            axes.set_ylim(bottom=max(axes.get_ylim()[0], highest / 10**_DECADES))
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return chart_image(figure)


def _series(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Floats]]:
    """Return the loss and those of its parts that are there; gaps are filled with the value before."""
    found = []
    parts = dict.fromkeys(column for row in rows for column in row if column.startswith(_PART))
    for column in ("loss", *parts):
        values = [row.get(column) for row in rows]
        if any(value is not None and math.isfinite(value) and value > 0 for value in values):
            found.append((column.removeprefix(_PART), _filled(values)))
    return found


def _filled(values: Sequence[float | None]) -> Floats:
    last = next(value for value in values if value is not None and math.isfinite(value))
    filled = []
    for value in values:
        last = last if value is None or not math.isfinite(value) else value
        filled.append(last)
    return np.maximum(np.array(filled, np.float64), _LEAST)
