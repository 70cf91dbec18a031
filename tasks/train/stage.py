"""Stage 9, train: a dataset version -> a fine-tuned pipeline (Sections 3.3, 3.4 and 4.1 of the paper).

A run lives in a folder of its own: ``run.json`` (what it is), ``log.parquet`` (every step), ``loss.png`` and
``checkpoints/``. Called again on the same folder it goes on where it stood; on the CPU to the same bits as if it had
never stopped. Frozen-encoder outputs of the pairs are kept in the store and shared by all runs.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from storage import ShardStore, VersionStore
from tasks.exports import note_outside
from tasks.train.encoding_cache import CacheReport
from tasks.train.run_config import TrainRunConfig
from tasks.train.run_folder import MANIFEST_NAME, RunFolder
from tasks.train.train_log import MetricSink, NullProgress, TrainProgress, open_sinks

if TYPE_CHECKING:
    from tasks.train.preparation import PreparedRun
    from tasks.train.training_run import TrainingRun

__all__ = ["TrainReport", "TrainRunConfig", "train"]

_LAST_STEPS: Final = 100


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What one call of ``train`` came to."""

    folder: Path
    status: Literal["finished", "interrupted"]
    """interrupted: a signal or ``stop_at`` ended it early; the same call goes on."""
    step: int
    """Optimiser steps that are done."""
    num_steps: int
    checkpoint: Path
    """The newest checkpoint: a diffusers pipeline folder."""
    version: str
    """The dataset version's full id."""
    num_samples: int
    """Samples that are trained on."""
    left_out: dict[str, int]
    """Why other samples of the split are not."""
    lambda_perc: float | None
    """As configured or calibrated."""
    mean_loss: float
    """Over the last 100 steps."""
    seconds: float
    """Wall time of all steps, earlier calls included."""
    cache: CacheReport | None
    """None where the cache is off."""


def train(
    version: str,
    config: TrainRunConfig,
    store: ShardStore,
    out: Path,
    *,
    stop_at: int | None = None,
    progress: TrainProgress | None = None,
) -> TrainReport:
    """Fine-tune a pipeline on a dataset version, from the last checkpoint in ``out`` if there is one.

    Args:
        version: id of a version in the store, or the beginning of it.
        config: everything that decides the run.
        store: where the version and the caches lie.
        out: folder of the run; made if it is not there.
        stop_at: leave after this many optimiser steps in all, as a signal would; None trains to the end.
        progress: told about every step.

    Raises:
        UnknownVersionError: no such version.
        TrainingRowsError: no sample is left, or samples do not fit together.
        RunFolderError: the folder belongs to another run, is in use or is damaged.
        DivergedError: the loss is not finite or exploded; the run stopped before using it.
        MissingPackageError: an option needs a package that is not there.
        WeightsError: a model cannot be had.
        ConfigError: settings contradict one another.
    """
    from tasks.train.learner import build_accelerator
    from tasks.train.preparation import prepare_run

    info = VersionStore(store.files).load(version)
    folder = RunFolder(out)
    accelerator = build_accelerator(config.train, config.compute)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(folder.locked())
            note_outside(store.files, "a training run", out, version=info.id)
        reported = progress if progress is not None and accelerator.is_main_process else NullProgress()
        prepared = prepare_run(info, config, store, folder, accelerator=accelerator, stack=stack, progress=reported)
        run = _begun(prepared)
        sinks = _sinks(prepared, run, stack)
        num_steps = config.train.num_steps
        finished = run.run(num_steps if stop_at is None else min(num_steps, stop_at), sinks) and run.step >= num_steps
        report = TrainReport(
            folder=out,
            status="finished" if finished else "interrupted",
            step=run.step,
            num_steps=num_steps,
            checkpoint=folder.checkpoint(run.step),
            version=info.id,
            num_samples=len(prepared.parts.sample_ids),
            left_out=dict(prepared.left_out),
            lambda_perc=run.lambda_perc,
            mean_loss=run.log.recent_mean("loss", _LAST_STEPS),
            seconds=run.seconds,
            cache=prepared.cache,
        )
        if prepared.parts.accelerator.is_main_process:
            _report_progress(prepared, report)
    return report


def _begun(prepared: "PreparedRun") -> "TrainingRun":
    """Return the run at its last checkpoint, or at its start, with lambda_perc known."""
    from tasks.train.training_run import TrainingRun, calibrated_lambda_perc

    parts = prepared.parts
    steps = parts.folder.saved_steps()
    if steps:
        state = parts.folder.load(steps[-1])
        parts.learner.load(state.tensors, state.scaler)
        return TrainingRun(parts, first_step=state.step, seconds=state.seconds, lambda_perc=state.lambda_perc)
    lambda_perc = parts.config.train.loss.lambda_perc
    if parts.config.train.loss.use_perc and lambda_perc is None:
        lambda_perc = calibrated_lambda_perc(parts)
    if parts.accelerator.is_main_process:
        parts.folder.write_json(MANIFEST_NAME, {**prepared.manifest, "lambda_perc": lambda_perc})
    return TrainingRun(parts, first_step=0, seconds=0.0, lambda_perc=lambda_perc)


def _sinks(prepared: "PreparedRun", run: "TrainingRun", stack: ExitStack) -> list[MetricSink]:
    parts = prepared.parts
    if not parts.accelerator.is_main_process:
        return []
    sinks = open_sinks(parts.config.loop, parts.folder.path, first_step=run.step, described=prepared.manifest)
    for sink in sinks:
        stack.callback(sink.close)
    return list(sinks)


def _report_progress(prepared: "PreparedRun", report: TrainReport) -> None:
    """Write what became of the run beside what it is."""
    folder = prepared.parts.folder
    outcome = {
        "status": report.status,
        "step": report.step,
        "checkpoint": report.checkpoint.relative_to(folder.path).as_posix(),
        "mean_loss": report.mean_loss if math.isfinite(report.mean_loss) else None,
        "seconds": round(report.seconds, 3),
    }
    folder.write_json(MANIFEST_NAME, {**prepared.manifest, "lambda_perc": report.lambda_perc, "outcome": outcome})
