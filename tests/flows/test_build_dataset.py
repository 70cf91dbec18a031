"""The flow build-dataset from end to end with a real Prefect server, on a site of 120 pictures."""

import base64
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.build_dataset import build_dataset
from flows.reporting.progress import JsonLines, shown
from storage import Files, ShardReport, VersionInfo, VersionStore, verify_version
from storage.reports import marker_path
from tests.flows.tiny_build import SHARD_SIZE, TinyCorpus

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect")]

CHAIN = ("plan", "download", "caption", "swap", "embed", "retrieve", "mask", "pack")
TAG = "tiny-caption"


@dataclass(frozen=True, kw_only=True)
class Built:
    """One finished build."""

    root: Path
    version: VersionInfo
    flow_run: UUID
    events: list[dict[str, Any]]
    settings: Mapping[str, Any]

    @property
    def store(self) -> VersionStore:
        return VersionStore(Files(str(self.root)))

    def reports(self, stage: str) -> list[ShardReport]:
        """Return the reports of a stage's shards that the version was made of, by the markers on the disk."""
        rows = self.store.shard_files(self.version).to_pylist()
        shards = sorted({(row["shard"], row["fingerprint"]) for row in rows if row["stage"] == stage})
        paths = [marker_path(stage, fingerprint, shard) for shard, fingerprint in shards]
        return [ShardReport.from_json((self.root / path).read_bytes()) for path in paths]


def build(root: Path, corpus: TinyCorpus, settings: Mapping[str, Any]) -> Built:
    stream = io.StringIO()
    with shown(JsonLines(stream)):
        state = build_dataset(str(root), metadata=corpus.metadata, config=dict(settings), return_state=True)
    version = state.result()
    assert isinstance(version, str)
    assert state.state_details.flow_run_id is not None
    return Built(
        root=root,
        version=VersionStore(Files(str(root))).load(version),
        flow_run=state.state_details.flow_run_id,
        events=[json.loads(line) for line in stream.getvalue().splitlines()],
        settings=settings,
    )


