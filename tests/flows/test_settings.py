"""Settings of a person: what is written is what is read, and nothing wrong is taken in silence."""

import argparse
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.options import add_config, config_of
from flows.config.overrides import as_yaml, changed, parse_assignments, read_settings
from flows.config.profiles import ALL, PROFILES, load_profile
from flows.config.tree import Config, TagLimit
from iedit_model.configuration import as_values
from iedit_model.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "data.source.metadata": st.none() | TEXT,
        "data.source.site": st.none() | st.builds(lambda port: {"port": port}, st.integers(1, 65_535)),
        "data.plan.filters.languages": st.none() | st.lists(TEXT, min_size=1, max_size=3),
        "data.plan.filters.max_punsafe": st.none() | st.floats(0, 1),
        "data.plan.shard_size": st.integers(1, 1_000_000),
        "data.caption": st.just({"mode": "alt_text", "model": None}),
        "data.retrieve.query.text_weight": st.floats(0, 1),
        "data.mask.threshold": st.floats(0.01, 0.99),
        "run.runner.kind": st.sampled_from(["threads", "ray"]),
        "run.runner.workers": st.integers(1, 100),
        "run.options.caption.tags": st.lists(TEXT, max_size=2),
        "run.options.caption.timeout_s": st.none() | st.floats(0.001, 1e6),
        "run.tag_limits": st.lists(
            st.fixed_dictionaries({"tag": TEXT.filter(str.strip), "limit": st.integers(1, 9)}), max_size=2
        ),
    },
)


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "settings.yaml"


@pytest.mark.parametrize("profile", PROFILES)
@given(changes=CHANGES)
@settings(max_examples=12, deadline=None)
def test_a_configuration_written_as_yaml_reads_back_equal(profile, changes, yaml_file):
    config = changed(load_profile(profile), changes)
    yaml_file.write_text(as_yaml(config), encoding="utf-8")
    for start in PROFILES:
        assert changed(load_profile(start), read_settings(yaml_file)) == config


def test_profiles_differ_in_values_alone():
    assert changed(load_profile("sd14"), as_values(load_profile("mini"))) == load_profile("mini")
    assert changed(load_profile("mini"), as_values(load_profile("sd14"))) == load_profile("sd14")
    assert load_profile("mini") != load_profile("sd14")


def test_a_dotted_name_changes_one_field_and_nothing_beside_it():
    mini = load_profile("mini")
    config = changed(mini, {"data.retrieve.query.text_weight": 0.25})
    assert config.data.retrieve.query.text_weight == 0.25
    before, after = as_values(mini), as_values(config)
    after["data"]["retrieve"]["query"]["text_weight"] = before["data"]["retrieve"]["query"]["text_weight"]
    assert after == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.mask.treshold": 0.4}, ["data.mask.treshold", "did you mean", "data.mask.threshold"]),
        ({"data.masks.threshold": 0.4}, ["'data.masks'", "mask"]),
        ({"zzz": 1}, ["'zzz'", "known", "evaluate"]),
        ({"data.source.site": {"prot": 1}}, ["data.source.site.prot", "data.source.site.port"]),
        ({"data.mask": 3}, ["mask is 3", "threshold"]),
        ({"data.mask.threshold": "high"}, ["data.mask.threshold", "'high'", "number"]),
        ({"data.mask.threshold": 1.5}, ["mask", "1.5"]),
        ({"run.runner.workers": 0}, ["run.runner.workers", "0"]),
        ({"run.runner.workers": True}, ["run.runner.workers", "True", "int"]),
        ({"run.runner.workers": 1.5}, ["run.runner.workers", "1.5"]),
        ({"run.runner.kind": "dask"}, ["run.runner.kind", "threads", "ray"]),
        ({"run.runner": None}, ["run.runner"]),
        ({"data.plan.filters.languages": "en"}, ["data.plan.filters.languages", "'en'"]),
        ({"run.options.caption.timeout_s": 0}, ["timeout_s"]),
        ({"data.source.site.port": 70_000}, ["data.source.site.port", "65535"]),
        ({"run.tag_limits": [{"limit": 1}]}, ["tag_limits[0]", "tag"]),
        ({"run.tag_limits": [{"tag": "gpu", "limit": 0}]}, ["limit", "0"]),
        ({"run.tag_limits": [{"tag": " "}]}, ["tag"]),
        ({"run.tag_limits": ["gpu"]}, ["tag_limits[0]", "gpu"]),
        ({"run.tag_limits": [{"tag": "gpu", "limit": "many"}]}, ["tag_limits[0].limit", "many"]),
        ({"data.mask.threshold.low": 1}, ["data.mask.threshold"]),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(changes, words):
    with pytest.raises(ConfigError) as caught:
        changed(load_profile("mini"), changes)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert len(message) < 1000


def test_tag_limits_become_their_class():
    config = changed(load_profile("mini"), {"run.tag_limits": [{"tag": "gpu", "limit": 3}]})
    assert config.run.tag_limits == (TagLimit(tag="gpu", limit=3),)


def test_no_such_profile_names_those_that_are_there():
    with pytest.raises(ConfigError, match="mini, sd14"):
        load_profile("huge")


