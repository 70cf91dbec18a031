"""What the task runs of a flow run on: threads of this process, or a Ray cluster; and their limits."""

import logging
import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import DEFAULTS
from flows.config.tree import RunnerConfig, TagLimit, TaskOptions
from flows.errors import ShardsFailedError, one_line
from flows.reporting.progress import Progress
from iedit_model.errors import ConfigError
from storage import DamagedFileError, ShardReport
from tasks._prefect import stage_task

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
            DamagedFileError: shards met damaged files of earlier stages, which can be made again.
        """
        before = len(self.failures)
        for step in steps:
            self._progress.begin(step.shown_as or step.stage, len(shards))
        done = {shard: dict(reports) for shard, reports in shards.items()}
        is_whole = self._drive(done, steps)
        if not is_whole or len(self.failures) > self._max_failed:
            raise ShardsFailedError(_failures_text(self.failures))
        failed = {failure.shard for failure in self.failures[before:]}
        return {shard: reports for shard, reports in done.items() if shard not in failed}

    def _drive(self, done: dict[str, Done], steps: Sequence[Step]) -> bool:
        """Run all there is to run; return whether each shard was tried as far as it could go."""
        ready = [deque[str]() for _ in steps]
        ready[0].extend(done)
        busy: Counter[Lane] = Counter()
        ended: queue.SimpleQueue[tuple[_Run, Future]] = queue.SimpleQueue()
        stop, damaged = False, list[DamagedFileError]()
        while True:
            while not stop and (run := self._next(ready, steps, busy)) is not None:
                busy[steps[run.step].lane] += 1
                future = steps[run.step].submit(run.shard, done[run.shard])
                future.add_done_callback(lambda finished, run=run: ended.put((run, finished)))
            if not busy.total():
                if damaged:
                    raise DamagedFileError(str(damaged[0]), *(path for error in damaged for path in error.paths))
                return not stop
            run, future = ended.get()
            busy[steps[run.step].lane] -= 1
            outcome = future.result(raise_on_failure=False)
            stage = steps[run.step].stage
            if isinstance(outcome, DamagedFileError):
                damaged.append(outcome)
                continue
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


def _failures_text(failures: Sequence[Failure]) -> str:
    shown = "; ".join(str(failure) for failure in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return (
        f"{len(failures)} shard(s) failed, all that could be finished is; the same command goes on from there. "
        f"{shown}{more}"
    )


@dataclass(frozen=True)
class TaskRuns:
    """Makes the task runs of one flow run, and hands them out."""

    runner: TaskRunner[Any]
    config: RunnerConfig

    def submit(self, function: Callable[..., Any], *, shard: str, stage: str, options: TaskOptions) -> Future:
        """Hand out the task run of a stage's function for a shard.

        Args:
            function: takes ``shard``; all else is bound to it and not passed. Prefect would look for futures in every
                field of every report and setting, and what is quoted against that arrives wrapped once more on Ray.
            shard: names the task run.
            stage: names the task.
            options: how it is run, and its share of CPUs and GPUs where the runner counts them.
        """
        with resources(self.config, options):
            return self.runner.submit(_task(function, stage, options), parameters={"shard": shard})

    def here(self, function: Callable[..., Any], *, stage: str, options: TaskOptions, **given: Any) -> Any:
        """Run the task of a stage's function in this thread, the one that Ctrl-C reaches; return what it returns.

        Args:
            function: takes ``shard``, which names the task run, and all else of ``given``.
            stage: names the task.
            options: how it is run.
            given: what the function is called with.
        """
        return _task(function, stage, options)(**given)

    def fan_out(self, progress: Progress) -> FanOut:
        """Return what takes shards through stages, as many at a time as the configuration says; one for a flow run."""
        return FanOut(
            lanes={"network": self.config.downloads, "compute": self.config.workers},
            max_failed=self.config.max_failed_shards,
            progress=progress,
        )


@contextmanager
def task_runs(config: RunnerConfig, limits: Sequence[TagLimit]) -> Iterator[TaskRuns]:
    """Start what runs the tasks, until the end of the context; must be called inside a flow run.

    Args:
        config: what runs them.
        limits: of their tags; they hold before the first task run starts.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    set_tag_limits(limits)
    with task_runner(config) as runner:
        yield TaskRuns(runner, config)


def task_runner(config: RunnerConfig) -> TaskRunner[Any]:
    """Return the task runner that the configuration names.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if config.kind == "threads":
        return ThreadPoolTaskRunner(max_workers=config.workers + config.downloads)
    try:
        from prefect_ray import RayTaskRunner
    except ImportError:
        raise ConfigError("run.runner.kind is 'ray', but prefect-ray is not installed: install iedit[ray]") from None
    threads = str(config.model_threads)
    environment = {**DEFAULTS, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    options: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "include_dashboard": False}
    options |= {"logging_level": logging.ERROR, "log_to_driver": False}  # the standard error is for our own progress
    if config.ray_address is None:
        options["num_cpus"] = config.workers + config.downloads
    return RayTaskRunner(address=config.ray_address, init_kwargs=options)


@contextmanager
def resources(config: RunnerConfig, options: TaskOptions) -> Iterator[None]:
    """Have the task runs that are submitted inside take their share of CPUs and GPUs, where the runner counts."""
    if config.kind == "threads":
        yield
        return
    from prefect_ray.context import remote_options

    with remote_options(num_cpus=options.cpus, num_gpus=options.gpus):
        yield


def set_tag_limits(limits: Sequence[TagLimit]) -> None:
    """Set on the Prefect server how many task runs of a tag may run at once.

    Each is a global limit ``tag:NAME`` whose slots are leases: those of a process that was killed come back.
    """
    if not limits:
        return
    with get_client(sync_client=True) as client:
        for limit in limits:
            client.upsert_global_concurrency_limit_by_name(f"tag:{limit.tag}", limit.limit)


def _task(function: Callable[..., Any], stage: str, options: TaskOptions) -> Task[..., Any]:
    return stage_task(
        function,
        stage=stage,
        retries=options.retries,
        retry_delay_s=options.retry_delay_s,
        timeout_s=options.timeout_s,
        tags=options.tags,
    )
