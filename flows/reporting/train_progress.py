"""How a training says how far it is: bars for people, lines for logs, JSON for machines."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from flows.reporting.progress import Surrounding
from tasks.train.train_log import NullProgress, TrainProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_EVERY_S = 10.0


class TrainBars:
    """One bar for the encodings and one for the steps, with loss, images a second and the time left."""

    def __init__(self, bars: "Progress") -> None:
        """Draw on ``bars``, see ``train_bars``."""
        self._bars = bars
        self._ids: dict[str, TaskID] = {}

    def on_cache(self, done: int, total: int) -> None:
        """Move the bar of the encodings on."""
        self._move("encode", done, total, "")

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Move the bar of the steps on."""
        self._move("train", step, total, said_of(terms))

    def _move(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._ids:
            # What an earlier process did counts as done, not as work of this one.
            self._ids[name] = self._bars.add_task(name, total=total, completed=max(0, done - 1), note="")
        self._bars.update(self._ids[name], completed=done, total=total, note=note)


class TrainLines:
    """A line from time to time, for logs."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = _EVERY_S) -> None:
        """Write to ``stream``, by default to the standard error, at most every ``every_s`` seconds."""
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._last = -every_s

    def on_cache(self, done: int, total: int) -> None:
        """Say how many samples are encoded."""
        self._say(f"encoded {done:,} of {total:,} samples", last=done == total)

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Say the step and its loss."""
        self._say(f"step {step:,} of {total:,}: {said_of(terms)}", last=step == total)

    def _say(self, text: str, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._last >= self._every_s:
            self._last = now
            print(text, file=self._stream, flush=True)


class TrainJson:
    """One JSON object a line for each event, for machines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to ``stream``, by default to the standard error."""
        self._stream = stream or sys.stderr

    def on_cache(self, done: int, total: int) -> None:
        """Write the event ``cache``."""
        self._write({"event": "cache", "done": done, "total": total})

    def on_step(self, step: int, total: int, terms: Mapping[str, float | None]) -> None:
        """Write the event ``step`` with all that was measured."""
        self._write({"event": "step", "done": step, "total": total, **terms})

    def _write(self, event: Mapping[str, object]) -> None:
        print(json.dumps(event), file=self._stream, flush=True)


def said_of(terms: Mapping[str, float | None]) -> str:
    """Return loss, gradient norm and speed of a step in a few words."""
    pieces = [
        f"{label} {value:{form}}"
        for label, name, form in (("loss", "loss", ".4f"), ("grad", "grad_norm", ".3g"))
        if (value := terms.get(name)) is not None
    ]
    speed = terms.get("images_per_s")
    return "  ".join([*pieces, *([f"{speed:,.1f} img/s"] if speed is not None else [])])


_PROGRESS: Final = Surrounding[TrainProgress]("train_progress", NullProgress)


# Functions and not the methods themselves, see flows.reporting.progress.
def current_train_progress() -> TrainProgress:
    """Return what the command that runs the flow set up, or one that says nothing."""
    return _PROGRESS.current()


def training_shown(progress: TrainProgress) -> AbstractContextManager[None]:
    """Have the trainings that run inside the context tell ``progress``."""
    return _PROGRESS.holding(progress)


@contextmanager
def train_bars() -> Iterator[TrainBars]:
    """Give bars on the standard error, drawn until the end of the context."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield TrainBars(bars)
