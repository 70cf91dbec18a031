"""Shards on their way through several stages: each goes on as soon as it can, and one that fails stops nobody else.

The loop hands out a task run only when it can start at once, so that no thread of the runner waits for another and
later stages go first. Downloads have a lane of their own beside the stages that compute.
"""

import queue
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flows.errors import ShardsFailedError
from flows.reporting.one_line import one_line
from flows.reporting.progress import Progress
from storage import ShardReport

Lane = Literal["network", "compute"]
Done = dict[str, ShardReport]
"""Stage -> report of one shard."""


class Future(Protocol):
    """What a task runner gives for a submitted task run."""

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call ``fn`` when the run has ended."""
        ...

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:  # noqa: FBT001, FBT002
        """Return what the run returned, or raise or return its error."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage on the way of a shard."""

    stage: str
    submit: Callable[[str, Mapping[str, ShardReport]], Future]
    """Submits the task run of a shard, given its reports so far."""
    lane: Lane = "compute"
    shown_as: str = ""
    """What the progress calls it; empty is the stage itself."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A shard that failed for good, where and why."""

    stage: str
    shard: str
    error: BaseException

    def __str__(self) -> str:
        """Return it as one line."""
        words = one_line(str(self.error), limit=400) or type(self.error).__name__
        return f"{self.stage} {self.shard}: {words}"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One task run in flight."""

    step: int
    shard: str


class FanOut:
    """Runs shards through stages, and remembers over all its runs which failed."""

    def __init__(self, *, lanes: Mapping[Lane, int], max_failed: int, progress: Progress) -> None:
        """Keep how many task runs may be in flight in each lane, and how many shards may fail in all runs together."""
        self._lanes, self._max_failed, self._progress = lanes, max_failed, progress
        self.failures: list[Failure] = []

    def run(self, shards: Mapping[str, Done], steps: Sequence[Step]) -> dict[str, Done]:
        """Take each shard through all steps and return the reports of those that got through, in the same order.

        Args:
            shards: shard -> its reports of earlier stages.
            steps: the stages, in order.

        Raises:
            ShardsFailedError: more shards failed than may, those of earlier runs included, or one for a reason that
                would hit all. All that could be finished is.
        """
        before = len(self.failures)
        for step in steps:
            self._progress.begin(step.shown_as or step.stage, len(shards))
        done = {shard: dict(reports) for shard, reports in shards.items()}
        is_whole = self._drive(done, steps)
        if not is_whole or len(self.failures) > self._max_failed:
            raise ShardsFailedError(_told(self.failures))
        failed = {failure.shard for failure in self.failures[before:]}
        return {shard: reports for shard, reports in done.items() if shard not in failed}

    def _drive(self, done: dict[str, Done], steps: Sequence[Step]) -> bool:
        """Run all there is to run; return whether each shard was tried as far as it could go."""
        ready = [deque[str]() for _ in steps]
        ready[0].extend(done)
        busy: Counter[Lane] = Counter()
        ended: queue.SimpleQueue[tuple[_Run, Future]] = queue.SimpleQueue()
        stop = False
        while True:
            while not stop and (run := self._next(ready, steps, busy)) is not None:
                busy[steps[run.step].lane] += 1
                future = steps[run.step].submit(run.shard, done[run.shard])
                future.add_done_callback(lambda finished, run=run: ended.put((run, finished)))
            if not busy.total():
                return not stop
            run, future = ended.get()
            busy[steps[run.step].lane] -= 1
            outcome = future.result(raise_on_failure=False)
            stage = steps[run.step].stage
            if isinstance(outcome, BaseException):
                self._fail(Failure(stage=stage, shard=run.shard, error=outcome))
                stop = stop or getattr(outcome, "stops_run", False)
                continue
            done[run.shard][stage] = outcome
            self._progress.finish(outcome)
            if run.step + 1 < len(steps):
                ready[run.step + 1].append(run.shard)

    def _next(self, ready: Sequence[deque[str]], steps: Sequence[Step], busy: Mapping[Lane, int]) -> _Run | None:
        """Take the next run that has room in its lane; what is further on goes first."""
        for number in reversed(range(len(steps))):
            lane = steps[number].lane
            if ready[number] and busy.get(lane, 0) < self._lanes[lane]:
                return _Run(step=number, shard=ready[number].popleft())
        return None

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self._progress.fail(failure.stage, failure.shard, str(failure))


def _told(failures: Sequence[Failure]) -> str:
    shown = "; ".join(str(failure) for failure in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return (
        f"{len(failures)} shard(s) failed, all that could be finished is; the same command goes on from there. "
        f"{shown}{more}"
    )
