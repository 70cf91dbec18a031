"""Two ways to do the same work, timed alternately: what else the machine does then hits both."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of each round."""

    wall: tuple[float, ...]
    """By the clock."""
    cpu: tuple[float, ...]
    """Of all threads of this process."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Our times and those of the baseline, round by round."""

    ours: Times
    baseline: Times

    def median_s(self, side: Literal["ours", "baseline"]) -> float:
        """Return the median time of one side by the clock, seconds."""
        return statistics.median(getattr(self, side).wall)

    def ratios(self, clock: Literal["wall", "cpu"]) -> list[float]:
        """Return ours to baseline, of each round."""
        return [a / b for a, b in zip(getattr(self.ours, clock), getattr(self.baseline, clock), strict=True)]


def side_by_side(*, ours: Work, baseline: Work, reset: Work, rounds: int) -> SideBySide:
    """Run both once to warm up and then ``rounds`` times, alternating.

    Args:
        ours: our work.
        baseline: the same work without us.
        reset: called before each run of ours, not timed: takes away what an idempotent stage would find finished.
        rounds: timed runs of each.
    """
    ours_times, baseline_times = [], []
    for number in range(rounds + 1):
        # Who begins changes, so that a machine that slows down or speeds up favours nobody.
        for mine in (True, False) if number % 2 else (False, True):
            if mine:
                reset()
            (ours_times if mine else baseline_times).append(_timed(ours if mine else baseline))
    return SideBySide(ours=_times(ours_times[1:]), baseline=_times(baseline_times[1:]))


def _timed(work: Work) -> tuple[float, float]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _times(rounds: Sequence[tuple[float, float]]) -> Times:
    return Times(wall=tuple(wall for wall, _ in rounds), cpu=tuple(cpu for _, cpu in rounds))
