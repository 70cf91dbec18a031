"""``iedit train``: its settings, what it tells, and the flow behind it."""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.true_pair_version import build_version, true_pairs
from flows.cli.train import configure, run
from flows.config.profiles import load_profile, named_trainings, resolve
from flows.config.tree import TagLimit
from flows.reporting.progress import JsonLines, PlainLines, shown
from iedit_model.errors import ConfigError
from iedit_model.training.config import paper, stable, table2_rows
from storage import ShardStore, VersionInfo, file_sha256
from tests.builders.scoring_models import few_pairs
from tests.builders.small_disk import on_disk, small_disk

SMALL = ("train.rows.where=null", "train.train.batch_size=2", "train.train.warmup_steps=1", "train.loop.sinks=[]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def version(root: str) -> VersionInfo:
    return build_version(ShardStore.at(root), true_pairs(6))


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args(list(arguments))


def small(root: str, out: Path, *more: str) -> argparse.Namespace:
    settings = [part for text in SMALL for part in ("--set", text)]
    return parsed("--root", root, "--steps", "2", "-o", str(out), *settings, *more)


def test_every_row_of_table_2_with_weights_of_its_own_can_be_trained() -> None:
    rows = {name: row for name, row in table2_rows().items() if row.weights_of is None}
    assert set(named_trainings()) >= {"paper", "stable", *rows}
    for name, row in rows.items():
        config = resolve("mini", training=name).train
        assert (config.train, config.rows.prompts) == (row.config, row.data)
        assert resolve("mini", training=f"stable/{name}").train.train.loss.noise_loss == row.config.loss.noise_loss
    assert resolve("mini", training="paper").train.train == paper()
    assert resolve("mini", training="stable").train.train == stable()


def test_profiles_differ_in_models_and_precision_and_settings_go_over_them() -> None:
    real = resolve("sd14", {"train.train.loss.t_min": 300, "train.compute": {"device": "cpu"}}, training="paper").train
    assert (real.model.name, real.train.precision) == ("CompVis/stable-diffusion-v1-4", "fp16")
    assert (real.train.loss.t_min, real.compute.device) == (300, "cpu")
    with pytest.raises(ConfigError, match="there are mini, sd14"):
        resolve("maxi", training="paper")
    with pytest.raises(ConfigError, match="there is no training 'papers'"):
        resolve("mini", training="papers")
    with pytest.raises(ConfigError, match=r"train\.train\.loss\.tmin.*did you mean train\.train\.loss\.t_min"):
        resolve("mini", {"train.train.loss.tmin": 3}, training="paper")


@pytest.mark.parametrize("profile", ["mini", "sd14"])
def test_a_training_takes_as_long_as_it_takes_and_has_the_gpu_for_itself(profile: str) -> None:
    options = load_profile(profile).run.options.train
    assert (options.retries, options.retry_delay_s, options.timeout_s) == (2, 30.0, None)
    assert options.tags == ("iedit-gpu",)


def test_all_flows_of_the_real_models_obey_one_limit_of_the_gpu() -> None:
    run = load_profile("sd14").run
    assert run.tag_limits == (TagLimit(tag="iedit-gpu", limit=1),)
    assert run.options.train.tags == run.options.evaluate.tags == run.options.of("caption").tags == ("iedit-gpu",)


def test_the_command_trains_and_tells_machines_what_it_did(
    root: str, version: VersionInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small(root, tmp_path / "run", "--no-flow", "--json", "--version", version.id[:6])) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    events = [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]
    assert [event["done"] for event in events if event["event"] == "step"] == [1, 2]
    assert [event["done"] for event in events if event["event"] == "cache"][-1] == 6
    assert (result["status"], result["step"], result["num_samples"]) == ("finished", 2, 6)
    assert Path(result["checkpoint"], "unet/diffusion_pytorch_model.safetensors").is_file()
    assert result["version"] == version.id
    steps = [event["loss"] for event in events if event["event"] == "step"]
    assert result["mean_loss"] == pytest.approx(sum(steps) / 2, rel=1e-5)


def test_a_wrong_setting_is_told_before_anything_starts(root: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        run(small(root, tmp_path / "run", "--set", "train.train.learning_rate=-1"))
    assert not (tmp_path / "run").exists()


def test_lines_come_now_and_then_and_at_the_end() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream, every_s=1000)
    for step in range(1, 6):
        lines.on_step(step, 5, {"loss": 0.5, "grad_norm": None, "images_per_s": 12.0})
    assert stream.getvalue().splitlines() == [
        "step 1 of 5: loss 0.5000  12.0 img/s",
        "step 5 of 5: loss 0.5000  12.0 img/s",
    ]


def cli(command: str, root: Path, *more: object) -> subprocess.CompletedProcess[str]:
    settings = [part for text in SMALL[:3] for part in ("--set", text)] if command == "train" else []
    words = [sys.executable, "-m", "flows.cli.main", command, "--root", str(root), *map(str, more), *settings]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)


