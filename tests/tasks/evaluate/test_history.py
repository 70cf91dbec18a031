"""History and records of evaluations: append-only, faithful, and a fall is told with its reason."""

from typing import Any

import pytest

from iedit_model.errors import ConfigError
from storage import Files
from tasks.evaluate.errors import EvaluationError, RegressionError, UnknownEvaluationError
from tasks.evaluate.history import (
    RegressionConfig,
    append_history,
    check_regressions,
    find_regressions,
    history_models,
    pin_baseline,
    pinned_baseline,
    read_history,
    what_changed,
)
from tasks.evaluate.record import code_version, code_versions, gather_provenance, list_evaluations, read_evaluation
from tests.builders.made_up_evaluation import evaluated


@pytest.fixture
def files(tmp_path):
    return Files(str(tmp_path))


def test_an_evaluation_comes_back_as_it_was_written(files):
    written = evaluated(files)
    read = read_evaluation(files)
    assert read.id == written.id == list_evaluations(files)[0]
    assert read.id.startswith("20260102T030405Z-")
    assert read.summary == written.summary
    assert read.provenance == written.provenance
    assert read.results.table.equals(written.results.table)
    assert read_evaluation(files, "20260102").id == written.id


def test_writing_the_same_evaluation_again_adds_nothing_and_another_stands_beside_it(files):
    evaluated(files)
    evaluated(files)
    assert len(list_evaluations(files)) == 1
    evaluated(files, lowered=1)
    evaluated(files, day="03")
    assert len(list_evaluations(files)) == 3
    assert read_evaluation(files).id.startswith("20260103")
    with pytest.raises(UnknownEvaluationError, match="2 of 3"):
        read_evaluation(files, "20260102")


def test_rows_that_were_changed_afterwards_are_noticed(files, tmp_path):
    written = evaluated(files)
    other = evaluated(files, lowered=3)
    folder = tmp_path / "evaluations"
    (folder / written.id / "results.parquet").write_bytes((folder / other.id / "results.parquet").read_bytes())
    with pytest.raises(EvaluationError, match="not those"):
        read_evaluation(files, written.id)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"results_sha256": 1}'])
def test_a_damaged_record_is_named(files, tmp_path, content):
    written = evaluated(files)
    (tmp_path / "evaluations" / written.id / "evaluation.json").write_bytes(content)
    with pytest.raises(EvaluationError):
        read_evaluation(files, written.id)


def test_the_history_grows_by_one_file_an_evaluation_and_is_never_rewritten(files, tmp_path):
    first = evaluated(files)
    path = tmp_path / append_history(files, first)
    before = path.read_bytes(), path.stat().st_mtime_ns
    append_history(files, evaluated(files, day="03"))
    append_history(files, first)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    rows = read_history(files, "mini")
    assert [row["evaluation"][:8] for row in rows] == sorted(row["evaluation"][:8] for row in rows)
    assert len({row["evaluation"] for row in rows}) == 2
    mean = next(row for row in rows if row["method"] == "sdedit" and row["metric"] == "clip_score@mini")
    cell = first.summary.cell("real", "sdedit", "clip_score@mini")
    assert cell is not None
    assert (mean["value"], mean["low"], mean["high"]) == (cell.value, cell.low, cell.high)
    assert history_models(files) == ["mini"]


def test_a_fall_beyond_the_interval_is_an_error_that_names_metric_and_numbers(files):
    baseline = evaluated(files)
    append_history(files, baseline)
    pin_baseline(files, "mini", baseline.id)
    append_history(files, evaluated(files, day="03", lowered=30))
    with pytest.raises(RegressionError) as caught:
        check_regressions(files, "mini")
    text = str(caught.value)
    cell = baseline.summary.cell("real", "iedit", "clip_score@mini")
    assert cell is not None
    assert f"clip_score@mini of iedit on real fell from {cell.value:.4g} to {cell.value - 30:.4g} %" in text
    assert "ssim_zero_fill_outside of iedit_m on real fell" in text
    assert "sdedit" not in text
    assert "mask_area" not in text
    assert baseline.id in text


def test_a_fall_within_the_interval_and_a_gain_pass(files):
    baseline = evaluated(files)
    append_history(files, baseline)
    pin_baseline(files, "mini", baseline.id)
    cell = baseline.summary.cell("real", "iedit", "clip_score@mini")
    assert cell is not None
    append_history(files, evaluated(files, day="03", lowered=(cell.value - cell.low) * 0.5))
    assert "holds against the baseline" in check_regressions(files, "mini")
    append_history(files, evaluated(files, day="04", lowered=-20))
    assert "holds" in check_regressions(files, "mini")


