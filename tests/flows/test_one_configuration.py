"""One configuration tree: what ``iedit config`` prints is taken by every command, and nothing unused passes."""

import argparse
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from flows.cli.main import COMMANDS, main
from flows.cli.options import add_config, config_of
from flows.config.overrides import as_yaml
from flows.config.profiles import BUILD, PROFILES, load_profile, resolve
from iedit_model.errors import ConfigError
from iedit_model.training.config import paper
from tests.tasks.test_toy_stage import MODULE


def given(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_config(parser, recipe=True, training=True)
    return parser.parse_args(list(arguments))


TAKES_THE_TREE = {
    "build": (),
    "retry-failed": (),
    "train": ("-o", "out"),
    "evaluate": (),
    "evalset": ("make-generated", "set"),
    "demo": (),
    "reproduce": (),
    "config": (),
}
"""Command -> what it needs besides."""


def test_every_command_that_takes_the_tree_is_tried():
    commands = {name: import_module(f"flows.cli.{module}").COMMANDS[name] for name, (module, _) in COMMANDS.items()}
    assert {name for name, command in commands.items() if command.changes is not None} == set(TAKES_THE_TREE)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", TAKES_THE_TREE)
def test_what_config_prints_is_accepted_by_every_command_with_the_same_result(
    name: str, profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["config", "--profile", profile]) == 0
    (tmp_path / "all.yaml").write_text(capsys.readouterr().out)
    command = import_module(f"flows.cli.{COMMANDS[name][0]}").COMMANDS[name]
    parser = argparse.ArgumentParser()
    command.configure(parser)
    options = parser.parse_args([*TAKES_THE_TREE[name], "--profile", profile, "--config", str(tmp_path / "all.yaml")])
    own = {key: getattr(options, key) for key in ("recipe", "training", "metadata") if hasattr(options, key)}
    assert resolve(options.profile, command.changes(options), **own) == resolve(profile)


def test_a_new_stage_has_its_section_and_its_options_by_its_line_in_the_list(tmp_path: Path):
    (tmp_path / "toy_stage.py").write_text(MODULE)
    script = """
import tasks.stages, toy_stage
tasks.stages.DATASET = (*tasks.stages.DATASET, toy_stage.STAGE)
from flows.cli.main import main
settings = ("data.prompt_length.most_words=7", "run.options.prompt_length.retries=5")
raise SystemExit(main(["config", "--set", settings[0], "--set", settings[1]]))
"""
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    printed = yaml.safe_load(ran.stdout)
    assert printed["data"]["prompt_length"] == {"most_words": 7}
    assert printed["run"]["options"]["prompt_length"]["retries"] == 5


def test_the_profile_of_the_real_models_trains_as_the_paper_does():
    train = resolve("sd14").train.train
    assert (train.num_steps, train.layers, train.batch_size) == (10_000, "alternate", 1)
    assert train.loss == paper().loss


@pytest.mark.parametrize(
    "name", ["train.train.learning_rate=1e-9", "train.rows.max_samples=3", "run.options.train.retries=9"]
)
def test_a_setting_that_a_build_does_not_use_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="does not use"):
        config_of(given("--set", name), BUILD)
    field, _, value = name.partition("=")
    (tmp_path / "one.yaml").write_text(f"{field}: {value}")
    with pytest.raises(ConfigError, match="does not use"):
        config_of(given("--config", str(tmp_path / "one.yaml")), BUILD)


def test_the_configuration_holds_every_evaluation_setting():
    assert "strength: 0.5" in as_yaml(load_profile("mini"))


def test_the_papers_training_takes_all_pairs_and_not_our_selection():
    assert resolve("mini").train.rows.where is not None
    assert resolve("mini", training="paper").train.rows.where is None
