"""The one place that makes Prefect tasks: what is tried again, what is not, and what the runs are called.

How such tasks run is tested with a real server, see tests/flows/test_task_runs.py.
"""

from prefect.cache_policies import NO_CACHE  # noqa: TID251 - the tests of tasks/_prefect.py need what it does

from iedit_model.errors import ConfigError, WeightsError
from storage import (
    AddressError,
    CorruptFileError,
    DiskFullError,
    EmptyVersionError,
    FingerprintError,
    MissingFileError,
    SchemaError,
    StorageError,
)
from tasks._prefect import PERMANENT, stage_task
from tasks.errors import EmptyPlanError, ShardError
from tasks.index.index_rows import EmptyIndexError

PASSING = (
    CorruptFileError,
    DiskFullError,
    MemoryError,
    MissingFileError,
    OSError,
    RuntimeError,
    ShardError,
    TimeoutError,
)
FOR_GOOD = (
    AddressError,
    ConfigError,
    EmptyIndexError,
    EmptyPlanError,
    EmptyVersionError,
    FingerprintError,
    SchemaError,
    WeightsError,
)


def test_errors_of_disk_network_and_memory_may_pass():
    assert not any(issubclass(error, PERMANENT) for error in PASSING)


def test_errors_of_settings_and_input_do_not_pass():
    assert all(issubclass(error, PERMANENT) for error in FOR_GOOD)


def test_no_root_of_errors_is_permanent_as_a_whole():
    assert StorageError not in PERMANENT
    assert Exception not in PERMANENT


def step(shard: str) -> str:
    return shard


def test_the_task_carries_what_the_configuration_says():
    task = stage_task(step, stage="caption", retries=3, retry_delay_s=2.0, timeout_s=9.0, tags=("gpu",))
    assert (task.name, task.retries, task.timeout_seconds, task.tags) == ("caption", 3, 9.0, {"gpu"})
    assert task.retry_delay_seconds == [2.0, 4.0, 8.0]
    assert task.task_run_name == "caption {shard}"
    assert task.persist_result is False
    assert task.cache_policy == NO_CACHE


def test_without_retries_or_without_a_wait_there_is_none():
    for retries, delay in ((0, 2.0), (3, 0.0)):
        task = stage_task(step, stage="caption", retries=retries, retry_delay_s=delay, timeout_s=None, tags=())
        assert (task.retries, task.retry_delay_seconds, task.timeout_seconds) == (retries, 0, None)
