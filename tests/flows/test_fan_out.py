"""Shards on their way through stages, driven by real threads: who goes when, and what a failure stops."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.engine.runner import Done, FanOut, Lane, Step
from flows.errors import ShardsFailedError
from flows.reporting.progress import StageTotals
from storage import DamagedFileError, DiskFullError, Files, SchemaError, ShardReport, until_whole
from tests.flows.made_reports import report

Work = Callable[[str, str], None]
LANES: Mapping[Lane, int] = {"network": 2, "compute": 2}


class Run:
    """A future of a thread, with the one method that Prefect's has beside it."""

    def __init__(self, future: "ThreadFuture[ShardReport]") -> None:
        self._future = future

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        self._future.add_done_callback(lambda _: fn(self))

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        error = self._future.exception(timeout)
        if error is not None and not raise_on_failure:
            return error
        return self._future.result(timeout)


class Machine:
    """Runs stages on threads and writes down what was handed out when, and how many were under way together."""

    def __init__(self, pool: ThreadPoolExecutor, work: Work) -> None:
        self._pool, self._work = pool, work
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self.handed_out: list[tuple[str, str]] = []
        self.most: Counter[str] = Counter()
        self.seen: dict[tuple[str, str], list[str]] = {}

    def step(self, stage: str, lane: Lane = "compute") -> Step:
        def submit(shard: str, done: Mapping[str, ShardReport]) -> Run:
            self.handed_out.append((stage, shard))
            self.seen[stage, shard] = list(done)
            with self._lock:
                self._in_flight[lane] += 1
                self.most[lane] = max(self.most[lane], self._in_flight[lane])
            return Run(self._pool.submit(self._one, stage, shard, lane))

        return Step(stage=stage, submit=submit, lane=lane)

    def _one(self, stage: str, shard: str, lane: Lane) -> ShardReport:
        try:
            self._work(stage, shard)
            return report(stage, shard)
        finally:
            with self._lock:
                self._in_flight[lane] -= 1


class Told(StageTotals):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, int] = {}
        self.failed: list[tuple[str, str, str]] = []

    def begin(self, stage: str, shards: int) -> None:
        self.begun[stage] = shards

    def fail(self, stage: str, shard: str, reason: str) -> None:
        self.failed.append((stage, shard, reason))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def shards(number: int) -> dict[str, Done]:
    return {f"{place:05d}": {"plan": report("plan", f"{place:05d}")} for place in range(number)}


def nothing(stage: str, shard: str) -> None: ...


def failing(errors: Mapping[tuple[str, str], Exception]) -> Work:
    def work(stage: str, shard: str) -> None:
        if (error := errors.get((stage, shard))) is not None:
            raise error

    return work


def fan_out(*, max_failed: int = 0, lanes: Mapping[Lane, int] = LANES) -> tuple[FanOut, Told]:
    told = Told()
    return FanOut(lanes=lanes, max_failed=max_failed, progress=told), told


