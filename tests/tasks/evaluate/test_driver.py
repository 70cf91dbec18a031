"""A whole evaluation of real methods on a few pairs, its reruns, and what a scheduled run asks of it."""

import json
from dataclasses import replace

import pytest

from iedit_model.editing.registry import EditorModels, EditorSettings
from iedit_model.editing.settings import SamplingConfig
from iedit_model.errors import ConfigError
from iedit_model.metrics.bootstrap import BootstrapConfig
from iedit_model.models.devices import DeviceConfig
from storage import ShardStore, canonical_json
from tasks.evaluate.driver import InThisProcess, model_identities, run_evaluation, run_sweep
from tasks.evaluate.errors import RegressionError
from tasks.evaluate.history import append_history, check_regressions, pin_baseline, read_history, what_changed
from tasks.evaluate.plan import EvaluationPlan, method_plans
from tasks.evaluate.record import code_version, list_evaluations, read_evaluation
from tasks.evaluate.report.write import evaluation_text, write_report
from tasks.evaluate.stage import EditingConfig
from tasks.evaluate.summary import SummaryConfig
from tests.builders.scoring_models import SCORING, few_pairs, member

pytestmark = pytest.mark.timeout(280)
WHEN = "2026-01-02T03:04:05+00:00"
PLAN = EvaluationPlan(
    models=EditorModels(base=member("ldm"), instruct=member("instruct_pix2pix"), segmenter=member("segmenter")),
    scoring=replace(SCORING, batch_size=16),
    summary=SummaryConfig(bootstrap=BootstrapConfig(num_resamples=100), training_clip="mini"),
    editing=EditingConfig(size_px=64, batch_size=8),
    settings=EditorSettings(
        device=DeviceConfig(device="cpu", dtype="fp32"), sampling=SamplingConfig(num_inference_steps=2), batch_size=8
    ),
    methods=("copy_source", "masked_noise", "vae_round_trip", "iedit", "iedit_m"),
    pairs_per_shard=3,
)
TUNED = {"iedit": {0: member("ldm"), 1: member("ldm")}, "global_ldm_loc": {0: member("ldm")}}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    sets = [
        few_pairs(folder / "real", num_pairs=4, name="few-real"),
        few_pairs(folder / "generated", num_pairs=3, name="few-generated", origin="generated"),
    ]
    store = ShardStore.at(folder / "store")
    told = []
    runner = InThisProcess(store, progress=lambda *what: told.append(what))
    finished = run_evaluation(PLAN, TUNED, sets, store, model="mini", created=WHEN, runner=runner)
    return finished, store, sets, told


def test_every_method_and_training_seed_has_a_row_for_every_pair(done):
    finished, _, _, told = done
    results = finished.evaluation.results
    # Three methods without weights, two with two seeds each, and one other training.
    assert results.table.num_rows == (3 + 2 * 2 + 1) * (4 + 3)
    assert results.train_seeds("iedit_m") == [0, 1]
    assert results.train_seeds("global_ldm_loc") == [0]
    assert results.train_seeds("copy_source") == [-1]
    assert len(told) == 8 * (2 + 1)
    assert told[-1][1:] == (23, 24)


def test_copying_the_source_is_the_ceiling_of_likeness_and_no_direction(done):
    summary = done[0].evaluation.summary
    for evalset in ("few-real", "few-generated", "all"):
        copied = summary.cell(evalset, "copy_source", "ssim_normconv_outside")
        assert copied is not None
        assert copied.value == pytest.approx(1)
        direction = summary.cell(evalset, "copy_source", "clip_directional@mini")
        assert direction is not None
        assert direction.num_values == 0
        trip = summary.cell(evalset, "vae_round_trip", "ssim_normconv_outside")
        assert trip is not None
        assert 0.8 < trip.value < 1
    fid = {m.method: m for m in summary.set_metrics["few-real"] if m.name == "fid@mini-vgg"}
    assert fid["masked_noise"].value > fid["copy_source"].value
    assert fid["copy_source"].num_reference == done[2][0].num_images
    assert "few-real" in fid["copy_source"].reference_set


def test_methods_are_given_the_sets_masks_only_where_the_plan_says_so(done):
    rows = {row.label: row for row in method_plans(PLAN, TUNED)}
    assert rows["masked_noise"].editing.give_masks
    assert not rows["iedit_m"].editing.give_masks


