"""How a running flow says how far it is: a protocol, and its forms for people, for machines and for nobody."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TextIO, TypeVar, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.errors import one_line
from storage import ShardReport

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


Value = TypeVar("Value")


class Surrounding(Generic[Value]):
    """A value for as long as a context lasts; flows that are called inside see it, other threads do not."""

    def __init__(self, name: str, default: Callable[[], Value]) -> None:
        """Name it, and say what is taken where nobody set one."""
        self._set: ContextVar[Value | None] = ContextVar(name, default=None)
        self._default = default

    def current(self) -> Value:
        """Return what was set last and still holds, or the default."""
        value = self._set.get()
        return self._default() if value is None else value

    @contextmanager
    def holding(self, value: Value) -> Iterator[None]:
        """Set the value until the end of the context."""
        token = self._set.set(value)
        try:
            yield
        finally:
            self._set.reset(token)


_EVERY_S: Final = 2.0


class RunProgress:
    """Share of the shards of all stages begun so far that are done."""

    def __init__(self, description: str) -> None:
        """Create the artifact; must be called inside a flow run."""
        made = create_progress_artifact(progress=0.0, key="progress", description=description)
        self._artifact = cast("UUID", made)  # outside of a coroutine it is no coroutine
        self._begun = self._ended = 0
        self._stage = ""
        self._last = time.monotonic()

    def begin(self, stage: str, shards: int) -> None:
        """Count the shards in."""
        self._stage = stage
        self._begun += shards

    def finish(self, report: ShardReport) -> None:
        """Move the bar on."""
        self._stage = report.stage
        self._move()

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the bar says only how many
        """Move the bar on."""
        self._stage = stage
        self._move()

    def _move(self) -> None:
        self._ended += 1
        now = time.monotonic()
        if now - self._last >= _EVERY_S or self._ended >= self._begun:
            self._last = now
            share = 100 * self._ended / max(1, self._begun)
            said = f"{self._stage}: {self._ended} of {self._begun} shard runs done"
            update_progress_artifact(self._artifact, progress=min(100.0, share), description=said)


class Progress(Protocol):
    """What a flow tells while it runs; called from one thread."""

    def begin(self, stage: str, shards: int) -> None:
        """So many shards of a stage are ahead."""
        ...

    def finish(self, report: ShardReport) -> None:
        """One shard of a stage is done."""
        ...

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """One shard of a stage failed for good."""
        ...


class Silent:
    """Tells nothing."""

    def begin(self, stage: str, shards: int) -> None:
        """Tell nothing."""

    def finish(self, report: ShardReport) -> None:
        """Tell nothing."""

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """Tell nothing."""


class JsonLines:
    """One JSON object a line for each event, for machines."""

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

    def _write(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), file=self._stream, flush=True)


class PlainLines:
    """One line a stage when its last shard is done: for logs, where bars would be noise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to ``stream``, by default to the standard error."""
        self._stream = stream or sys.stderr
        self._ahead: Counter[str] = Counter()
        self._in: Counter[str] = Counter()
        self._out: Counter[str] = Counter()
        self._started: dict[str, float] = {}

    def begin(self, stage: str, shards: int) -> None:
        """Remember how many shards are ahead."""
        self._ahead[stage] += shards
        self._started[stage] = time.monotonic()

    def finish(self, report: ShardReport) -> None:
        """Write a line when it was the stage's last shard."""
        self._in[report.stage] += report.num_in
        self._out[report.stage] += report.num_out
        self._one_less(report.stage)

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the reason names the shard
        """Write the reason."""
        print(f"failed: {one_line(reason)}", file=self._stream, flush=True)
        self._one_less(stage)

    def _one_less(self, stage: str) -> None:
        self._ahead[stage] -= 1
        if self._ahead[stage] <= 0:
            seconds = time.monotonic() - self._started.get(stage, time.monotonic())
            said = f"{stage:<9} {self._in[stage]:>9,} in {self._out[stage]:>9,} out {seconds:>8.1f} s"
            print(said, file=self._stream, flush=True)


class RichBars:
    """One bar a stage with images a second and the time left."""

    def __init__(self, bars: "Bars") -> None:
        """Draw on ``bars``, see ``rich_bars``."""
        self._bars = bars
        self._ids: dict[str, TaskID] = {}
        self._totals: Counter[str] = Counter()
        self._started: dict[str, float] = {}
        self._images: Counter[str] = Counter()

    def begin(self, stage: str, shards: int) -> None:
        """Add the stage's bar."""
        self._totals[stage] += shards
        if stage not in self._ids:
            self._ids[stage] = self._bars.add_task(stage, total=0, rate="")
        self._bars.update(self._ids[stage], total=self._totals[stage])

    def finish(self, report: ShardReport) -> None:
        """Move the stage's bar on."""
        stage = report.stage
        if stage not in self._ids:
            self.begin(stage, 1)
        # The clock of a stage starts with the work on its first shard, not with the flow.
        started = self._started.setdefault(stage, time.monotonic() - report.seconds)
        self._images[stage] += report.num_in
        rate = self._images[stage] / max(time.monotonic() - started, 1e-3)
        self._bars.update(self._ids[stage], advance=1, rate=f"{rate:,.0f} img/s")

    def fail(self, stage: str, shard: str, reason: str) -> None:  # noqa: ARG002 - the reason names the shard
        """Print the reason above the bars."""
        self._bars.console.print(f"failed: {one_line(reason)}", style="red", markup=False, highlight=False)
        if stage in self._ids:
            self._bars.update(self._ids[stage], advance=1)


class Tally:
    """Adds up what came in and how long the work took, stage by stage."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.images: Counter[str] = Counter()
        """Stage -> samples that came in."""
        self.seconds: dict[str, float] = {}
        """Stage -> time of the work on all its shards, whenever they were done, seconds."""

    def begin(self, stage: str, shards: int) -> None:
        """Count nothing."""

    def finish(self, report: ShardReport) -> None:
        """Add the shard."""
        self.images[report.stage] += report.num_in
        self.seconds[report.stage] = self.seconds.get(report.stage, 0.0) + report.seconds

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """Count nothing."""

    def per_second(self, stage: str) -> float | None:
        """Return the samples a second of one worker, or None when there was nothing to do."""
        seconds = self.seconds.get(stage, 0.0)
        return self.images[stage] / seconds if seconds else None


class Several:
    """Tells all of several."""

    def __init__(self, parts: Sequence[Progress]) -> None:
        """Tell ``parts`` everything."""
        self._parts = parts

    def begin(self, stage: str, shards: int) -> None:
        """Tell all."""
        for part in self._parts:
            part.begin(stage, shards)

    def finish(self, report: ShardReport) -> None:
        """Tell all."""
        for part in self._parts:
            part.finish(report)

    def fail(self, stage: str, shard: str, reason: str) -> None:
        """Tell all."""
        for part in self._parts:
            part.fail(stage, shard, reason)


_PROGRESS: Final = Surrounding[Progress]("progress", Silent)


# Functions of this module and not the methods themselves: what a flow takes from other modules goes to Ray's workers
# with it, functions by their names, all else as a copy, and a ContextVar cannot be copied.
def current_progress() -> Progress:
    """Return what the command that runs the flow set up, or one that says nothing."""
    return _PROGRESS.current()


def shown(progress: Progress) -> AbstractContextManager[None]:
    """Have the flows that run inside the context tell ``progress``."""
    return _PROGRESS.holding(progress)


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
        TextColumn("{task.fields[rate]:>12}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield RichBars(bars)