@pytest.mark.parametrize(
    ("file", "assignments", "expected"),
    [
        ("data: {mask: {threshold: 0.3}}", ["data.mask.threshold=0.6"], {"data.mask.threshold": 0.6}),
        ("data.mask.threshold: 0.3", ["data.mask.threshold=0.6"], {"data.mask.threshold": 0.6}),
        ("data.mask.threshold: 0.3", ["data.mask={threshold: 0.6}"], {"data.mask.threshold": 0.6}),
        (
            "run: {runner: {workers: 7}}",
            ["run.runner.downloads=9"],
            {"run.runner.workers": 7, "run.runner.downloads": 9},
        ),
        (
            "run: {runner: {workers: 7}}",
            ["run.runner={downloads: 9}"],
            {"run.runner.workers": 7, "run.runner.downloads": 9},
        ),
        ("run.runner.workers: 7", ["run.runner={downloads: 9}"], {"run.runner.workers": 7, "run.runner.downloads": 9}),
        ("run: {runner: {workers: 7}}", ["run.runner.workers=8", "run.runner.workers=9"], {"run.runner.workers": 9}),
        (
            "data: {download: {fetch: {per_host: 3, max_redirects: 1}}}",
            ["data.download.fetch.per_host=4", "data.download.threads=2"],
            {"data.download.fetch.per_host": 4, "data.download.fetch.max_redirects": 1, "data.download.threads": 2},
        ),
        ("data: {source: {site: {port: 9}}}", ["data.source.site=null"], {"data.source.site": None}),
        ("data: {source: {site: null}}", ["data.source.site.port=9"], {"data.source.site": {"port": 9}}),
        ("", [], {}),
    ],
)
def test_assignments_go_over_the_file_field_by_field(file, assignments, expected, yaml_file):
    yaml_file.write_text(file)
    assert _from_command_line(yaml_file, assignments) == changed(load_profile("mini"), expected)


def _from_command_line(path: Path, assignments: list[str]) -> Config:
    parser = argparse.ArgumentParser()
    add_config(parser)
    given = [word for text in assignments for word in ("--set", text)]
    return changed(load_profile("mini"), config_of(parser.parse_args(["--config", str(path), *given]), ALL))


@pytest.mark.parametrize(
    "text",
    [
        "mask: !!python/object/apply:os.system ['true']",
        "!!python/name:os.system {}",
        "[1, 2]",
        "just words",
        "1: {threshold: 1}",
        "data: {mask: {threshold: 0.3}, mask: {threshold: 0.4}}",
        "data: {}\ndata: {}",
        "mask: {threshold: 2001-99-99}",
        f"mask: {{threshold: {'9' * 5000}}}",
        "mask: [",
        "mask: " + "[" * 1200,
        "\x00",
        "a: *nothing",
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused_in_one_line(text, yaml_file):
    yaml_file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        changed(load_profile("mini"), read_settings(yaml_file))
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_file_that_grows_when_it_is_unfolded_is_refused_at_once(yaml_file):
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    yaml_file.write_text("\n".join([*lines, "data: {plan: {shard_size: *l11}}"]))
    with pytest.raises(ConfigError) as caught:
        changed(load_profile("mini"), {"data": read_settings(yaml_file)["data"]})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")])
def test_a_file_that_cannot_be_read_is_named(make, tmp_path):
    make(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match=r"other\.yaml"):
        read_settings(tmp_path / "other.yaml")


@pytest.mark.parametrize("path", ["large.yaml", "/dev/zero"])
def test_a_file_without_an_end_is_refused(path, tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="bytes"):
        read_settings(tmp_path / path)


@pytest.mark.parametrize("text", ["mask.threshold", "=1", " = 1", "a=[", "a=!!python/name:os.system", "a=2001-99-99"])
def test_an_assignment_that_cannot_be_read_is_told(text):
    with pytest.raises(ConfigError):
        parse_assignments([text])


def test_values_of_assignments_are_yaml():
    read = parse_assignments(["a.b=0.5", "c=null", "d=[x, 'y z']", "e=a=b"])
    assert read == {"a.b": 0.5, "c": None, "d": ["x", "y z"], "e": "a=b"}


@pytest.mark.parametrize(
    "text",
    [
        "data:\n  plan: {shard_size: 5}\ndata:\n  plan: {sample_share: 0.5}\n",
        "data: {plan: {shard_size: 5, shard_size: 6}}\n",
        "data.plan.shard_size: 5\ndata: {plan: {shard_size: 6}}\n",
        "data: {plan.shard_size: 5, plan: {shard_size: 6}}\n",
        "data: {plan: {shard_size: 5}}\n---\ndata: {plan: {shard_size: 6}}\n",
    ],
)
def test_a_setting_that_is_written_twice_is_refused_in_any_spelling(text: str, tmp_path: Path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        read_settings(tmp_path / "c.yaml")


def test_a_hundred_thousand_settings_are_refused_in_no_time(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("".join(f"a{number}: 1\n" for number in range(90_000)))
    began = time.process_time()
    assert len(read_settings(tmp_path / "c.yaml")) == 90_000
    assert time.process_time() - began < 60
