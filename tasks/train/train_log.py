"""The log of a run: one parquet row per optimiser step, each step once, however often the run was resumed."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import Column, CorruptFileError, TableSchema, parquet_bytes, read_parquet
from storage.atomic import replace_bytes

if TYPE_CHECKING:
    import pyarrow as pa


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
