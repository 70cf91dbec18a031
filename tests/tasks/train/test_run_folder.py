"""A run's folder: checkpoints that diffusers opens, that are whole or not there, and that belong to one run."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from iedit_model.models.source import described_limits
from iedit_model.training.config import LayerPolicy, paper
from storage import Json, ShardStore, VersionInfo, canonical_value
from storage.lineage import version_id
from tasks.errors import RunFolderError
from tasks.mask.stage import MaskGates
from tasks.retrieve.stage import retrieval
from tasks.swap.swapper import SwapConfig
from tasks.train.run_config import CacheConfig, ComputeConfig, LoopConfig, RowsConfig
from tasks.train.run_folder import RunFolder, SavedState, run_deviations
from tasks.train.stage import train
from tasks.train.train_log import read_log
from tests.builders.tiny_pipeline import PLAIN, prepared, tiny_run, tiny_train


def open_unet(folder: Path) -> torch.nn.Module:
    return DiffusionPipeline.from_pretrained(folder, local_files_only=True).unet


@pytest.mark.parametrize("averaged", [True, False])
def test_diffusers_opens_a_checkpoint_with_the_averaged_weights_where_there_are_any(
    averaged: bool, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    config = tiny_run(pipeline, tiny_train(ema_decay=0.9 if averaged else None))
    report = train(version.id, config, store, tmp_path)
    opened = open_unet(tmp_path / "checkpoints" / "latest").state_dict()
    saved = load_file(report.checkpoint / "training/state.safetensors")
    base = open_unet(pipeline).state_dict()
    prefix = "average." if averaged else "weight."
    learned = {name.removeprefix(prefix) for name in saved if name.startswith(prefix)}
    assert {name.split(".")[0] for name in learned} == {"conv_in", "down_blocks", "mid_block"}
    for name, value in opened.items():
        expected = saved[prefix + name] if name in learned else base[name]
        assert torch.equal(value, expected), name
    raw = {name: value for name, value in saved.items() if name.startswith("weight.")}
    assert any(not torch.equal(value, opened[name.removeprefix("weight.")]) for name, value in raw.items()) == averaged


def test_a_checkpoint_of_any_base_runs_in_plain_diffusers(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(pipeline, tmp_path / "base"))
    config = json.loads((base / "text_encoder/config.json").read_text())
    (base / "text_encoder/config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    save_file(
        {name: value.half() for name, value in load_file(base / "text_encoder/model.safetensors").items()},
        base / "text_encoder/model.safetensors",
        metadata={"format": "pt"},
    )
    index = json.loads((base / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (base / "model_index.json").write_text(json.dumps(index))
    (base / "text_encoder/pytorch_model.bin").write_bytes(b"a pickle")
    (base / "README.md").write_text("# Base\n\n## Limits\n\nKnows ten\nthings.\n\n## Use\n\nNone.\n")
    folder = train(version.id, tiny_run(base, tiny_train(num_steps=1)), store, tmp_path / "run").checkpoint
    ordinary: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    ordinary.set_progress_bar_config(disable=True)
    assert ordinary("a red bus", num_inference_steps=2, height=64, width=64).images[0].size == (64, 64)
    assert not list(folder.rglob("*.bin"))
    assert described_limits(folder) == "Knows ten things."
    before = json.loads((base / "text_encoder/config.json").read_text())
    assert before["dtype"] == "float16"


@pytest.mark.parametrize("layers", ["lora", "attention"])
def test_a_checkpoint_predicts_what_the_trained_network_predicts(
    layers: LayerPolicy, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    config = tiny_run(pipeline, tiny_train(layers=layers, lora_rank=2, learning_rate=1e-2))
    report = train(version.id, config, store, tmp_path)
    ready = prepared(config, store, version, tmp_path).parts
    state = ready.folder.load(report.step)
    ready.learner.load(state.tensors, state.scaler)
    inputs = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700]))
    prompt = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        trained = ready.models.unet(*inputs, encoder_hidden_states=prompt).sample
        opened = open_unet(report.checkpoint)(*inputs, encoder_hidden_states=prompt).sample
        untrained = open_unet(pipeline)(*inputs, encoder_hidden_states=prompt).sample
    torch.testing.assert_close(opened, trained, rtol=1e-4, atol=1e-5)
    assert float((untrained - trained).abs().max()) > 1e-3
    assert [
        name for name in load_file(report.checkpoint / "unet/diffusion_pytorch_model.safetensors") if "lora" in name
    ] == []


def test_checkpoints_hold_no_pickle_and_only_the_last_ones_stay(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    loop = LoopConfig(sinks=("tensorboard",), save_every=1, keep_last=2, validate_every=3, num_validation=2)
    train(version.id, tiny_run(pipeline, tiny_train(num_steps=5), loop=loop), store, tmp_path)
    folder = RunFolder(tmp_path)
    assert folder.saved_steps() == [4, 5]
    suffixes = {path.suffix for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert folder.checkpoint(4).joinpath(vae).stat().st_ino == folder.checkpoint(5).joinpath(vae).stat().st_ino
    assert folder.checkpoint(5).joinpath(vae).read_bytes() == (pipeline / vae).read_bytes()
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step_00000003.png"]
    with Image.open(tmp_path / "samples/step_00000003.png") as sheet:
        # Four tiles of 128 px side by side; two rows of a tile with a line of text, a line of heads, and gaps.
        assert sheet.size == (4 * 128 + 2 * 6, 17 + 2 * (128 + 17) + 4 * 6)


def test_tensorboard_has_each_step_once_after_a_resume(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_run(pipeline, tiny_train(num_steps=5), loop=LoopConfig(sinks=("tensorboard",), save_every=2))
    train(version.id, config, store, tmp_path, stop_at=3)
    train(version.id, config, store, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = read_log(tmp_path / "log.parquet").to_pylist()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3, 4]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in logged])
    assert [event.value for event in events.Scalars("term/noise")] == pytest.approx(
        [row["term_noise"] for row in logged]
    )


def test_the_manifest_says_what_the_run_is(
    pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    loss = dataclasses.replace(PLAIN, t_min=200)
    config = tiny_run(pipeline, tiny_train(loss, num_steps=1, batch_size=1, learning_rate=2e-4))
    report = train(version.id, config, store, tmp_path)
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["version"] == version.id
    assert manifest["config"]["train"]["loss"]["t_min"] == 200
    assert manifest["num_samples"] == report.num_samples == 7
    assert set(manifest["models"]) == {"model"}
    assert "loss.t_min = 200 instead of 0" in manifest["deviations"]
    assert "loss.use_perc = False instead of True" in manifest["deviations"]
    outcome = manifest["outcome"]
    assert (outcome["status"], outcome["step"], outcome["checkpoint"]) == ("finished", 1, "checkpoints/step_00000001")
    assert outcome["mean_loss"] == pytest.approx(report.mean_loss)


def test_the_deviations_cover_the_whole_run(pipeline: Path, version: VersionInfo) -> None:
    """Training, rows, the version's recipe and gates, precision, cache and devices; nothing of what is only speed."""
    literal = tiny_run(pipeline, paper(), loop=LoopConfig(), compute=ComputeConfig())
    recipe: dict[str, Json] = {
        "swap": canonical_value(SwapConfig(min_corpus_count=0, max_levels=1, sense_policy="first")),
        "retrieve": canonical_value(retrieval("paper")),
        "mask": {"gates": canonical_value(MaskGates()), "threshold": 0.5},
    }
    assert run_deviations(literal, made_by(version, recipe), num_devices=2) == []
    ours = recipe | {
        "retrieve": canonical_value(retrieval("ours")),
        "mask": {"gates": canonical_value(MaskGates(min_area=0.25))},
    }
    other = dataclasses.replace(
        literal,
        rows=RowsConfig(where="similarity > 0.5", max_samples=9),
        cache=CacheConfig(dtype="fp16", decode_threads=1),
        compute=ComputeConfig(loss_precision="fp16", device="cpu"),
    )
    found = run_deviations(other, made_by(version, ours), num_devices=1)
    assert [line.split(" = ")[0] for line in found if not line.startswith("version.retrieve")] == [
        *("rows.where", "rows.max_samples", "cache.dtype", "compute.loss_precision"),
        *("version.mask.gates.min_area", "devices"),
    ]
    assert any(line.startswith("version.retrieve.rerank.directional = 2 instead of 0") for line in found)


