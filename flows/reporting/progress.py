"""Progress of a running flow: on a terminal, in a log, as JSON, in the Prefect page, or nowhere."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from flows.errors import one_line
from storage import ShardReport

if TYPE_CHECKING:
    from uuid import UUID

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_EVERY_S: Final = 10.0
_ARTIFACT_EVERY_S: Final = 2.0
_DRAWINGS_PER_S: Final = 1.0


class Progress:
    """Where the events of a running flow go, all from one thread; this one, the base of all, ignores them."""

    def begin(self, stage: str, shards: int) -> None:
        """So many shards of a stage are ahead."""

    def finish(self, report: ShardReport) -> None:
        """One shard of a stage is done."""

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """One shard of a stage failed for good."""

    def on_cache(self, done: int, total: int) -> None:
        """So many samples of a training are encoded."""

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """A training did an optimiser step; ``terms`` is the row of its log."""


class JsonLines(Progress):
    """One JSON object per line for each event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to ``stream``, by default to the standard error."""
        self._stream = stream or sys.stderr

    def begin(self, stage: str, shards: int) -> None:
        """Write the event ``begin``."""
        self._write({"event": "begin", "stage": stage, "shards": shards})

    def finish(self, report: ShardReport) -> None:
        """Write the event ``shard`` with its counts."""
        counts = {"num_in": report.num_in, "num_out": report.num_out, "dropped": dict(report.dropped)}
        name = {"stage": report.stage, "shard": report.shard, "seconds": report.seconds}
        self._write({"event": "shard", **name, **counts})

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """Write the event ``failed``."""
        self._write({"event": "failed", "stage": stage, "shard": shard, "reason": reason})

    def on_cache(self, done: int, total: int) -> None:
        """Write the event ``cache``."""
        self._write({"event": "cache", "done": done, "total": total})

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Write the event ``step`` with all that was measured."""
        self._write({"event": "step", "done": step, "total": total, **terms})

    def _write(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), file=self._stream, flush=True)


class _Tally:
    """What the shards of each stage came to, from its first announcement to its last shard."""

    def __init__(self) -> None:
        self.ahead: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._came_in: Counter[str] = Counter()
        self._went_out: Counter[str] = Counter()
        self._started: dict[str, float] = {}
        self._worked: dict[str, tuple[float, int]] = {}

    def begin(self, stage: str, shards: int) -> None:
        self.ahead[stage] += shards
        self._started.setdefault(stage, time.monotonic())

    def count(self, report: ShardReport) -> None:
        stage, work_began = report.stage, time.monotonic() - report.seconds
        self._came_in[stage] += report.num_in
        self._went_out[stage] += report.num_out
        # Work that took longer than the stage is announced was done by an earlier run. The clock of a rate starts with
        # the work on the first shard, not with the flow.
        if work_began >= self._started.setdefault(stage, work_began):
            began, count = self._worked.get(stage, (work_began, 0))
            self._worked[stage] = began, count + report.num_in

    def rate(self, stage: str) -> float | None:
        """Return what came in by the second, None where all of it was there before."""
        if stage not in self._worked:
            return None
        began, count = self._worked[stage]
        return count / max(time.monotonic() - began, 1e-3)

    def end_one(self, stage: str) -> str | None:
        """Count a shard as done; return the stage's line, and forget it, if it was the last one ahead."""
        self.done[stage] += 1
        if self.done[stage] < self.ahead[stage]:
            return None
        seconds = time.monotonic() - self._started.get(stage, time.monotonic())
        line = f"{stage:<9} {self._came_in[stage]:>9,} in {self._went_out[stage]:>9,} out {seconds:>8.1f} s"
        for known in (self.ahead, self.done, self._came_in, self._went_out, self._started, self._worked):
            known.pop(stage, None)
        return line


