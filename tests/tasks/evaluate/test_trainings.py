"""The line that says what weights were trained on comes from the run's own manifest, and from nothing else."""

import json
from pathlib import Path

import pytest

from iedit_model.models.source import ModelSource
from iedit_model.training.config import TrainConfig, paper, stable
from tasks.evaluate.record import training_lines
from tasks.train.run_config import RowsConfig, TrainRunConfig, as_json

UNKNOWN = "weights without a record of their training"


def _checkpoint(folder: Path, train: TrainConfig, **rows: str) -> ModelSource:
    """Return a checkpoint whose run has the manifest of a training."""
    named = ModelSource(name="some-model")
    config = TrainRunConfig(model=named, clip=named, perceptual=named, train=train, rows=RowsConfig(**rows))  # pyright: ignore[reportArgumentType]
    place = folder / "checkpoints" / "step_00000300"
    place.mkdir(parents=True)
    manifest = {"config": as_json(config), "num_samples": 1485, "version": "c8f4ac1a2a58e5e9"}
    (folder / "run.json").write_text(json.dumps(manifest))
    return ModelSource(name=str(place))


def test_the_line_names_the_losses_that_were_on(tmp_path: Path):
    found = training_lines({"iedit": {0: _checkpoint(tmp_path, stable())}})
    assert found == {
        "iedit": "L_mask (t >= 400) + denoising of the target; layers all, 300 steps of 16 at 0.0001, fp32; "
        "edit prompts, 1,485 pairs of version c8f4ac1a2a58e5e9 (seed 0)"
    }


def test_seeds_of_one_training_share_a_line_and_another_training_stands_apart(tmp_path: Path):
    weights = {seed: _checkpoint(tmp_path / str(seed), paper(), prompts="caption") for seed in (2, 0)}
    weights[1] = _checkpoint(tmp_path / "1", stable())
    one, other = training_lines({"iedit": weights})["iedit"].split("; L_")
    assert one.startswith("L_mask + L_global + L_loc + L_perc; layers alternate, 10,000 steps of 1 at 0.0002")
    assert "original captions" in one
    assert one.endswith("(seeds 0, 2)")
    assert other.endswith("(seed 1)")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"config": {"train": 3}}', b"\xff\xfe"])
def test_weights_without_a_readable_manifest_say_so(tmp_path: Path, content: bytes | None):
    place = tmp_path / "checkpoints" / "step_00000001"
    place.mkdir(parents=True)
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    assert training_lines({"iedit": {0: ModelSource(name=str(place))}}) == {"iedit": f"{UNKNOWN} (seed 0)"}


def test_weights_of_a_hub_have_no_record():
    assert training_lines({"iedit": {3: ModelSource(name="team/model")}}) == {"iedit": f"{UNKNOWN} (seed 3)"}
