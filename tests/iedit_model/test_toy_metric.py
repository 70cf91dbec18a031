"""A new metric is one file: registered in a temporary module, it is measured, recorded, shown, compared and watched."""

import importlib.util
import json

import pytest

from iedit_model.editing.registry import EditorModels
from iedit_model.metrics import registry
from iedit_model.metrics.bootstrap import BootstrapConfig
from iedit_model.metrics.catalogue import metric_infos, metric_versions
from iedit_model.metrics.errors import MetricInputError
from storage import ShardStore
from tasks.evaluate.driver import run_evaluation
from tasks.evaluate.history import RegressionConfig
from tasks.evaluate.plan import EvaluationPlan
from tasks.evaluate.record import read_evaluation
from tasks.evaluate.report.tables import comparison_table, metric_tables
from tasks.evaluate.stage import EditingConfig
from tasks.evaluate.summary import SummaryConfig
from tests.builders.scoring_models import SCORING, few_pairs, member

MODULE = """
from iedit_model.metrics.registry import EditBatch, Floats, MetricInfo, image_metric, set_metric


@image_metric(
    MetricInfo(
        name="brightness",
        title="Brightness",
        unit="%",
        display_factor=100,
        better="higher",
        definition="Mean of all pixels of the edited image.",
        shown_in=("comparisons",),
        is_watched=True,
    ),
    version=3,
)
def brightness(edits: EditBatch):
    return {"brightness": edits.edited_images.mean(dim=(1, 2, 3)).double()}


@set_metric(
    MetricInfo(name="mean_shift", title="Mean shift", better="lower", definition="Distance of the means."), version=1
)
def mean_shift(reference: Floats, edited: Floats) -> float:
    return float(((reference.mean(axis=0) - edited.mean(axis=0)) ** 2).sum())
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy_metric.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("toy_metric", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    registry.unregister("brightness")
    registry.unregister("mean_shift")


@pytest.mark.timeout(280)
def test_a_metric_in_its_own_file_is_in_the_record_and_in_the_tables(toy, tmp_path):
    plan = EvaluationPlan(
        models=EditorModels(segmenter=member("segmenter")),
        scoring=SCORING,
        summary=SummaryConfig(
            bootstrap=BootstrapConfig(num_resamples=50), training_clip="mini", baselines=("copy_source",)
        ),
        editing=EditingConfig(size_px=64, batch_size=8),
        methods=("copy_source", "masked_noise"),
    )
    store, pairs = ShardStore.at(tmp_path / "store"), few_pairs(tmp_path / "few", num_pairs=4)
    done = run_evaluation(plan, {}, [pairs], store, model="toy").evaluation
    measured = done.summary.cell("few", "masked_noise", "brightness")
    assert measured is not None
    assert 0 < measured.value < 1
    assert {m.name for m in done.summary.set_metrics["few"]} >= {"mean_shift@mini-vgg", "fid@mini-vgg"}
    (table,) = metric_tables(done)
    assert {"Brightness", "Mean shift [mini-vgg]"} <= set(table.heads)
    compared = comparison_table(done, "few", "copy_source")
    assert (compared.heads[-1], compared.units[-1]) == ("Brightness", "% ↑")
    stored = json.loads(store.files.read_bytes(f"evaluations/{done.id}/evaluation.json"))
    assert "brightness" in {cell["metric"] for cell in stored["summary"]["cells"]}
    assert "brightness" in read_evaluation(store.files, done.id).results.metrics
    assert "brightness" in RegressionConfig().metrics
    assert metric_versions()["brightness"] == 3


def test_a_name_that_is_taken_is_refused(toy):
    with pytest.raises(MetricInputError, match="'brightness'"):
        registry.image_metric(metric_infos()["brightness"], version=1)(toy.brightness)