def made_by(version: VersionInfo, configs: dict[str, Json]) -> VersionInfo:
    """The version as if its stages had run under other configurations."""
    found = tuple(
        dataclasses.replace(record, config=configs.get(record.stage, record.config)) for record in version.stages
    )
    made = version_id(input_digest=version.input_digest, stages=found, parent=None, where=None)
    return dataclasses.replace(version, stages=found, id=made)


def test_a_folder_takes_no_other_run(pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path) -> None:
    train(version.id, tiny_run(pipeline, tiny_train(num_steps=1)), store, tmp_path)
    for other in (
        tiny_run(pipeline, tiny_train(num_steps=1, learning_rate=3e-4)),
        tiny_run(pipeline, tiny_train(dataclasses.replace(PLAIN, mask_policy="union"), num_steps=1)),
    ):
        with pytest.raises(RunFolderError, match=r"holds another run: train\.(learning_rate|loss\.mask_policy) is "):
            train(version.id, other, store, tmp_path)


def test_a_folder_in_use_is_refused(pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked(), pytest.raises(RunFolderError, match="another process is training in"):
        train(version.id, tiny_run(pipeline), store, tmp_path)


@pytest.mark.parametrize("name", ["training/state.safetensors", "training/progress.json"])
def test_a_damaged_checkpoint_is_named(
    name: str, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    config = tiny_run(pipeline, tiny_train(num_steps=1))
    report = train(version.id, config, store, tmp_path)
    damaged = report.checkpoint / name
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(RunFolderError, match="step_00000001"):
        train(version.id, config, store, tmp_path)


def test_a_save_that_fails_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def state(step: int) -> SavedState:
        tensors = {"weight.x": torch.full((2,), float(step))}
        return SavedState(step=step, tensors=tensors, scaler={}, lambda_perc=None, seconds=1.5)

    def fails(path: Path) -> None:
        (path / "half").write_text("half")
        raise OSError(5, "the disk is gone")

    with folder.locked():
        folder.save(state(1), lambda path: None, keep_last=1)
        with pytest.raises(OSError, match="the disk is gone"):
            folder.save(state(2), fails, keep_last=1)
    assert folder.saved_steps() == [1]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["latest", "step_00000001"]
    assert folder.load(1).tensors["weight.x"].tolist() == [1.0, 1.0]
    assert (folder.checkpoints / "latest").resolve() == folder.checkpoint(1).resolve()


@pytest.mark.parametrize("name", ["run.json", "log.parquet", "loss.png", "samples/cat.png", "checkpoints/latest"])
def test_files_of_somebody_else_in_the_folder_stay(
    name: str, pipeline: Path, store: ShardStore, version: VersionInfo, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    (tmp_path / ".lock").write_text("mine, too")
    with pytest.raises(RunFolderError, match="take another folder"):
        train(version.id, tiny_run(pipeline, tiny_train(num_steps=1)), store, tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}'
    assert (tmp_path / ".lock").read_text() == "mine, too"