class PlainLines(Progress):
    """One line per stage when its last shard is done, and of a training from time to time: for logs."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = _LINE_EVERY_S) -> None:
        """Write to ``stream``, by default to the standard error; of a training at most every ``every_s`` seconds."""
        self._stream = stream or sys.stderr
        self._tally = _Tally()
        self._every_s = every_s
        self._last = -every_s

    def begin(self, stage: str, shards: int) -> None:
        """Remember how many shards are ahead."""
        self._tally.begin(stage, shards)

    def finish(self, report: ShardReport) -> None:
        """Write a line when it was the stage's last shard."""
        self._tally.count(report)
        self._one_less(report.stage)

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the reason names the shard
        """Write the reason."""
        self._write(f"failed: {one_line(reason)}")
        self._one_less(stage)

    def on_cache(self, done: int, total: int) -> None:
        """Write how many samples are encoded."""
        self._write_training(f"encoded {done:,} of {total:,} samples", last=done == total)

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Write the step and its loss."""
        self._write_training(f"step {step:,} of {total:,}: {_step_text(terms)}", last=step == total)

    def _one_less(self, stage: str) -> None:
        if (line := self._tally.end_one(stage)) is not None:
            self._write(line)

    def _write_training(self, line: str, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._last >= self._every_s:
            self._last = now
            self._write(line)

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class RichBars(Progress):
    """A bar for each stage at work, and for the encodings and the steps of a training; what is done becomes a line."""

    def __init__(self, bars: "Bars", *, units: Mapping[str, str] | None = None) -> None:
        """Draw on ``bars``, see ``rich_bars``; ``units`` are what comes in to each stage, in the plural."""
        self._bars = bars
        self._units = units or {}
        self._ids: dict[str, TaskID] = {}
        self._tally = _Tally()

    def begin(self, stage: str, shards: int) -> None:
        """Add the stage's bar."""
        self._tally.begin(stage, shards)
        self._show(stage, self._tally.done[stage], self._tally.ahead[stage] or None, "")

    def finish(self, report: ShardReport) -> None:
        """Move the stage's bar on."""
        stage = report.stage
        self._tally.count(report)
        rate = self._tally.rate(stage)
        self._one_less(stage, "" if rate is None else f"{rate:,.0f} {self._units.get(stage, 'images')}/s")

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the reason names the shard
        """Print the reason above the bars."""
        self._bars.console.print(f"failed: {one_line(reason)}", style="red", markup=False, highlight=False)
        self._one_less(stage, "")

    def on_cache(self, done: int, total: int) -> None:
        """Move the bar of the encodings on."""
        self._move("encode", done, total, "")

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Move the bar of the steps on."""
        self._move("train", step, total, _step_text(terms))

    def _one_less(self, stage: str, rate: str) -> None:
        if (line := self._tally.end_one(stage)) is not None:
            self._leave(stage, f"{line}  {rate}".rstrip())
        else:
            self._show(stage, self._tally.done[stage], self._tally.ahead[stage], rate)

    def _move(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._ids:
            # What an earlier process did counts as done, not as work of this one.
            self._show(name, max(0, done - 1), total, "")
        self._show(name, done, total, note)
        if done >= total:
            self._leave(name, f"{name:<9} {done:>9,} of {total:,} {note}".rstrip())

    def _show(self, name: str, done: int, total: int | None, rate: str) -> None:
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=total, completed=done, rate=rate)
        self._bars.update(self._ids[name], completed=done, total=total, rate=rate)

    def _leave(self, name: str, line: str) -> None:
        """Print what a bar came to, once, and take it away: bars that stay are drawn again with every other one."""
        if name in self._ids:
            self._bars.remove_task(self._ids.pop(name))
        self._bars.console.print(line, markup=False, highlight=False)


class RunProgress(Progress):
    """A bar in the Prefect page: the share of the shards of all stages begun so far that are done."""

    def __init__(self, description: str) -> None:
        """Create the artifact; must be called inside a flow run."""
        from prefect.artifacts import create_progress_artifact

        made = create_progress_artifact(progress=0.0, key="progress", description=description)
        self._artifact = cast("UUID", made)  # outside of a coroutine it is no coroutine
        self._begun = self._ended = 0
        self._last = time.monotonic()

    def begin(self, stage: str, shards: int) -> None:  # noqa: ARG002 - one bar for all stages
        """Count the shards in."""
        self._begun += shards

    def finish(self, report: ShardReport) -> None:
        """Move the bar on."""
        self._move(report.stage)

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the bar says only how many
        """Move the bar on."""
        self._move(stage)

    def _move(self, stage: str) -> None:
        from prefect.artifacts import update_progress_artifact

        self._ended += 1
        now = time.monotonic()
        if now - self._last >= _ARTIFACT_EVERY_S or self._ended >= self._begun:
            self._last = now
            share = 100 * self._ended / max(1, self._begun)
            text = f"{stage}: {self._ended} of {self._begun} shard runs done"
            update_progress_artifact(self._artifact, progress=min(100.0, share), description=text)


class StageTotals(Progress):
    """Adds up the samples and the time of the work, stage by stage."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.images: Counter[str] = Counter()
        """Stage -> samples that came in."""
        self.seconds: dict[str, float] = {}
        """Stage -> time of the work on all its shards, whenever they were done, seconds."""

    def finish(self, report: ShardReport) -> None:
        """Add the shard."""
        self.images[report.stage] += report.num_in
        self.seconds[report.stage] = self.seconds.get(report.stage, 0.0) + report.seconds

    def per_second(self, stage: str) -> float | None:
        """Return the samples per second of one worker, or None when there was nothing to do."""
        seconds = self.seconds.get(stage, 0.0)
        return self.images[stage] / seconds if seconds else None