def test_a_distance_that_grows_is_a_fall_too(files):
    baseline = evaluated(files)
    append_history(files, baseline)
    pin_baseline(files, "mini", baseline.id)
    append_history(files, evaluated(files, day="03", distance=101.5))
    check_regressions(files, "mini")
    append_history(files, evaluated(files, day="04", distance=103.0))
    with pytest.raises(RegressionError, match="fid@vgg of iedit on real rose from 100 to 103, by 3"):
        check_regressions(files, "mini")


def row(value, low, high, **changes):
    key = {"evalset": "s", "method": "iedit", "metric": "clip_score@a"}
    return {**key, "value": value, "low": low, "high": high, **changes}


@pytest.mark.parametrize(
    ("now", "factor", "found"),
    [
        (row(49.0, 48, 50), 1.0, 0),  # exactly at the end of the interval
        (row(48.99, 48, 50), 1.0, 1),
        (row(48.99, 48, 50), 2.0, 0),
        (row(None, None, None), 1.0, 1),
        (row(60.0, 59, 61), 1.0, 0),
    ],
)
def test_the_rule_at_its_edges(now, factor, found):
    config = RegressionConfig(factor=factor)
    assert len(find_regressions([row(50.0, 49, 51)], [now], config)) == found


def test_a_metric_that_is_not_measured_any_more_is_a_regression_and_an_undefined_baseline_judges_nothing():
    (lost,) = find_regressions([row(50.0, 49, 51)], [])
    assert "not measured any more" in lost.text
    assert find_regressions([row(None, None, None)], []) == []


def test_without_a_pin_nothing_is_judged_and_a_pin_needs_an_evaluation(files):
    append_history(files, evaluated(files))
    with pytest.raises(UnknownEvaluationError, match="no baseline is pinned for mini"):
        check_regressions(files, "mini")
    assert pinned_baseline(files, "mini") is None
    with pytest.raises(UnknownEvaluationError):
        pin_baseline(files, "mini", "20200101T000000Z-000000000000")
    with pytest.raises(UnknownEvaluationError):
        check_regressions(files, "other")


@pytest.mark.parametrize("model", ["../up", "a/b", "", "x" * 65, ".hidden"])
def test_a_model_that_cannot_be_a_folder_is_refused(files, model):
    with pytest.raises(EvaluationError):
        read_history(files, model)


def test_what_changed_is_said_in_words_and_nothing_where_nothing_did(files):
    append_history(files, evaluated(files))
    rows = read_history(files, "mini")
    same: dict[str, Any] = {
        "models": {"iedit": "weights-1"},
        "evalsets": {"real": "set-1"},
        "code": "c0de",
        "config": "{}",
    }
    assert what_changed(rows, **same) == []
    for key, value, words in (
        ("models", {"iedit": "weights-2"}, "the model"),
        ("evalsets", {"real": "set-2"}, "the evaluation set"),
        ("code", "new", "the code"),
        ("config", "1", "the configuration or the metrics' networks"),
    ):
        changed = dict(same)
        changed[key] = value
        assert what_changed(rows, **changed) == [words]
    assert what_changed([], **same) == ["there is no evaluation yet"]


def test_a_rule_without_meaning_is_refused():
    with pytest.raises(ConfigError):
        RegressionConfig(metrics=("mask_area",))
    with pytest.raises(ConfigError):
        RegressionConfig(factor=0)


def test_the_provenance_names_this_code_and_machine():
    found = gather_provenance(created="2026-01-02T03:04:05+00:00", config="{}", models={"a": "b"}, evalsets={})
    assert found.code == code_version()
    assert len(found.code) == 16
    assert found.packages["torch"].count(".") >= 1
    assert int(found.hardware["cpus"]) >= 1
    assert found.commit == "" or len(found.commit) == 40


@pytest.mark.parametrize(
    "declared",
    [
        "iedit_model.imaging.decode.VERSION",
        "iedit_model.editing.batches.EDITING_VERSION",
        "tasks.evaluate.stage.VERSION",
    ],
)
def test_another_way_of_decoding_editing_or_scoring_is_new_code(monkeypatch, declared):
    before = code_version()
    monkeypatch.setattr(declared, 99)
    assert code_version() != before
    monkeypatch.undo()
    assert code_version() == before


def test_the_words_of_a_source_file_are_not_the_code(monkeypatch):
    before = code_version()
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: b"another docstring")
    assert code_version() == before
    assert code_versions()["metric clip_score"] == 1
