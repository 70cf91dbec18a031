"""What is wrong with a command is told before it starts a server or loads torch, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.checks import WEIGHTS, check_evaluation, check_train_models
from flows.config.profiles import named_trainings, resolve
from flows.errors import FolderError, SourceError
from iedit_model.editing.methods import all_methods
from iedit_model.errors import MissingModelError
from iedit_model.training.terms import needed_models

NOWHERE = "/dev/null/nowhere"
MODEL = "/nowhere/model"
PICTURE = str(Path(__file__).parents[2] / "docs" / "images" / "edits.png")
WRONG = {
    "metadata": (["build", "--metadata", "/nowhere/x.parquet"], "no metadata file"),
    "metadata of a dry run": (["build", "--dry-run", "--metadata", "/nowhere"], "no metadata file"),
    "no parquet": (["build", "--metadata", __file__], "test_checks.py"),
    "root": (["build", "--root", NOWHERE], "root /dev/null/nowhere cannot be written (/dev/null: Not a directory)"),
    "shards": (["build", "--shards", "9000"], "lies behind the last one: the plan has at most"),
    "model of a build": (["build", "--set", f"data.mask.model.model.name={MODEL}"], MODEL),
    "version": (["train", "-o", "model", "--version", "ffff"], "no version"),
    "checkpoint": (["evaluate", "--checkpoint", "."], "there is no checkpoint in ."),
    "absent checkpoint": (["evaluate", "--checkpoint", MODEL], MODEL),
    "set": (["evaluate", "--evalset", "nowhere"], "there is no evaluation set 'nowhere'"),
    "root of an evaluation": (["evaluate", "--root", NOWHERE], "cannot be written"),
    "root of a demo": (["demo", "--root", NOWHERE], "cannot be written"),
    "late model": (["reproduce", "--set", f"evaluate.plan.models.base.name={MODEL}"], MODEL),
    "folder of an edit": (["edit", PICTURE, "a bus", "-o", NOWHERE], "cannot be written"),
    "model of an edit": (["edit", PICTURE, "a bus", "-o", "edits", "--model", MODEL], MODEL),
    "picture": (["edit", MODEL, "a bus", "-o", "edits"], "is no file"),
    "folder of a set": (["evalset", "make-generated", NOWHERE], "cannot be written"),
}
PROGRAM = """
import resource, sys
from flows.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(code, used.ru_utime + used.ru_stime, sorted({"torch", "prefect", "diffusers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line_before_anything_heavy(case, tmp_path):
    arguments, said = WRONG[case]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (line,) = ran.stderr.splitlines()
    assert said in line
    code, seconds, heavy = ran.stdout.splitlines()[-1].split(" ", 2)
    assert (code, heavy) == ("1", "[]")
    assert float(seconds) < 2, "processor time: the machine may be busy"
    assert list(tmp_path.iterdir()) == []


def test_a_flow_checks_before_it_is_in_anybodys_way(tmp_path):
    from flows.build_dataset import build_dataset
    from flows.evaluate import evaluate
    from flows.train import train

    # Without a server: neither a limit nor a task run is asked for.
    with pytest.raises(FolderError):
        build_dataset.fn(NOWHERE)
    with pytest.raises(FolderError):
        evaluate.fn(NOWHERE)
    with pytest.raises(Exception, match="there is no version"):
        train.fn(str(tmp_path), str(tmp_path / "model"))


def test_a_training_is_refused_for_the_models_that_its_losses_need_and_for_no_other():
    for name in named_trainings():
        run = resolve("mini", training=name).train
        needed = set(needed_models(run.train.loss)) & {"clip", "perceptual"}
        for model in ("clip", "perceptual"):
            lacking = resolve("mini", {f"train.{model}.name": MODEL}, training=name).train
            if model in needed:
                with pytest.raises(MissingModelError):
                    check_train_models(lacking)
            else:
                check_train_models(lacking)


def test_an_evaluation_needs_the_models_of_its_methods_alone(tmp_path):
    config = resolve("mini", {"evaluate.plan.models.instruct.name": MODEL}).evaluate
    with pytest.raises(MissingModelError):
        check_evaluation(config, str(tmp_path))
    without = {"evaluate.plan.models.instruct.name": MODEL, "evaluate.plan.methods": ["sdedit"]}
    check_evaluation(resolve("mini", without).evaluate, str(tmp_path))


def test_the_weights_of_every_method_are_those_that_it_registers():
    for method in all_methods():
        expected = None if method.weights in ("none", "tuned") else method.weights
        assert WEIGHTS.get(method.name, "base") == expected, method.name


def test_the_folder_of_a_run_without_a_checkpoint_is_told(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(SourceError, match="there is no checkpoint in"):
        check_evaluation(resolve("mini").evaluate, str(tmp_path), [str(tmp_path)])