@pytest.fixture(scope="module")
def built(prefect: None, tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Built:
    limits = {"run.tag_limits": [{"tag": TAG, "limit": 1}], "run.options.caption.tags": [TAG]}
    return build(tmp_path_factory.mktemp("built") / "root", tiny_corpus, tiny_corpus.settings() | limits)


def test_what_one_stage_puts_out_the_next_takes_in(built):
    counts = {record.stage: record for record in built.version.stages}
    for before, after in itertools.pairwise(CHAIN):
        assert counts[after].num_in == counts[before].num_out
    assert counts["pack"].num_out == built.version.num_samples > 0


def test_the_funnel_of_the_version_is_the_sum_of_the_markers_on_the_disk(built):
    for record in built.version.stages:
        if record.stage not in CHAIN[:-1]:
            continue
        reports = built.reports(record.stage)
        assert record.num_in == sum(report.num_in for report in reports)
        assert record.num_out == sum(report.num_out for report in reports)
        assert dict(record.dropped) == dict(sum((Counter(report.dropped) for report in reports), Counter()))


def test_every_shard_of_the_plan_has_a_marker_in_each_stage(built, tiny_corpus):
    num_shards = -(-next(r for r in built.version.stages if r.stage == "plan").num_out // SHARD_SIZE)
    names = [f"{number:05d}" for number in range(num_shards)]
    for stage in CHAIN[:-1]:
        assert [report.shard for report in built.reports(stage)] == names
    assert {path.suffix for path in built.root.rglob(".*")} == set(), "nothing is left under construction"


def _tables(built: Built, stage: str) -> list[Path]:
    return [built.root / report.path("parquet") for report in built.reports(stage)]


def test_each_picture_and_each_failure_is_what_the_site_planned(built, tiny_corpus):
    import pyarrow.parquet as pq

    truths = tiny_corpus.truths()
    rows = [row for path in _tables(built, "download") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == built.version.stages[1].num_in
    for row in rows:
        truth = truths[row["sample_id"]]
        if row["error_class"] == "too_small":
            assert min(truth.width, truth.height) < 32
        else:
            assert (row["status"] == "ok") == truth.gives_image
            assert row["error_class"] == (None if truth.gives_image else truth.reason)


def test_every_byte_of_the_version_is_what_it_says(built):
    assert verify_version(built.store, built.version.id) == []


def test_every_pair_shows_two_pictures_of_the_site(built, tiny_corpus):
    truths = tiny_corpus.truths()
    manifest = built.store.manifest(built.version).to_pylist()
    assert len(manifest) == built.version.num_samples
    for row in manifest:
        assert truths[row["sample_id"]].gives_image
        assert truths[row["target_id"]].gives_image
        assert row["sample_id"] != row["target_id"]


def test_progress_tells_each_shard_once(built):
    told = Counter((event["stage"], event["shard"]) for event in built.events if event["event"] == "shard")
    assert set(told.values()) == {1}
    for stage in CHAIN[:-1]:
        assert sum(name == stage for name, _ in told) == len(built.reports(stage))
    ahead = Counter()
    for event in built.events:
        if event["event"] == "begin":
            ahead[event["stage"]] += event["shards"]
    assert ahead == Counter(stage for stage, _ in told)


def _artifacts(flow_run: UUID) -> dict[str, Any]:
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do
    from prefect.client.schemas.filters import (  # noqa: TID251
        ArtifactFilter,
        ArtifactFilterFlowRunId,
    )

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
        return {str(artifact.key): artifact for artifact in client.read_artifacts(artifact_filter=wanted)}


def test_the_run_leaves_its_funnel_pairs_card_and_progress_in_prefect(built):
    from PIL import Image

    found = _artifacts(built.flow_run)
    assert set(found) == {"funnel", "pairs", "dataset-card", "progress"}
    table = json.loads(found["funnel"].data)
    assert [(row["stage"], row["in"], row["out"]) for row in table] == [
        (record.stage, record.num_in, record.num_out) for record in built.version.stages
    ]
    assert "not_found" in next(row["dropped"] for row in table if row["stage"] == "download")
    assert all(row["per second"] > 0 for row in table if row["stage"] in ("caption", "embed", "mask"))
    picture = re.fullmatch(r"!\[pairs\]\(data:image/webp;base64,([A-Za-z0-9+/=]+)\)\n", found["pairs"].data)
    assert picture is not None
    sheet = Image.open(io.BytesIO(base64.b64decode(picture[1])))
    assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 100
    assert built.version.id in found["dataset-card"].data
    assert float(found["progress"].data) == 100


def test_a_tag_of_the_configuration_has_its_limit_in_prefect(built):
    from prefect.client.orchestration import get_client  # noqa: TID251 - the tests of flows/ need what flows/ do

    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(f"tag:{TAG}")
    assert limit.limit == 1
    assert limit.active


def test_a_second_run_gives_the_same_version_and_does_nothing_again(built, tiny_corpus):
    before = {path: path.stat().st_mtime_ns for path in built.root.rglob("*") if path.is_file()}
    asked = tiny_corpus.running.num_requests()
    again = build(built.root, tiny_corpus, built.settings)
    assert again.version == built.version
    assert {path: path.stat().st_mtime_ns for path in built.root.rglob("*") if path.is_file()} == before
    assert tiny_corpus.running.num_requests() == asked


@pytest.mark.slow
def test_shard_size_and_workers_change_no_sample(built, tiny_corpus, tmp_path):
    others = {
        "data.plan.shard_size": 17,
        "run.runner.workers": 3,
        "run.runner.downloads": 1,
        "data.download.threads": 3,
    }
    other = build(tmp_path / "root", tiny_corpus, dict(built.settings) | others)
    assert len(other.reports("embed")) > len(built.reports("embed"))
    # Where a picture lies is all that may differ.
    ours, theirs = (
        one.store.manifest(one.version).drop_columns(["image_shard", "image_offset", "tar"]) for one in (built, other)
    )
    assert theirs.equals(ours)
    tars = [{Path(name).name for name in one.version.files if name.endswith(".tar")} for one in (built, other)]
    assert len(tars[0]) > 0
    assert tars[0] == tars[1], "the names hold the hashes of the bytes"