@given(number=st.integers(0, 12), network=st.integers(1, 3), compute=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_every_shard_goes_through_all_stages_in_order_and_lanes_never_overflow(pool, number, network, compute, seed):
    def work(stage: str, shard: str) -> None:
        time.sleep(((seed + 7 * int(shard) + len(stage)) % 5) * 1e-4)

    machine = Machine(pool, work)
    runs, told = fan_out(lanes={"network": network, "compute": compute})
    steps = [machine.step("download", "network"), machine.step("caption"), machine.step("embed")]
    done = runs.run(shards(number), steps)
    assert list(done) == list(shards(number))
    assert all(list(reports) == ["plan", "download", "caption", "embed"] for reports in done.values())
    assert all(reports["embed"].shard == shard for shard, reports in done.items())
    assert machine.most["network"] <= network
    assert machine.most["compute"] <= compute
    assert told.begun == {"download": number, "caption": number, "embed": number}
    assert told.images == ({"download": 10 * number, "caption": 10 * number, "embed": 10 * number} if number else {})
    for shard in done:
        assert machine.seen["embed", shard] == ["plan", "download", "caption"]


def test_what_is_further_on_goes_first(pool):
    machine = Machine(pool, nothing)
    runs, _ = fan_out(lanes={"network": 1, "compute": 1})
    runs.run(shards(3), [machine.step("swap"), machine.step("embed")])
    assert [stage for stage, _ in machine.handed_out] == ["swap", "embed"] * 3
    assert [shard for _, shard in machine.handed_out[::2]] == ["00000", "00001", "00002"]


def test_downloads_and_computing_go_on_beside_each_other(pool):
    both = threading.Barrier(2)

    def work(stage: str, shard: str) -> None:
        # The first shard's caption and the second's download wait for each other.
        if (stage, shard) in {("caption", "00000"), ("download", "00001")}:
            both.wait(timeout=30)

    machine = Machine(pool, work)
    runs, _ = fan_out(lanes={"network": 1, "compute": 1})
    assert len(runs.run(shards(2), [machine.step("download", "network"), machine.step("caption")])) == 2


def test_the_input_is_not_changed(pool):
    given_shards = shards(2)
    fan_out()[0].run(given_shards, [Machine(pool, nothing).step("embed")])
    assert given_shards == shards(2)


def test_a_failing_shard_stops_nobody_else_and_then_fails_the_run(pool):
    machine = Machine(pool, failing({("caption", "00001"): OSError("the disk is gone")}))
    runs, told = fan_out(lanes={"network": 1, "compute": 1})
    with pytest.raises(ShardsFailedError) as caught:
        runs.run(shards(4), [machine.step("caption"), machine.step("embed")])
    assert "1 shard(s) failed" in str(caught.value)
    assert "caption 00001: the disk is gone" in str(caught.value)
    assert {shard for stage, shard in machine.handed_out if stage == "embed"} == {"00000", "00002", "00003"}
    assert told.failed == [("caption", "00001", "caption 00001: the disk is gone")]


def test_as_many_as_may_fail_are_left_out(pool):
    errors: dict[tuple[str, str], Exception] = {
        ("caption", "00001"): OSError("one"),
        ("embed", "00002"): MemoryError(),
    }
    steps = [Machine(pool, failing(errors)).step(stage) for stage in ("caption", "embed")]
    runs, told = fan_out(max_failed=2)
    assert list(runs.run(shards(4), steps)) == ["00000", "00003"]
    assert sorted(told.failed) == [
        ("caption", "00001", "caption 00001: one"),
        ("embed", "00002", "embed 00002: MemoryError"),
    ]
    with pytest.raises(ShardsFailedError, match="2 shard"):
        fan_out(max_failed=1)[0].run(shards(4), steps)


def test_shards_that_failed_are_counted_over_all_stages_of_a_run(pool):
    errors: dict[tuple[str, str], Exception] = {
        ("caption", "00001"): OSError("one"),
        ("mask", "00000"): OSError("two"),
        ("pack", "00001"): OSError("three"),
    }
    machine = Machine(pool, failing(errors))
    runs, _ = fan_out(max_failed=2)
    captioned = runs.run(shards(4), [machine.step("caption")])
    assert list(captioned) == ["00000", "00002", "00003"]
    assert list(runs.run(captioned, [machine.step("mask")])) == ["00002", "00003"]
    with pytest.raises(ShardsFailedError, match=r"3 shard\(s\) failed.*one.*two.*three"):
        runs.run(shards(2), [machine.step("pack")])


def test_a_later_part_of_a_run_may_take_a_shard_whose_namesake_failed(pool):
    runs, _ = fan_out(max_failed=1)
    assert list(runs.run(shards(2), [Machine(pool, failing({("pack", "00001"): OSError()})).step("pack")])) == ["00000"]
    assert list(runs.run(shards(2), [Machine(pool, nothing).step("pack")])) == ["00000", "00001"]


@pytest.mark.parametrize("error", [SchemaError("no such column"), DiskFullError("no room left")])
def test_an_error_that_would_hit_all_stops_new_task_runs(pool, error):
    machine = Machine(pool, failing({("caption", "00001"): error}))
    runs, _ = fan_out(lanes={"network": 1, "compute": 1})
    with pytest.raises(ShardsFailedError, match=str(error)):
        runs.run(shards(50), [machine.step("caption")])
    assert machine.handed_out == [("caption", "00000"), ("caption", "00001")]


def test_what_runs_when_a_permanent_error_comes_is_waited_for(pool):
    failed, ended = threading.Event(), threading.Event()

    def work(stage: str, shard: str) -> None:
        if shard == "00000":
            failed.set()
            raise SchemaError("no such column")
        assert failed.wait(timeout=30)
        time.sleep(0.05)
        ended.set()

    runs, told = fan_out(max_failed=9)
    with pytest.raises(ShardsFailedError, match="no such column"):
        runs.run(shards(9), [Machine(pool, work).step("caption")])
    assert ended.is_set()
    assert told.images["caption"] == 10


def test_many_failures_are_told_in_short(pool):
    errors: dict[tuple[str, str], Exception] = {("caption", f"{n:05d}"): OSError(f"x\n{'y' * 5000}") for n in range(10)}
    with pytest.raises(ShardsFailedError) as caught:
        fan_out()[0].run(shards(10), [Machine(pool, failing(errors)).step("caption")])
    assert "10 shard(s) failed" in str(caught.value)
    assert "and 7 more" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_no_shards_are_nothing_to_do(pool):
    machine = Machine(pool, nothing)
    assert fan_out()[0].run({}, [machine.step("caption")]) == {}
    assert machine.handed_out == []


def test_damaged_files_are_gathered_and_count_as_no_failure(pool):
    errors = {("caption", f"{place:05d}"): DamagedFileError("rotten", f"download/{place}.tar") for place in (1, 3)}
    machine = Machine(pool, failing(errors))
    runs, told = fan_out(max_failed=5)
    with pytest.raises(DamagedFileError, match="rotten") as caught:
        runs.run(shards(5), [machine.step("caption"), machine.step("embed")])
    assert sorted(caught.value.paths) == ["download/1.tar", "download/3.tar"]
    assert (runs.failures, told.failed) == ([], [])
    assert {shard for stage, shard in machine.handed_out if stage == "embed"} == {"00000", "00002", "00004"}


def test_work_goes_on_until_it_meets_nothing_damaged(tmp_path):
    files = Files(str(tmp_path))
    for name in "abc":
        files.write_bytes(name, b"rotten")

    def work() -> list[str]:
        if found := files.list():
            raise DamagedFileError("rotten", found[0])
        return ["done"]

    assert until_whole(files, work) == ["done"]
    with pytest.raises(DamagedFileError):
        until_whole(files, lambda: failing({("a", "b"): DamagedFileError("again and again", "x")})("a", "b"))
