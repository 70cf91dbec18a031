"""The loop: optimiser steps from the last checkpoint to the end, each logged, guarded and, now and then, saved."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from iedit_model.batching import prefetch
from iedit_model.training.batch import EditBatch
from iedit_model.training.config import LossConfig
from iedit_model.training.train_models import TrainModels
from iedit_model.training.train_step import StepOutput, calibrate_lambda_perc, step_with_draws
from iedit_model.training.trainable import LayerPlan
from tasks.errors import DivergedError
from tasks.train.encoding_cache import BatchSource
from tasks.train.learner import Learner, PipelineWriter
from tasks.train.run_config import TrainRunConfig
from tasks.train.run_folder import RunFolder, SavedState
from tasks.train.sample_order import SampleOrder, draw_positions, step_positions
from tasks.train.step_meter import StepMeter
from tasks.train.train_log import MetricSink, TrainLog, TrainProgress, loss_curve
from tasks.train.validation_sheet import ValidationSheet

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

_HISTORY: Final = 100
_LOG_SECONDS: Final = 60.0
_MAX_SKIPPED: Final = 50
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """Everything that a loop works with."""

    config: TrainRunConfig
    models: TrainModels
    learner: Learner
    plan: LayerPlan
    accelerator: "Accelerator"
    source: BatchSource
    sample_ids: tuple[str, ...]
    folder: RunFolder
    pipeline: PipelineWriter
    progress: TrainProgress
    meter: StepMeter
    sheet: ValidationSheet | None = None


@dataclass(frozen=True, kw_only=True)
class _Micro:
    """What one micro-step left behind."""

    output: StepOutput
    batch: EditBatch


class TrainingRun:
    """One run of the loop, from a state to a step."""

    def __init__(self, parts: RunParts, *, first_step: int, seconds: float, lambda_perc: float | None) -> None:
        self._parts = parts
        self._train = parts.config.train
        self.step = first_step
        """Optimiser steps that are done."""
        self.seconds = seconds
        self.lambda_perc = lambda_perc
        self._loss: LossConfig = replace(self._train.loss, lambda_perc=lambda_perc)
        self._order = SampleOrder(num_samples=len(parts.sample_ids), seed=self._train.seed)
        self._log = TrainLog(parts.folder.log_path, first_step=first_step)
        self._logged_at = time.monotonic()
        self._num_skipped = 0

    @property
    def log(self) -> TrainLog:
        """The rows of all steps so far."""
        return self._log

    def run(self, last_step: int, sinks: Sequence[MetricSink]) -> bool:
        """Train until ``last_step`` steps are done; return False when a signal asked to stop before.

        Raises:
            DivergedError: the loss or a gradient is not finite, or the loss exploded; nothing of that step was used. Or
                a weight is not finite after an update; there is no checkpoint of it.
            DiskFullError: a checkpoint found no room.
        """
        config = self._parts.config.loop
        with GracefulShutdown() as stop:
            for row in self.steps(last_step):
                for sink in sinks:
                    sink.write(self.step - 1, row)
                self._parts.progress.on_step(self.step, self._train.num_steps, row)
                if config.validate_every and self.step % config.validate_every == 0:
                    self._validate()
                if self.step % config.save_every == 0 and self.step < last_step:
                    self.save()
                elif time.monotonic() - self._logged_at > _LOG_SECONDS:
                    self._write_log()
                if self._agreed(stop.requested):
                    break
            self.save()
        return self.step >= last_step

    def steps(self, last_step: int) -> Iterator[dict[str, float | None]]:
        """Take optimiser steps until ``last_step`` are done, and yield the log's row of each; nothing is saved.

        Raises:
            DivergedError: see ``run``.
        """
        ahead = self._parts.config.loop.batches_ahead
        batches = prefetch(self._upcoming(last_step), self._gather, num_threads=1 if ahead else 0, ahead=max(1, ahead))
        while self.step < last_step:
            yield self._timed_step(batches)

    def save(self) -> None:
        """Write the log and a checkpoint, unless there is one of this step."""
        parts = self._parts
        if parts.accelerator.is_main_process:
            self._write_log()
            if self.step not in parts.folder.saved_steps():
                tensors = parts.learner.tensors()
                if wrong := [name for name, value in tensors.items() if not value.isfinite().all()]:
                    raise self._diverged(f"{wrong[0]} is not finite after the update", ())
                state = SavedState(
                    step=self.step,
                    tensors=tensors,
                    scaler=parts.learner.scalars(),
                    lambda_perc=self.lambda_perc,
                    seconds=self.seconds,
                )
                parts.folder.save(state, parts.pipeline.write, keep_last=parts.config.loop.keep_last)
        parts.accelerator.wait_for_everyone()

    def _validate(self) -> None:
        parts = self._parts
        if parts.accelerator.is_main_process and parts.sheet is not None:
            with parts.pipeline.averaged():
                sheet = parts.sheet.draw()
            parts.folder.write_image(f"samples/step_{self.step:08d}.png", sheet)

    def _write_log(self) -> None:
        if self._parts.accelerator.is_main_process and self._log.rows:
            self._log.write()
            self._parts.folder.write_image("loss.png", loss_curve(self._log.rows))
        self._logged_at = time.monotonic()

    def _upcoming(self, last_step: int) -> Iterator[range]:
        accelerator = self._parts.accelerator
        for step in range(self.step, last_step):
            yield from step_positions(
                step,
                batch_size=self._train.batch_size,
                accumulation=self._train.accumulation,
                process=accelerator.process_index,
                num_processes=accelerator.num_processes,
            )

    def _gather(self, positions: range) -> tuple[range, EditBatch]:
        ids = self._parts.sample_ids
        batch = self._parts.source.batch([ids[self._order.index(position)] for position in positions])
        return positions, batch.pin_memory() if self._parts.accelerator.device.type == "cuda" else batch

    def _timed_step(self, batches: Iterator[tuple[range, EditBatch]]) -> dict[str, float | None]:
        parts, train = self._parts, self._train
        per_step = train.batch_size * train.accumulation * parts.accelerator.num_processes
        with parts.meter.timed(phase=parts.plan.phase_at(self.step), num_samples=per_step) as timing:
            values = self._optimiser_step(batches, timing.waited)
        self.seconds += timing.seconds
        row: dict[str, float | None] = {
            "step": self.step,
            "epoch": self._order.epoch(self.step * per_step),
            **values,
            **timing.columns(),
        }
        self._log.append(row)
        self.step += 1
        return row

    def _optimiser_step(self, batches: Iterator[tuple[range, EditBatch]], waited: Any) -> dict[str, float | None]:
        parts = self._parts
        parts.learner.begin(self.step)
        micros = []
        for _ in range(self._train.accumulation):
            with waited():
                positions, batch = next(batches)
            micros.append(self._micro_step(batch, positions))
        norm = parts.learner.gradient_norm()
        values = self._metrics(micros, norm)
        self._check(values, micros)
        parts.learner.update(self.step)
        self._num_skipped = self._num_skipped + 1 if parts.learner.skipped else 0
        return values | {
            "learning_rate": self._train.learning_rate_at(self.step),
            "phase": parts.plan.phase_at(self.step),
            "skipped": float(parts.learner.skipped),
        }

    def _micro_step(self, batch: EditBatch, positions: Sequence[int]) -> _Micro:
        parts = self._parts
        draws = draw_positions(
            batch,
            positions,
            self._loss,
            num_train_timesteps=len(parts.models.alphas_cumprod),
            seed=self._train.seed,
        )
        batch = batch.to(parts.accelerator.device, non_blocking=True)
        with parts.accelerator.accumulate(parts.models.unet):
            output = step_with_draws(parts.models, batch, self._loss, draws=draws, step=self.step)
            parts.accelerator.backward(output.loss)
        return _Micro(output=output, batch=batch)

    def _metrics(self, micros: Sequence[_Micro], norm: "Tensor") -> dict[str, float | None]:
        """Return the step's numbers, averaged over micro-steps and processes, with a single wait for the GPU."""
        import torch

        columns: dict[str, list[Tensor]] = {}
        for micro in micros:
            columns.setdefault("loss", []).append(micro.output.loss)
            for prefix, named in (("term", micro.output.terms), ("part", micro.output.contributions)):
                for name, value in named.items():
                    columns.setdefault(f"{prefix}_{name}", []).append(value)
        means = [torch.stack([value.detach().float() for value in values]).mean() for values in columns.values()]
        stacked: Any = torch.stack([*means, norm.detach().float().to(means[0].device)])
        if self._parts.accelerator.num_processes > 1:
            stacked = self._parts.accelerator.reduce(stacked, reduction="mean")
        return dict(zip([*columns, "grad_norm"], stacked.tolist(), strict=True))

    def _check(self, values: Mapping[str, float | None], micros: Sequence[_Micro]) -> None:
        loss, norm = values["loss"] or 0.0, values["grad_norm"] or 0.0
        usual = self._log.recent_mean("loss", _HISTORY)
        factor = self._parts.config.loop.explosion_factor
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif not math.isfinite(norm) and self._train.precision != "fp16":
            what = f"the gradient's norm is {norm}"
        elif self._num_skipped >= _MAX_SKIPPED:
            what = f"{_MAX_SKIPPED} updates in a row were left out, since their fp16 gradients overflowed"
        elif len(self._log.rows) >= _HISTORY // 5 and loss > factor * usual:
            what = f"the loss is {loss:.4g}, over {factor:g} times its recent mean of {usual:.4g}"
        else:
            return
        raise self._diverged(what, micros)

    def _diverged(self, what: str, micros: Sequence[_Micro]) -> DivergedError:
        scored = [
            (-math.inf if math.isnan(score) else -score, sample_id)
            for micro in micros
            for sample_id, score in zip(micro.batch.sample_ids, micro.output.per_sample_loss.tolist(), strict=True)
        ]
        sample_ids = tuple(dict.fromkeys(sample_id for _, sample_id in sorted(scored)))
        self._parts.learner.drop_gradients()
        self._write_log()
        checkpoint = self._parts.folder.latest()
        samples = f"; samples, the worst first: {', '.join(sample_ids[:8])}" if sample_ids else ""
        return DivergedError(
            f"step {self.step}: {what}{samples}; last good checkpoint: "
            f"{checkpoint or 'none yet'}. Lower learning_rate, clip gradients (max_grad_norm) or leave these samples "
            f"out (rows.where), and start again in {'another folder' if checkpoint else 'this or another folder'}",
            step=self.step,
            sample_ids=sample_ids,
            checkpoint=None if checkpoint is None else str(checkpoint),
        )

    def _agreed(self, requested: bool) -> bool:  # noqa: FBT001 - a plain fact
        """Return whether any process was asked to stop, the same answer in all of them."""
        accelerator = self._parts.accelerator
        if accelerator.num_processes == 1:
            return requested
        import torch

        flags: Any = accelerator.reduce(torch.tensor(float(requested), device=accelerator.device), reduction="sum")
        return bool(flags.item() > 0)


