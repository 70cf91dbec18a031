"""What the task runs of a flow run on: threads of this process, or a Ray cluster; and their limits."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.config import RunnerConfig, TagLimit, TaskOptions
from flows.environment import DEFAULTS
from flows.errors import SettingError


def task_runner(config: RunnerConfig) -> TaskRunner[Any]:
    """Return the task runner that the configuration names.

    Raises:
        SettingError: Ray is asked for and not installed.
    """
    if config.kind == "threads":
        return ThreadPoolTaskRunner(max_workers=config.workers + config.downloads)
    try:
        from prefect_ray import RayTaskRunner
    except ImportError:
        raise SettingError("runner.kind is 'ray', but prefect-ray is not installed: install iedit[ray]") from None
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
