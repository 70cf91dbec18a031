"""What torch allocates on the CPU while some work is done."""

import itertools
import os
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def allocated_peak_mib(work: Callable[[], object]) -> float:
    """Return the most memory that ``work`` held at once beyond what was held before it, MiB."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's search for a GPU is no error here
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    kineto: Any = profiler.profiler
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(steps), default=0) / 2**20
