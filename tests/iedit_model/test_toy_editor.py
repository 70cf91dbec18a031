"""A new editor is one file: registered in a temporary module, it is a choice, in the plan, in the record and tables."""

import argparse
import importlib.util
import json
import sys

import numpy as np
import pytest
from PIL import Image

from flows.cli.edit import configure
from iedit_model.editing import methods
from iedit_model.editing.editor import EditRequest
from iedit_model.editing.registry import EditorModels, editor_spec
from iedit_model.errors import ConfigError
from iedit_model.metrics.bootstrap import BootstrapConfig
from storage import ShardStore
from tasks.evaluate.driver import run_evaluation
from tasks.evaluate.plan import EvaluationPlan
from tasks.evaluate.report.tables import metric_tables
from tasks.evaluate.stage import EditingConfig
from tasks.evaluate.summary import SummaryConfig
from tests.builders.scoring_models import SCORING, few_pairs

MODULE = '''
from dataclasses import dataclass

from PIL import ImageOps

from iedit_model.editing.editor import EditResult
from iedit_model.editing.methods import editing_method, edits_with


@dataclass(frozen=True, kw_only=True)
class InvertSpec:
    name: str = "invert"


@edits_with(InvertSpec)
class Inverter:
    """Turns every colour into its opposite."""

    def __init__(self, spec: InvertSpec) -> None:
        self.name = self.fingerprint = spec.name

    def edit(self, requests, /):
        return [
            EditResult(image=ImageOps.invert(request.image), mask=None, seconds=0.0, num_unet_evaluations=0)
            for request in requests
        ]


@editing_method("invert", title="Inverted colours")
def invert(models, settings):
    return InvertSpec()
'''


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy_editor.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("toy_editor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_editor"] = module
    spec.loader.exec_module(module)
    yield module
    methods.unregister("invert")
    del sys.modules["toy_editor"]


@pytest.mark.timeout(280)
def test_an_editor_in_its_own_file_is_evaluated_beside_the_others(toy, tmp_path):
    summary = SummaryConfig(bootstrap=BootstrapConfig(num_resamples=50), training_clip="mini")
    plan = EvaluationPlan(
        models=EditorModels(), scoring=SCORING, summary=summary, editing=EditingConfig(size_px=64, batch_size=8)
    )
    assert "invert" in plan.methods
    plan = EvaluationPlan(
        models=EditorModels(),
        scoring=SCORING,
        summary=summary,
        editing=EditingConfig(size_px=64, batch_size=8),
        methods=("copy_source", "invert"),
    )
    store, pairs = ShardStore.at(tmp_path / "store"), few_pairs(tmp_path / "few", num_pairs=4)
    done = run_evaluation(plan, {}, [pairs], store, model="toy").evaluation
    inverted = done.summary.cell("few", "invert", "mse")
    assert inverted is not None
    assert inverted.value > 0.01
    (table,) = metric_tables(done)
    assert [(row.title, row.is_reference) for row in table.rows] == [
        ("Inverted colours", False),
        ("source, copied", True),
    ]
    stored = json.loads(store.files.read_bytes(f"evaluations/{done.id}/evaluation.json"))
    assert stored["provenance"]["models"]["invert"] == "invert"


def test_the_command_offers_it_and_it_edits(toy):
    parser = argparse.ArgumentParser()
    configure(parser)
    assert parser.parse_args(["a.png", "x", "-o", "out", "--method", "invert"]).method == "invert"
    editor = methods.build_editor(editor_spec("invert", EditorModels()))
    (result,) = editor.edit([EditRequest(image=Image.new("RGB", (8, 8), (255, 0, 10)), edit_prompt="x")])
    assert np.asarray(result.image)[0, 0].tolist() == [0, 255, 245]


def test_a_name_that_is_taken_is_refused(toy):
    with pytest.raises(ConfigError, match="'invert'"):
        methods.editing_method("invert", title="Again")(toy.invert)
