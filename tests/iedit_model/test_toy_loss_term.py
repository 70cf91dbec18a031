"""A loss term is registered in one place: a term from a file of its own is trained, weighted, logged and drawn."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.true_pair_version import build_version, true_pairs
from iedit_model.training.terms import TERMS, LossTerm, needed_models
from storage import ShardStore
from tasks.train.stage import train
from tasks.train.train_log import loss_curve, read_log
from tests.builders.tiny_pipeline import PLAIN, tiny_run, tiny_train, write_tiny_pipeline

TOTAL_VARIATION = '''
from iedit_model.training.terms import PixelInputs, PixelTerm


def total_variation(inputs: PixelInputs):
    """Return the mean absolute difference of neighbouring pixels of the decoded prediction, one value per sample."""
    rows, columns = inputs.pixels.diff(dim=2).abs(), inputs.pixels.diff(dim=3).abs()
    return rows.mean(dim=(1, 2, 3)) + columns.mean(dim=(1, 2, 3))


TERM = PixelTerm(
    name="total_variation",
    description="Total variation of the decoded prediction.",
    setting="total_variation",
    weight=lambda config: 0.5,
    time_weight=lambda config: "falling",
    value=total_variation,
)
'''


@pytest.fixture
def total_variation(tmp_path: Path) -> LossTerm:
    """The term of a module that lies outside the repository."""
    path = tmp_path / "total_variation.py"
    path.write_text(TOTAL_VARIATION)
    spec = importlib.util.spec_from_file_location("total_variation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TERM


def test_a_registered_term_is_trained_weighted_logged_and_drawn(
    total_variation: LossTerm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, store = write_tiny_pipeline(tmp_path / "tiny"), ShardStore.at(tmp_path / "store")
    version = build_version(store, true_pairs(4))
    config = tiny_run(pipeline, tiny_train(PLAIN, num_steps=3))
    train(version.id, config, store, tmp_path / "without")
    monkeypatch.setitem(TERMS, total_variation.name, total_variation)
    train(version.id, config, store, tmp_path / "with")
    rows = [read_log(tmp_path / name / "log.parquet").to_pylist() for name in ("without", "with")]
    assert "part_total_variation" not in rows[0][0]
    for row in rows[1]:
        assert row["loss"] == pytest.approx(row["part_noise"] + row["part_total_variation"], rel=1e-5)
        assert 0 < row["part_total_variation"] < 0.5 * row["term_total_variation"]
    assert rows[0][0]["part_noise"] == rows[1][0]["part_noise"]
    assert rows[0][2]["part_noise"] != rows[1][2]["part_noise"], "the term moved no weight"
    assert (
        loss_curve(rows[1]).tobytes() != loss_curve([without(row, "part_total_variation") for row in rows[1]]).tobytes()
    )
    manifests = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("without", "with")]
    assert "term total_variation" in manifests[1]["code_versions"]
    assert manifests[0]["fingerprint"] != manifests[1]["fingerprint"]


def without(row: dict[str, float], name: str) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != name}


def test_a_term_on_images_asks_for_the_decoder_by_its_setting(
    total_variation: LossTerm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert needed_models(PLAIN) == {}
    monkeypatch.setitem(TERMS, total_variation.name, total_variation)
    assert needed_models(PLAIN) == {"decoder": "total_variation"}