def calibrated_lambda_perc(parts: RunParts) -> float:
    """Return lambda_perc from the untrained model's losses on the first samples; nothing is learned meanwhile.

    Raises:
        ConfigError: a mean loss is not a finite positive number.
    """
    import torch

    train, loop = parts.config.train, parts.config.loop
    loss = replace(train.loss, lambda_perc=0.0, pixel_loss_every=1)
    order = SampleOrder(num_samples=len(parts.sample_ids), seed=train.seed)
    noise, perc = [], []
    for first in range(0, loop.calibration_samples, train.batch_size):
        positions = range(first, first + train.batch_size)
        batch = parts.source.batch([parts.sample_ids[order.index(position)] for position in positions])
        draws = draw_positions(
            batch, positions, loss, num_train_timesteps=len(parts.models.alphas_cumprod), seed=train.seed
        )
        with torch.no_grad():
            output = step_with_draws(parts.models, batch.to(parts.accelerator.device), loss, draws=draws, step=0)
        noise.append(float(output.contributions["noise"]))
        if "perc" in output.terms:
            perc.append(float(output.terms["perc"]))
    return calibrate_lambda_perc(noise, perc, share=loop.calibration_share)


class GracefulShutdown:
    """While entered, SIGINT or SIGTERM sets ``requested`` (graceful shutdown); a second one acts as it did before.

    Outside the main thread signals cannot be caught, and are left to whoever owns it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {name: signal.signal(name, self._notice) for name in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._restore()

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
        self._before = {}