class CompositeProgress(Progress):
    """Passes all events on to several outputs."""

    def __init__(self, parts: Sequence[Progress]) -> None:
        """Pass them on to ``parts``."""
        self._parts = parts

    def begin(self, stage: str, shards: int) -> None:
        """Pass it on."""
        for part in self._parts:
            part.begin(stage, shards)

    def finish(self, report: ShardReport) -> None:
        """Pass it on."""
        for part in self._parts:
            part.finish(report)

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """Pass it on."""
        for part in self._parts:
            part.fail(stage, shard, reason)

    def on_cache(self, done: int, total: int) -> None:
        """Pass it on."""
        for part in self._parts:
            part.on_cache(done, total)

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Pass it on."""
        for part in self._parts:
            part.on_step(step, total, terms)


_PROGRESS: Final[ContextVar[Progress | None]] = ContextVar("progress", default=None)


# Functions and not the variable itself: what a flow takes from other modules goes to Ray's workers with it, functions
# by their names, all else as a copy, and a ContextVar cannot be copied.
def current_progress() -> Progress:
    """Return the output that the command which runs the flow set, or one that ignores everything."""
    return _PROGRESS.get() or Progress()


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Set the output of the flows that run inside the context, in its thread."""
    token = _PROGRESS.set(progress)
    try:
        yield
    finally:
        _PROGRESS.reset(token)


@contextmanager
def rich_bars() -> Iterator[RichBars]:
    """Give bars on the standard error, drawn until the end of the context."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>14}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    from tasks.stages import DATASET

    units = {stage.name: stage.unit for stage in DATASET} | {"evaluate": "edits"}
    # Every drawing is some hundred bytes for each bar, which a recorded session keeps.
    with Bars(*columns, console=Console(stderr=True), refresh_per_second=_DRAWINGS_PER_S) as bars:
        yield RichBars(bars, units=units)


def _step_text(terms: Mapping[str, float | None]) -> str:
    """Return loss, gradient norm and speed of a step in a few words."""
    pieces = [
        f"{label} {value:{form}}"
        for label, name, form in (("loss", "loss", ".4f"), ("grad", "grad_norm", ".3g"))
        if (value := terms.get(name)) is not None
    ]
    speed = terms.get("images_per_s")
    return "  ".join([*pieces, *([f"{speed:,.1f} img/s"] if speed is not None else [])])
