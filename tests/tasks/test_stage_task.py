"""The one place that makes Prefect tasks: what is tried again, what is not, and what the runs are called.

How such tasks run is tested with a real server, see tests/flows/test_task_runs.py.
"""

import importlib
import pkgutil
import sys

import pytest
from prefect.cache_policies import NO_CACHE  # noqa: TID251 - the tests of tasks/_prefect.py need what it does

import flows
import iedit_model
import storage
import tasks
from flows.errors import FlowError
from iedit_model.errors import IEditError, ImageDecoderError, MemoryLimitError
from storage import CorruptFileError, DiskFullError, MissingFileError, StorageError, TruncatedTarError
from storage.errors import RemoteError
from tasks._prefect import may_pass, stage_task
from tasks.download.errors import FetchError
from tasks.errors import ShardError, TaskError

PACKAGES = ("flows", "iedit_model", "storage", "tasks")
ROOTS = (FlowError, IEditError, StorageError, TaskError)
PASSING = {
    CorruptFileError,
    DiskFullError,
    FetchError,
    ImageDecoderError,
    MemoryLimitError,
    MissingFileError,
    RemoteError,
    ShardError,
    TruncatedTarError,
}
"""Disk, network and memory: all of our errors that another try may mend."""
FOR_GOOD = {
    *("AddressError", "ConfigError", "CorpusError", "EmbedTableError", "EmptyIndexError", "EmptyPlanError"),
    *("EmptyVersionError", "EvalSetError", "FingerprintError", "IndexMismatchError", "IndexRecallError"),
    *("MetricInputError", "MissingScoreError", "PackInputError", "SchemaError"),
    *("TooFewSamplesError", "WeightsError", "WordNetError"),
}


def all_errors() -> list[type[Exception]]:
    """Return every error class of our packages, whichever module defines it."""
    for package in (flows, iedit_model, storage, tasks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: list[type[Exception]] = list(ROOTS)
    for error in found:
        found.extend(error.__subclasses__())
    return found


def raised(error: type[Exception]) -> Exception:
    """Return an error of a class as a task run gives it, without what its own constructor asks for."""
    return error.__new__(error)


def test_errors_of_disk_network_and_memory_may_pass():
    assert {error for error in all_errors() if may_pass(raised(error))} == PASSING


@pytest.mark.parametrize("error", [MemoryError(), OSError("a cable"), RuntimeError("a driver"), TimeoutError()])
def test_errors_that_are_not_ours_may_pass(error: Exception):
    assert may_pass(error)


def test_errors_of_settings_and_input_do_not_pass():
    known = {error.__name__: error for error in all_errors()}
    assert known.keys() >= FOR_GOOD
    assert [name for name in FOR_GOOD if may_pass(raised(known[name]))] == []


def test_every_error_class_of_the_packages_says_whether_it_may_pass():
    all_errors()
    for root in ROOTS:
        assert (root.__dict__["retryable"], root.__dict__["stops_run"]) == (False, False)
    strays = [
        value
        for module in [module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES]
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__.split(".")[0] in PACKAGES
        if not issubclass(value, ROOTS)
    ]
    assert strays == []


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
