"""The log, its curve, and what the meter says of a step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iedit_model.training.config import TrainConfig
from storage import CorruptFileError, SchemaError
from tasks.charts import COLOURS, INK
from tasks.train.step_meter import StepMeter, peak_tflops
from tasks.train.train_log import HEIGHT_PX, WIDTH_PX, TrainLog, loss_curve, read_log, smoothed


def test_a_log_that_goes_on_earlier_takes_the_later_steps_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    log = TrainLog(path, first_step=0)
    for step in range(5):
        log.append({"step": step, "loss": 10.0 + step})
    log.write()
    again = TrainLog(path, first_step=3)
    assert again.recent_mean("loss", 2) == pytest.approx(11.5)
    for step in (3, 4):
        again.append({"step": step, "loss": 20.0 + step})
    again.write()
    table = read_log(path)
    assert table["step"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["loss"].to_pylist() == [10, 11, 12, 23, 24]


def test_a_log_refuses_an_unknown_column_and_a_damaged_file(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.parquet", first_step=0)
    log.append({"step": 0, "surprise": 1.0})
    with pytest.raises(SchemaError, match="surprise"):
        log.write()
    (tmp_path / "log.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(CorruptFileError, match=r"log\.parquet"):
        TrainLog(tmp_path / "log.parquet", first_step=0)


def test_the_mean_of_nothing_is_not_a_number(tmp_path: Path) -> None:
    assert np.isnan(TrainLog(tmp_path / "log.parquet", first_step=0).recent_mean("loss", 5))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 10))
def test_smoothing_is_the_mean_of_the_last_values(values: list[float], window: int) -> None:
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(smoothed(np.array(values), window), expected, atol=1e-9)


def test_the_curve_stands_where_the_values_are() -> None:
    """A constant loss of 1 under one of 0.01: two level lines, the upper one at the top of the frame."""
    rows = [{"step": step, "loss": 1.0, "part_noise": 0.01} for step in range(50)]
    pixels = np.asarray(loss_curve(rows)).astype(int)
    assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)

    def height(colour: str) -> float:
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        hits = (np.abs(pixels[:, 100:700] - wanted) < 40).all(axis=2)
        assert hits.any(axis=0).all(), "the line has gaps"
        return float(np.nonzero(hits)[0].mean())

    top, bottom = height(INK), height(COLOURS[0])
    assert top < 0.15 * HEIGHT_PX
    assert bottom > 0.8 * HEIGHT_PX


@pytest.mark.parametrize("rows", [[], [{"step": 0, "loss": 0.3}], [{"step": 0, "loss": float("nan")}] * 2])
def test_a_short_empty_or_broken_log_still_has_a_picture(rows: list[dict[str, float]]) -> None:
    assert loss_curve(rows).size == (WIDTH_PX, HEIGHT_PX)


def test_the_meter_splits_waiting_from_work() -> None:
    meter = StepMeter(torch.device("cpu"), TrainConfig())
    with meter.timed(phase=0, num_samples=10) as timing, timing.waited():
        total = sum(range(200_000))
    assert total > 0
    columns = timing.columns()
    assert 0 < timing.data_wait <= timing.seconds
    assert columns["images_per_s"] == pytest.approx(10 / timing.seconds)
    assert columns["peak_fraction"] is None
    assert (columns["peak_memory"] or 0) > 50


@pytest.mark.parametrize(
    ("name", "half", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989.0),
        ("Tesla V100-SXM2-16GB", False, 15.7),
        ("NVIDIA L4", True, 121.0),
        ("NVIDIA L40S", True, 362.0),
        ("Some Other GPU", True, None),
    ],
)
def test_the_peak_of_known_gpus(name: str, half: bool, expected: float | None) -> None:
    assert peak_tflops(name, half=half) == expected