def weights(run: Path) -> str:
    return file_sha256(run / "checkpoints" / "latest" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("version")
def test_a_flipped_bit_in_the_cache_of_a_training_is_made_again(root: str, tmp_path: Path) -> None:
    store = Path(shutil.copytree(root, tmp_path / "store"))
    assert cli("train", store, "--no-flow", "--steps", 2, "-o", tmp_path / "calm").returncode == 0
    for path in sorted(store.glob("train/*/*.safetensors")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
        os.utime(path, (0, 0))  # as a disk does it, without a trace
        again = cli("train", store, "--no-flow", "--steps", 2, "-o", tmp_path / path.name)
        assert again.returncode == 0, again.stderr
        assert path.read_bytes() == whole
        assert weights(tmp_path / path.name) == weights(tmp_path / "calm")


@pytest.fixture(scope="module")
def calm(root: str, version: VersionInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the store in which a training had all the room that it wanted."""
    copy = Path(shutil.copytree(root, tmp_path_factory.mktemp("calm") / version.id))
    assert cli("train", copy, "--no-flow", "--steps", 2, "-o", copy / "run").returncode == 0
    return copy


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.97])
def test_a_full_disk_in_training_is_one_line_and_the_rest_follows(
    share: float, calm: Path, root: str, tmp_path: Path
) -> None:
    """Of the room that a training takes (caches, log, events, checkpoints) there is a share."""
    before, train = on_disk(Path(root)), ("train", "--no-flow", "--steps", 2, "-o")
    with small_disk(tmp_path / "disk", int(before + share * (on_disk(calm) - before))) as resize:
        store = Path(shutil.copytree(root, tmp_path / "disk" / "root"))
        full = cli(train[0], store, *train[1:], store / "run")
        assert full.returncode == 1, full.stderr[-600:]
        assert "Traceback" not in full.stderr
        assert full.stderr.splitlines()[-1].startswith("iedit: no room left to write")
        resize("1g")
        again = cli(train[0], store, *train[1:], store / "run")
        assert again.returncode == 0, again.stderr
        assert weights(store / "run") == weights(calm / "run")
        assert file_sha256(store / "run" / "loss.png") == file_sha256(calm / "run" / "loss.png")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_full_disk_in_an_evaluation_is_one_line_and_the_rest_follows(share: float, tmp_path: Path) -> None:
    few_pairs(tmp_path / "set", num_pairs=4)
    settings = (
        "evaluate.plan.settings.sampling.num_inference_steps=2",
        "evaluate.plan.summary.bootstrap.num_resamples=50",
    )
    given = [
        "--evalset",
        tmp_path / "set",
        "--methods",
        "sdedit",
        *(word for text in settings for word in ("--set", text)),
    ]
    calm = tmp_path / "calm"
    assert cli("evaluate", calm, *given).returncode == 0
    with small_disk(tmp_path / "disk", int(share * on_disk(calm))) as resize:
        full = cli("evaluate", tmp_path / "disk" / "root", *given)
        assert full.returncode == 1, full.stderr[-600:]
        assert "Traceback" not in full.stderr
        assert "no room left to write" in full.stderr.splitlines()[-1]
        resize("1g")
        again = cli("evaluate", tmp_path / "disk" / "root", *given)
        assert again.returncode == 0, again.stderr
        edits = [
            {path.name: file_sha256(path) for path in folder.rglob("edits-*.parquet")}
            for folder in (calm, tmp_path / "disk")
        ]
        assert edits[0] == edits[1]


@pytest.mark.slow
def test_the_flow_trains_resumes_and_shows_its_curve(
    prefect: None, root: str, version: VersionInfo, tmp_path: Path
) -> None:
    from flows.train import train

    settings = {
        "train.train": {"batch_size": 2, "warmup_steps": 1, "num_steps": 3, "schedule": "constant"},
        "train.loop.sinks": [],
        "train.rows.where": None,
    }
    stream = io.StringIO()
    with shown(JsonLines(stream)):
        report = train(root, str(tmp_path), config=settings)
        longer = train(root, str(tmp_path), config=settings | {"train.train.num_steps": 4})
    assert (report.status, report.step, longer.step) == ("finished", 3, 4)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["done"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]
    assert report.version == version.id
    assert {(*run.tags, run.empirical_policy.retries) for run in _task_runs(f"train {tmp_path.name}")} == {
        ("iedit-gpu", 2)
    }


def _task_runs(name: str) -> list[Any]:
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName  # noqa: TID251

    with get_client(sync_client=True) as client:
        return client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=[name])))
