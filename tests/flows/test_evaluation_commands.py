"""The commands evalset and history, as a person calls them, and how weights and profiles are named."""

import argparse
import io
import json
from contextlib import redirect_stdout
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from flows.cli.main import COMMANDS
from flows.config.overrides import parse_checkpoints
from flows.config.profiles import PROFILES, resolve
from iedit_model.errors import ConfigError
from storage import ShardStore
from tasks.evaluate.errors import EvalSetError, RegressionError, UnknownEvaluationError
from tasks.evaluate.history import append_history, pinned_baseline
from tasks.evaluate.sets.folder import open_evalset
from tests.builders.made_up_evaluation import evaluated
from tests.builders.scoring_models import few_pairs

pytestmark = pytest.mark.timeout(280)


def call(command, *arguments):
    """Run a command and return (exit code, what it printed)."""
    module = import_module(f"flows.cli.{COMMANDS[command][0]}")
    parser = argparse.ArgumentParser()
    module.COMMANDS[command].configure(parser)
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = module.COMMANDS[command].run(parser.parse_args([str(argument) for argument in arguments]))
    return code, printed.getvalue()


def test_the_real_set_is_made_listed_shown_and_checked(tmp_path):
    assert call("evalset", "make-real", tmp_path / "sets" / "real")[0] == 0
    code, text = call("evalset", "list", tmp_path / "sets")
    assert (code, "mini-real, 52 pairs of 30 images" in text) == (0, True)
    code, text = call("evalset", "show", tmp_path / "sets" / "real")
    assert code == 0
    assert "52 truth" in text
    assert "every image and mask is whole" in text


def test_a_damaged_set_is_listed_as_such_and_shown_with_exit_code_1(tmp_path):
    few_pairs(tmp_path / "a", num_pairs=2)
    next((tmp_path / "a" / "images").iterdir()).write_bytes(b"x")
    code, text = call("evalset", "show", tmp_path / "a")
    assert code == 1
    assert "problem:" in text
    (tmp_path / "a" / "pairs.parquet").write_bytes(b"x")
    assert "damaged" in call("evalset", "list", tmp_path)[1]
    with pytest.raises(EvalSetError):
        call("evalset", "show", tmp_path / "a")


def test_pie_bench_is_imported(tmp_path):
    source = tmp_path / "pie"
    (source / "annotation_images").mkdir(parents=True)
    mapping = {}
    for number in range(3):
        Image.new("RGB", (512, 512), (number, 0, 0)).save(source / "annotation_images" / f"{number}.jpg")
        mapping[f"00{number}"] = {
            "image_path": f"{number}.jpg",
            "original_prompt": "a cat",
            "editing_prompt": "a [dog]",
            "editing_instruction": "",
            "editing_type_id": "1",
            "blended_word": "cat dog",
            "mask": [0, 512 * 100],
        }
    (source / "mapping_file.json").write_text(json.dumps(mapping))
    code, text = call("evalset", "import", "pie-bench", source, tmp_path / "out", "--limit", 2)
    assert (code, "2 pairs of 2 images" in text) == (0, True)
    pair = open_evalset(tmp_path / "out").pairs[1]
    assert (pair.word, pair.replacement, pair.edit_prompt, pair.kind) == ("cat", "dog", "a dog", "change_object")


def test_a_generated_set_is_drawn_from_the_profiles_base_model(tmp_path):
    code, text = call("evalset", "make-generated", tmp_path, "--steps", 1, "--no-masks")
    assert code == 0
    assert "70 pairs of 20 images" in text
    evalset = open_evalset(tmp_path)
    assert evalset.image(evalset.pairs[0]).size == (64, 64)
    assert not np.array_equal(np.asarray(evalset.image(evalset.pairs[0])), np.asarray(evalset.image(evalset.pairs[-1])))


def test_a_history_is_listed_printed_pinned_and_checked(tmp_path):
    files = ShardStore.at(tmp_path).files
    assert "no evaluation" in call("history", "--root", tmp_path)[1]
    first, second = evaluated(files), evaluated(files, day="03")
    for evaluation in (first, second):
        append_history(files, evaluation)
    code, text = call("history", "--root", tmp_path)
    assert (code, text.split()) == (0, ["mini"])
    with pytest.raises(UnknownEvaluationError, match="no baseline is pinned for mini"):
        call("history", "mini", "--root", tmp_path, "--check")
    with pytest.raises(ConfigError, match="name it"):
        call("history", "--root", tmp_path, "--check")
    code, text = call("history", "mini", "--root", tmp_path, "--pin", first.id, "--check")
    assert code == 0
    assert f"{first.id} (baseline)" in text
    assert "CLIPScore [mini]" in text
    assert f"evaluation {second.id} of mini holds against the baseline {first.id}" in text
    call("history", "mini", "--root", tmp_path, "--pin", "latest")
    assert pinned_baseline(files, "mini") == second.id
    with pytest.raises(UnknownEvaluationError):
        call("history", "mini", "--root", tmp_path, "--pin", "20200101")


def test_a_regression_ends_the_check_with_its_error(tmp_path):
    files = ShardStore.at(tmp_path).files
    first = evaluated(files)
    append_history(files, first)
    append_history(files, evaluated(files, day="03", lowered=30))
    call("history", "mini", "--root", tmp_path, "--pin", first.id)
    with pytest.raises(RegressionError, match="clip_score@mini of iedit on real fell"):
        call("history", "mini", "--root", tmp_path, "--check")


def test_checkpoints_are_named_by_training_and_seed(tmp_path):
    (tmp_path / "checkpoints" / "step_1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest").symlink_to("step_1")
    found = parse_checkpoints([str(tmp_path), "iedit@1=c", "global_ldm_loc=d=e"])
    assert {(name, seed): source.name for name, by_seed in found.items() for seed, source in by_seed.items()} == {
        ("iedit", 0): str(tmp_path / "checkpoints" / "step_1"),
        ("iedit", 1): "c",
        ("global_ldm_loc", 0): "d=e",
    }
    with pytest.raises(ConfigError, match="twice"):
        parse_checkpoints(["a", "iedit@0=b"])


def test_both_profiles_differ_in_values_alone():
    plans = {name: make().evaluate.plan for name, make in PROFILES.items()}
    assert set(plans) == {"mini", "sd14"}
    assert plans["mini"].methods == plans["sd14"].methods
    assert plans["sd14"].size_px == 384
    with pytest.raises(ConfigError):
        resolve("nothing")