def test_running_again_makes_no_shard_again_and_the_same_numbers(done):
    finished, store, sets, _ = done
    shards = {path: stat.modified for path, stat in store.files.stats("evaluate").items()}
    again = run_evaluation(PLAN, TUNED, sets, store, model="mini", created=WHEN)
    assert {path: stat.modified for path, stat in store.files.stats("evaluate").items()} == shards
    # As JSON: an interval of too few images is NaN, which equals nothing.
    assert again.evaluation.summary.to_json() == finished.evaluation.summary.to_json()
    assert again.evaluation.id in list_evaluations(store.files)
    assert read_evaluation(store.files, again.evaluation.id).summary.to_json() == finished.evaluation.summary.to_json()


def test_the_provenance_names_sets_models_and_settings(done):
    provenance = done[0].evaluation.provenance
    assert provenance.evalsets == {evalset.info.name: evalset.digest for evalset in done[2]}
    assert {"iedit (seed 0)", "copy_source", "scoring"} <= set(provenance.models)
    assert json.loads(provenance.config)
    assert "num_inference_steps = 2 instead of 50 (the paper does not state it)" in provenance.deviations
    assert "masks.dilate_cells = 1 instead of 0 (the paper does not state it)" in provenance.deviations
    assert "size_px = 64 instead of 384" in evaluation_text(done[0].evaluation)


def test_the_report_of_real_methods_shows_their_pictures(done):
    finished, store, _, _ = done
    written = write_report(finished.evaluation, store, finished.runs, size_px=64)
    text = store.files.read_bytes(written.html.removeprefix(f"{store.files.root}/")).decode()
    assert text.count("data:image/webp") > 8
    assert "iEdit-M" in text


def test_the_trade_off_has_a_point_a_method_and_strength(done):
    _, store, sets, _ = done
    points = run_sweep(PLAN, TUNED, sets[:1], store, (0.0, 1.0), runner=InThisProcess(store), methods=("iedit",))
    assert [(point.method, point.strength) for point in points] == [("iedit", 0.0), ("iedit", 1.0)]
    likeness = [sum(point.results.values("ssim")) / len(point.results.values("ssim")) for point in points]
    assert likeness[0] > likeness[1]


def changes(rows, checkpoints, sets, *, plan=PLAN):
    return what_changed(
        rows,
        models=model_identities(method_plans(plan, checkpoints), plan),
        evalsets={evalset.info.name: evalset.digest for evalset in sets},
        code=code_version(),
        config=canonical_json(plan),
    )


def test_nothing_has_changed_after_an_evaluation_and_each_change_is_told(done, tmp_path):
    finished, _, sets, _ = done
    files = ShardStore.at(tmp_path).files
    append_history(files, finished.evaluation)
    rows = read_history(files, "mini")
    assert changes(rows, TUNED, sets) == []
    assert changes(rows, TUNED, sets, plan=replace(PLAN, pairs_per_shard=4)) == [
        "the configuration or the metrics' networks"
    ]
    assert changes(rows, TUNED, sets[:1]) == ["the evaluation set"]
    assert changes(rows, {"iedit": {0: member("ldm")}}, sets) == ["the model"]


def test_a_model_whose_pictures_got_worse_is_a_regression(done, tmp_path):
    finished, _, _, _ = done
    files = ShardStore.at(tmp_path).files
    append_history(files, finished.evaluation)
    pin_baseline(files, "mini", finished.evaluation.id)
    assert "holds" in check_regressions(files, "mini")
    append_history(files, _damaged(finished).evaluation)
    with pytest.raises(RegressionError, match="clip_score@mini of iedit_m"):
        check_regressions(files, "mini")


def _damaged(finished):
    """Return the evaluation as a model would leave it whose pictures lost 30 points of CLIPScore."""
    evaluation = finished.evaluation
    cells = tuple(
        replace(cell, interval=replace(cell.interval, value=cell.interval.value - 30))
        if cell.metric.startswith("clip_score")
        else cell
        for cell in evaluation.summary.cells
    )
    later = evaluation.id.replace("20260102", "20260103")
    return replace(finished, evaluation=replace(evaluation, id=later, summary=replace(evaluation.summary, cells=cells)))


@pytest.mark.parametrize(
    "changes", [{"methods": ("nothing",)}, {"methods": ()}, {"methods": ("iedit", "iedit")}, {"pairs_per_shard": 0}]
)
def test_a_plan_that_cannot_be_is_refused(changes):
    with pytest.raises(ConfigError):
        replace(PLAN, **changes)


def test_without_weights_of_a_training_its_methods_are_left_out():
    assert [row.label for row in method_plans(PLAN, {})] == ["copy_source", "masked_noise", "vae_round_trip"]
