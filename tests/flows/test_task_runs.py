"""Task runs of our stages in a real flow: tried again after what may pass, at once given up after what does not."""

import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from prefect import Flow, flow  # noqa: TID251 - the tests of flows/ need what flows/ do

from flows.build_dataset import build_dataset
from flows.config.tree import RunnerConfig, TagLimit, TaskOptions
from flows.engine.runner import task_runner, task_runs
from flows.evaluate import evaluate
from iedit_model.errors import ConfigError
from tasks._prefect import stage_task

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect")]


class Stage:
    """A stage that fails so many times before it succeeds, and counts its calls."""

    def __init__(self, failures: int, error: Callable[[], Exception] = OSError) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def run(self, shard: str) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return shard


def outcome(function: Callable[..., Any], *, retries: int = 2, timeout_s: float | None = None) -> Any:
    """Return what the only task run of a flow returned, or its error."""

    @flow(name="trial", persist_result=False)
    def trial() -> Any:
        task = stage_task(function, stage="caption", retries=retries, retry_delay_s=0, timeout_s=timeout_s, tags=())
        with task_runner(RunnerConfig(workers=1)) as runner:
            return runner.submit(task, parameters={"shard": "00007"}).result(raise_on_failure=False)

    try:
        return trial()
    except Exception as error:  # noqa: BLE001 - a flow that returns an error fails with it
        return error


def test_an_error_that_may_pass_is_tried_again_and_then_succeeds():
    stage = Stage(2)
    assert outcome(stage.run) == "00007"
    assert stage.calls == 3


def test_after_the_last_try_the_error_is_the_outcome():
    stage = Stage(9, lambda: OSError("the disk is gone"))
    assert str(outcome(stage.run)) == "the disk is gone"
    assert stage.calls == 3


def test_an_error_that_does_not_pass_is_not_tried_again():
    stage = Stage(9, lambda: ConfigError("mask.threshold is 7"))
    assert isinstance(outcome(stage.run), ConfigError)
    assert stage.calls == 1


def test_a_run_that_takes_too_long_is_ended_and_tried_again():
    calls: list[int] = []
    ended = threading.Event()

    def slow(shard: str) -> str:
        calls.append(len(calls))
        while len(calls) == 1 and not ended.wait(0.02):
            pass
        return shard

    try:
        start = time.monotonic()
        assert outcome(slow, retries=1, timeout_s=0.5) == "00007"
        assert len(calls) == 2
        assert time.monotonic() - start < 60
    finally:
        ended.set()


def test_task_runs_of_a_tag_never_overlap_where_one_may_run_at_a_time():
    lock, spans = threading.Lock(), []

    def work(shard: str) -> str:
        start = time.monotonic()
        time.sleep(0.3)
        with lock:
            spans.append((start, time.monotonic()))
        return shard

    @flow(name="limited", persist_result=False)
    def limited() -> list[str]:
        options = TaskOptions(tags=("one-at-a-time",))
        with task_runs(RunnerConfig(workers=2), [TagLimit(tag="one-at-a-time", limit=1)]) as runs:
            futures = [runs.submit(work, shard=shard, stage="embed", options=options) for shard in ("a", "b")]
            return [future.result() for future in futures]

    assert limited() == ["a", "b"]
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start


@pytest.mark.parametrize("made", [build_dataset, evaluate], ids=lambda made: made.name)
def test_a_flow_can_be_copied_to_the_workers_of_ray(made: Flow[..., Any]):
    copied = cloudpickle.loads(cloudpickle.dumps(made))
    assert copied.name == made.name
