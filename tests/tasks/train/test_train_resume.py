"""A training that was stopped, killed or interrupted ends in the same bits as one that never was."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from storage import ShardStore, VersionInfo
from tasks.train.stage import train
from tasks.train.train_log import read_log
from tests.builders.stopped_training import NUM_STEPS, Signals, configured
from tests.builders.tiny_pipeline import tiny_run, tiny_train

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def straight(pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never stopped."""
    out = tmp_path_factory.mktemp("straight")
    assert train(version.id, configured(pipeline), store, out).status == "finished"
    return out


def state(out: Path, step: int = NUM_STEPS) -> dict[str, torch.Tensor]:
    return load_file(out / f"checkpoints/step_{step:08d}/training/state.safetensors")


def assert_same_run(left: Path, right: Path) -> None:
    """All weights, averages and moments, the saved UNet and every logged loss are equal, bit for bit."""
    first, second = state(left), state(right)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    unet = f"checkpoints/step_{NUM_STEPS:08d}/unet/diffusion_pytorch_model.safetensors"
    assert (left / unet).read_bytes() == (right / unet).read_bytes()
    logs = [read_log(out / "log.parquet").to_pylist() for out in (left, right)]
    timed = {"seconds", "data_wait", "images_per_s", "peak_memory"}
    kept = [[{name: value for name, value in row.items() if name not in timed} for row in rows] for rows in logs]
    assert kept[0] == kept[1]
    assert [row["step"] for row in kept[0]] == list(range(NUM_STEPS))


@pytest.mark.parametrize("stop_at", [1, 3])
def test_stopping_and_resuming_gives_the_same_bits(
    stop_at: int, straight: Path, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    stopped = train(version.id, configured(pipeline), store, tmp_path, stop_at=stop_at)
    assert (stopped.status, stopped.step) == ("interrupted", stop_at)
    resumed = train(version.id, configured(pipeline), store, tmp_path)
    assert (resumed.status, resumed.step) == ("finished", NUM_STEPS)
    assert_same_run(straight, tmp_path)


def test_the_turn_of_the_layers_survives_a_resume_at_an_odd_step(straight: Path) -> None:
    phases = [row["phase"] for row in read_log(straight / "log.parquet").to_pylist()]
    assert phases == [0, 1, 0, 1, 0, 1]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    straight: Path, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    module = "tests.builders.stopped_training"
    given = (pipeline, store.files.root, version.id, tmp_path, 5)
    child = subprocess.run(
        [sys.executable, "-m", module, *map(str, given)], cwd=ROOT, capture_output=True, check=False, timeout=240
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*")) == ["step_00000002", "step_00000004"]
    (tmp_path / "checkpoints/.step_00000005.dead.partial").mkdir()
    assert train(version.id, configured(pipeline), store, tmp_path).status == "finished"
    assert list((tmp_path / "checkpoints").glob(".*")) == []
    assert_same_run(straight, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_leaves(
    number: signal.Signals, straight: Path, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    report = train(version.id, configured(pipeline), store, tmp_path, progress=Signals(number, after=3))
    assert (report.status, report.step) == ("interrupted", 3)
    assert report.checkpoint.name == "step_00000003"
    assert (tmp_path / "checkpoints/latest").resolve() == report.checkpoint.resolve()
    assert signal.getsignal(number) == before
    assert train(version.id, configured(pipeline), store, tmp_path).status == "finished"
    assert_same_run(straight, tmp_path)


def test_a_finished_run_is_left_alone(straight: Path, pipeline: Path, store: ShardStore, version: VersionInfo) -> None:
    marker = straight / f"checkpoints/step_{NUM_STEPS:08d}/training/state.safetensors"
    before = marker.stat().st_mtime_ns
    again = train(version.id, configured(pipeline), store, straight)
    assert (again.status, again.step) == ("finished", NUM_STEPS)
    assert marker.stat().st_mtime_ns == before
    assert math.isfinite(again.mean_loss)


def test_a_run_at_a_constant_rate_may_be_prolonged(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    short, long = (tiny_run(pipeline, tiny_train(num_steps=count)) for count in (2, 4))
    train(version.id, short, store, tmp_path / "prolonged")
    train(version.id, long, store, tmp_path / "prolonged")
    train(version.id, long, store, tmp_path / "straight")
    first, second = (state(tmp_path / name, 4) for name in ("prolonged", "straight"))
    assert all(torch.equal(first[name], second[name]) for name in second)
