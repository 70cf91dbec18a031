"""``iedit build`` and its kin as a person runs them: options, output and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage import ShardReport
from tests.flows.tiny_build import SHARD_SIZE, TinyCorpus, as_arguments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("prefect")]


class Iedit:
    """The command with the server and the corpus of these tests."""

    def __init__(self, api: str, corpus: TinyCorpus) -> None:
        self.api, self.corpus = api, corpus

    def __call__(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        ran = subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            env={**os.environ, "PREFECT_API_URL": self.api},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        return ran

    def build(self, root: Path, *more: str, command: str = "build", code: int = 0, **settings: Any) -> Any:
        """Return the result and the events of a build."""
        places = ["--root", str(root), "--metadata", self.corpus.metadata]
        ran = self(command, "--json", *places, *as_arguments(self.corpus.settings(**settings)), *more, code=code)
        events = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
        return (json.loads(ran.stdout) if ran.stdout else None), events


@pytest.fixture(scope="module")
def iedit(prefect_api: str, tiny_corpus: TinyCorpus) -> Iedit:
    return Iedit(prefect_api, tiny_corpus)


@pytest.fixture(scope="module")
def built(iedit: Iedit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The first two shards, then all."""
    root = tmp_path_factory.mktemp("cli_build") / "root"
    part, events = iedit.build(root, "--shards", ":2")
    assert {event["shard"] for event in events if event.get("stage") == "caption" and event["event"] == "shard"} == {
        "00000",
        "00001",
    }
    assert {row["stage"]: row["out"] for row in part["funnel"]}["plan"] == 2 * SHARD_SIZE
    whole, _ = iedit.build(root)
    assert whole["version"] != part["version"]
    return root, whole


def test_the_result_is_the_version_that_lies_there(built, iedit):
    root, whole = built
    shown = json.loads(iedit("datasets", "show", "latest", "--root", str(root), "--json").stdout)
    assert (shown["id"], shown["num_samples"]) == (whole["version"], whole["samples"])
    assert sum(whole["splits"].values()) == whole["samples"] > 0
    assert len(json.loads(iedit("datasets", "list", "--root", str(root), "--json").stdout)) == 2
    iedit("datasets", "verify", "latest", "--root", str(root))


def test_a_page_of_pairs_and_a_card_are_written(built, iedit, tmp_path):
    root, whole = built
    iedit("gallery", "latest", "--root", str(root), "-o", str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text().count("data:image/") >= whole["samples"]
    iedit("datasets", "card", "latest", "--root", str(root), "-o", str(tmp_path / "card.md"))
    assert whole["version"] in (tmp_path / "card.md").read_text()


def test_a_log_gets_a_line_a_stage_and_the_way_on(built, iedit, tiny_corpus):
    root, whole = built
    arguments = ["--metadata", tiny_corpus.metadata, *as_arguments(tiny_corpus.settings())]
    ran = iedit("build", "--root", str(root), *arguments)
    stages = [line.split()[0] for line in ran.stderr.splitlines()]
    assert sorted(stages) == sorted(row["stage"] for row in whole["funnel"])
    assert f"version {whole['version']}: {whole['samples']} pairs in {root}" in ran.stdout
    assert f"iedit gallery {whole['version']}" in ran.stdout


def test_shards_that_the_plan_does_not_have_are_an_error(built, iedit):
    root, _ = built
    assert iedit.build(root, "--shards", "7:9", code=1)[0] is None


def test_a_dry_run_estimates_what_the_build_then_gives_and_leaves_nothing(built, iedit, tmp_path):
    _, whole = built
    found, events = iedit.build(tmp_path / "nothing", "--dry-run")
    assert not (tmp_path / "nothing").exists()
    assert events
    # So few addresses are all in the sample.
    assert found["share"] == 1.0
    assert found["pairs"] == whole["samples"]
    told = {stage["stage"]: (stage["num_in"], stage["num_out"]) for stage in found["stages"]}
    assert told == {row["stage"]: (row["in"], row["out"]) for row in whole["funnel"]}
    assert found["gigabytes"] > 0
    assert found["hours"] > 0


def test_pictures_that_failed_in_passing_come_when_they_are_asked_for_again(iedit, tmp_path):
    corpus = iedit.corpus
    corpus.running.reset()
    once = {"download__retry__retries": 0}
    first, _ = iedit.build(tmp_path / "root", **once)
    lost = {row["stage"]: row for row in first["funnel"]}["download"]["dropped"]["transient"]
    again, _ = iedit.build(tmp_path / "root", **once)
    assert again["version"] == first["version"], "a plain build does not ask again"
    asked = corpus.running.num_requests()
    more, _ = iedit.build(tmp_path / "root", command="retry-failed", **once)
    assert "transient" not in {row["stage"]: row for row in more["funnel"]}["download"]["dropped"]
    assert more["version"] != first["version"]
    now = corpus.running.num_requests()
    assert sum(now.values()) - sum(asked.values()) == lost, "only what failed was asked for"
    reports = [ShardReport.from_json(path.read_bytes()) for path in (tmp_path / "root").glob("01_*/*/*.done.json")]
    assert sum(report.num_out for report in reports) == {row["stage"]: row for row in more["funnel"]}["download"]["out"]
