"""What the task runs of a flow run on: threads of this process, or a Ray cluster; and their limits."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.config.tree import RunnerConfig, TagLimit, TaskOptions
from flows.engine.fan_out import FanOut, Future
from flows.reporting.progress import Progress
from flows.server.environment import DEFAULTS
from iedit_model.errors import ConfigError
from tasks._prefect import stage_task


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
            options: how it is run, and its share of processors and GPUs where the runner counts them.
        """
        with placed(self.config, options):
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
        raise ConfigError("runner.kind is 'ray', but prefect-ray is not installed: install iedit[ray]") from None
    threads = str(config.model_threads)
    environment = {**DEFAULTS, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    options: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "include_dashboard": False}
    options |= {"logging_level": logging.ERROR, "log_to_driver": False}  # the standard error is for our own progress
    if config.ray_address is None:
        options["num_cpus"] = config.workers + config.downloads
    return RayTaskRunner(address=config.ray_address, init_kwargs=options)


@contextmanager
def placed(config: RunnerConfig, options: TaskOptions) -> Iterator[None]:
    """Have the task runs that are submitted inside take their share of processors and GPUs, where the runner counts."""
    if config.kind == "threads":
        yield
        return
    from prefect_ray.context import remote_options

    with remote_options(num_cpus=options.cpus, num_gpus=options.gpus):
        yield


def set_tag_limits(limits: Sequence[TagLimit]) -> None:
    """Tell the Prefect server how many task runs of a tag may run at once.

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
