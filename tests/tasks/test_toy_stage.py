"""A stage is its own module and one line in the list: a toy one, in a temporary module, has all that ours have."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.planted_pairs import planted
from flows.build_dataset import pack_version
from flows.config.tree import OptionsByStage, RunnerConfig, TaskOptions
from flows.engine.runner import FanOut, TaskRuns
from flows.engine.stage_runs import StageRuns
from flows.errors import ShardsFailedError
from flows.reporting.progress import StageTotals
from storage import ShardReport, ShardStore, VersionStore, manifest_schema
from tasks._prefect import may_pass
from tasks.data_format import data_format
from tasks.pack.plan import PackConfig
from tasks.pack.splits import SplitConfig
from tasks.stages import DATASET

MODULE = '''
"""Stage prompt_length: edit prompt -> the number of its words."""

from typing import Final

from iedit_model.configuration import configuration
from storage import SAMPLE_ID, ShardReport, TableSchema, col, in_manifest
from tasks.errors import TaskError
from tasks.stage import Job, Output, Stage, Workspace


class LongPromptError(TaskError):
    """A prompt is longer than it can be."""


class SlowPromptError(TaskError):
    """The prompts could not be had in time."""

    retryable = True


@configuration
class LengthConfig:
    """What is counted."""

    most_words: int = 40
    """Longest prompt, words."""


LENGTHS: Final = TableSchema(
    name="prompt_length",
    description="One row per pair with the length of its prompt.",
    columns=(SAMPLE_ID, *in_manifest(col("num_words", "int32", "Words of the edit prompt.", "count"))),
)


def _work(job: Job) -> ShardReport:
    config, masks, swaps = job.config(LengthConfig), job.reports["mask"], job.reports["swap"]

    def work(_: Workspace) -> Output:
        kept = set(job.store.read_table(masks, columns=("sample_id",))["sample_id"].to_pylist())
        rows = [
            {"sample_id": row["sample_id"], "num_words": len(row["edit_prompt"].split())}
            for row in job.store.read_table(swaps, columns=("sample_id", "edit_prompt")).to_pylist()
            if row["sample_id"] in kept
        ]
        if max(row["num_words"] for row in rows) > config.most_words:
            raise LongPromptError(f"a prompt of {masks.name} has more than {config.most_words} words")
        return Output(num_in=masks.num_out, table=LENGTHS.table(rows))

    return STAGE.shard(job.shard, job.store, work, config=config, inputs=(masks.digest, swaps.digest))


STAGE: Final = Stage(
    name="prompt_length",
    version=3,
    summary="`num_words` of the edit prompt",
    config=LengthConfig,
    work=_work,
    tables=(LENGTHS,),
    needs=("mask", "swap"),
)
'''


class Run(ThreadFuture[Any]):
    """A future as task runners give them."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        error = self.exception(timeout)
        return error if error is not None and not raise_on_failure else super().result(timeout)


class RunsHere(TaskRuns):
    """Does the work of a task run where it is submitted."""

    def __init__(self) -> None:
        super().__init__(runner=None, config=RunnerConfig())  # pyright: ignore[reportArgumentType]

    def submit(self, function: Callable[..., Any], *, shard: str, stage: str, options: TaskOptions) -> Run:
        run = Run()
        try:
            run.set_result(function(shard=shard))
        except Exception as error:  # noqa: BLE001 - as a task runner does
            run.set_exception(error)
        return run


@dataclass(frozen=True)
class Configs:
    """The configuration of a build that does not know of the toy."""

    pack: PackConfig = field(default_factory=lambda: PackConfig(splits=SplitConfig(val_share=0, test_share=0)))


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[ModuleType]:
    path = tmp_path / "toy_stage.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("toy_stage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_stage"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["toy_stage"]


def stage_runs(root: Path, configs: object) -> StageRuns:
    totals = StageTotals()
    return StageRuns(
        configs=configs,
        root=str(root),
        runs=RunsHere(),
        options=OptionsByStage(),
        progress=totals,
        fan_out=FanOut(lanes={"network": 1, "compute": 1}, max_failed=0, progress=totals),
    )


def done_before(store: ShardStore) -> dict[str, dict[str, ShardReport]]:
    inputs = planted(12).inputs(store)
    shards = [report.shard for report in inputs.stages["mask"]]
    return {shard: {stage: inputs.of(stage, shard) for stage in inputs.stages} for shard in shards}


def test_a_toy_stage_runs_in_the_flow_and_its_column_is_in_the_manifest(tmp_path: Path, toy: ModuleType):
    store = ShardStore.at(tmp_path / "root")
    before = done_before(store)
    runs = stage_runs(tmp_path / "root", Configs())
    done = runs.through(before, [toy.STAGE])
    assert all(reports["prompt_length"].num_out == reports["mask"].num_out for reports in done.values())
    version = pack_version(runs, done, (toy.STAGE,), "input")
    rows = VersionStore(store.files).manifest(version, where="num_words > 0").to_pylist()
    assert len(rows) == version.num_samples == 12
    assert all(row["num_words"] == len(row["edit_prompt"].split()) for row in rows)


def test_it_has_fingerprint_lineage_and_accounting(tmp_path: Path, toy: ModuleType):
    store = ShardStore.at(tmp_path / "root")
    before = done_before(store)
    runs = stage_runs(tmp_path / "root", Configs())
    done = runs.through(before, [toy.STAGE])
    version = pack_version(runs, done, (toy.STAGE,), "input")
    record = version.stage("prompt_length")
    assert record is not None
    assert (record.code_version, record.config, record.num_in) == (3, {"@": "LengthConfig", "most_words": 40}, 12)
    stats = store.files.stats("prompt_length")
    assert runs.through(before, [toy.STAGE]) == done
    assert store.files.stats("prompt_length") == stats


def test_its_tables_are_in_the_manifests_declaration_and_in_the_data_format(toy: ModuleType):
    stages = (*DATASET[:-1], toy.STAGE, DATASET[-1])
    columns = {column.name: column for column in manifest_schema(stage.tables[0] for stage in stages).columns}
    assert columns["num_words"].stage == "prompt_length"
    text = data_format(stages)
    assert "| `prompt_length/` | `num_words` of the edit prompt |" in text
    assert "## prompt_length\n\nOne row per pair with the length of its prompt." in text


def test_its_errors_say_themselves_whether_another_try_may_help(tmp_path: Path, toy: ModuleType):
    assert not may_pass(toy.LongPromptError("41 words"))
    assert may_pass(toy.SlowPromptError("10 s"))

    @dataclass(frozen=True)
    class Strict(Configs):
        toy: Any = field(default_factory=lambda: sys.modules["toy_stage"].LengthConfig(most_words=1))

    before = done_before(ShardStore.at(tmp_path / "root"))
    with pytest.raises(ShardsFailedError, match="more than 1 words"):
        stage_runs(tmp_path / "root", Strict()).through(before, [toy.STAGE])
