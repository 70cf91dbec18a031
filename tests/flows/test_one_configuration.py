"""One configuration tree: what ``iedit config`` prints is taken by every command, and nothing unused passes."""

import argparse
import os
from pathlib import Path

import pytest

from benchmarks.true_pair_version import build_version, true_pairs
from flows.cli.options import add_config, config_of
from flows.config.overrides import as_yaml
from flows.config.profiles import ALL, BUILD, EVALUATE, PROFILES, TRAIN, load_profile, resolve
from flows.reporting.version_text import latest_version
from iedit_model.errors import ConfigError
from iedit_model.training.config import paper
from storage import ShardStore, VersionStore


def given(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_config(parser, recipe=True, training=True)
    return parser.parse_args(list(arguments))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("uses", [BUILD, TRAIN, EVALUATE, ALL])
def test_a_printed_configuration_changes_nothing_of_any_command(profile: str, uses: tuple[str, ...], tmp_path: Path):
    (tmp_path / "all.yaml").write_text(as_yaml(load_profile(profile)))
    changes = config_of(given("--profile", profile, "--config", str(tmp_path / "all.yaml")), uses)
    assert resolve(profile, changes, uses=uses) == resolve(profile)


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


def test_latest_is_the_newest_full_version_and_no_part_of_one(tmp_path: Path):
    store = ShardStore.at(str(tmp_path))
    versions = VersionStore(store.files)
    full = build_version(store, true_pairs(6))
    part = versions.subset(full.id, where="split == 'train'")
    os.utime(tmp_path / "versions" / part.id / "version.json", (4e9, 4e9))
    assert latest_version(versions) == full.id
