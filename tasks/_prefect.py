"""The single place that makes a Prefect task of a stage's plain function."""

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

P = ParamSpec("P")
R = TypeVar("R")


class _WithoutThreadWarning(logging.Filter):
    """Drops the warning that a time limit cannot interrupt a blocking call in a thread, once for every task run.

    Our stages work in short batches, between which the limit takes effect.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return "running in a worker thread" not in str(record.msg)


logging.getLogger("prefect.task_runs").addFilter(_WithoutThreadWarning())


def stage_task(
    function: Callable[P, R],
    *,
    stage: str,
    retries: int,
    retry_delay_s: float,
    timeout_s: float | None,
    tags: tuple[str, ...],
) -> Task[P, R]:
    """Return the Prefect task that runs a stage's function; the disk, not Prefect's cache, says what is done.

    Args:
        function: takes ``shard`` among its keywords, which names the task run.
        stage: name of the task.
        retries: further tries after an error that may pass.
        retry_delay_s: wait before the first of them; it doubles with each.
        timeout_s: longest time of one try, seconds; None is no limit.
        tags: tags of its runs, which may have a concurrency limit.
    """
    return Task(
        function,
        name=stage,
        task_run_name=stage + " {shard}",
        tags=tags,
        retries=retries,
        retry_delay_seconds=exponential_backoff(retry_delay_s) if retries and retry_delay_s else None,
        retry_condition_fn=_may_pass,
        timeout_seconds=timeout_s,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def may_pass(error: object) -> bool:
    """Return whether another try makes sense: our own errors say so themselves, all others may pass."""
    return getattr(error, "retryable", True)


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return may_pass(state.result(raise_on_failure=False))
