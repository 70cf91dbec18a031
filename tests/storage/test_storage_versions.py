import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from storage import (
    AccountingError,
    CorruptFileError,
    EmptyVersionError,
    Files,
    FilterError,
    SchemaError,
    ShardReport,
    StageRun,
    UnknownVersionError,
    VersionConflictError,
    VersionError,
    VersionInfo,
    VersionStore,
    verify_version,
)
from storage.lineage import version_id

Recipe = Any  # the fixture's class lives in conftest


def _contents(files: Files, folder: str = "versions") -> dict[str, bytes]:
    return {path: files.read_bytes(path) for path in files.list(folder)}


def test_logs_change_no_byte_of_a_version(tmp_path: Any, recipe: Recipe):
    stores = [Files(str(tmp_path / name)) for name in ("one", "other")]
    one, other = (replace(recipe, log=name.root.encode()).build(name) for name in stores)
    assert one == other
    assert _contents(stores[0]) == _contents(stores[1])
    assert replace(recipe, log=b"a third").build(stores[0]) == one


def test_a_version_says_what_made_it_and_what_became_of_every_sample(files: Files, recipe: Recipe):
    versions, info = VersionStore(files), recipe.build(files)
    assert versions.list() == [info.id]
    assert versions.load(info.id) == versions.load(info.id[:4]) == info
    assert [record.stage for record in info.stages] == ["plan", "caption", "pack"]
    funnel = [(record.num_in, record.num_out, record.dropped) for record in info.stages]
    assert funnel == [(7, 5, {"double": 1, "too_small": 1}), (5, 4, {"empty_caption": 1}), (4, 4, {})]
    caption = info.stage("caption")
    assert caption is not None
    assert (caption.weights_digest, caption.code_version, caption.num_shards) == ("blip", 1, 1)
    assert caption.config == {"@": "CaptionConfig", "max_new_tokens": 30}
    assert info.stage("mask") is None
    assert (info.num_samples, info.splits) == (4, {"test": 1, "train": 3})
    assert sum(path.endswith(".tar") for path in info.files) == 2
    for path, entry in info.files.items():
        assert files.size(path) == entry.size


def test_the_manifest_can_be_read_in_part(files: Files, recipe: Recipe):
    versions, info = VersionStore(files), recipe.build(files)
    assert versions.manifest(info)["sample_id"].to_pylist() == ["a", "b", "d", "e"]
    part = versions.manifest(info, columns=["caption"], where="split == 'test' or sample_id < 'b'")
    assert part.to_pydict() == {"caption": ["a cat", "a red bus"]}
    with pytest.raises(FilterError, match="unknown column"):
        versions.manifest(info, where="colour == 'red'")
    with pytest.raises(SchemaError, match="no column"):
        versions.manifest(info, columns=["colour"])


def test_the_same_inputs_give_the_same_id_and_the_same_bytes_anywhere(files: Files, recipe: Recipe, tmp_path: Any):
    other = Files(str(tmp_path / "other"))
    assert recipe.build(files) == recipe.build(other)
    assert _contents(files) == _contents(other)
    before = files.stats("versions")
    recipe.build(files)
    assert files.stats("versions") == before


def test_everything_that_made_a_version_is_part_of_its_id(tmp_path: Any, recipe: Recipe):
    config = replace(recipe.config, max_new_tokens=20)
    recipes = [
        recipe,
        replace(recipe, config=config),
        replace(recipe, code_version=2),
        replace(recipe, weights_digest="other"),
        replace(recipe, input_digest="other"),
        replace(recipe, captions=recipe.captions | {"a": "a cow"}),
    ]
    ids = {each.build(Files(str(tmp_path / str(i)))).id for i, each in enumerate(recipes)}
    assert len(ids) == len(recipes)


def test_each_part_of_a_stages_record_is_part_of_the_id(files: Files, recipe: Recipe):
    info = recipe.build(files)
    changes = [{"code_version": 9}, {"weights_digest": "x"}, {"config": {"x": 1}}, {"digest": "x"}, {"stage": "mask"}]
    made = {info.id, version_id(input_digest="x", stages=info.stages)}
    made |= {version_id(input_digest="input", stages=info.stages, parent=info.id, where=where) for where in ("x", "y")}
    for change in changes:
        stages = (info.stages[0], replace(info.stages[1], **change), info.stages[2])
        made.add(version_id(input_digest="input", stages=stages))
    assert len(made) == len(changes) + 4
    # What follows from the rest is not: a funnel is counted from the shards.
    counted = tuple(replace(record, num_in=0, num_shards=0) for record in info.stages)
    assert version_id(input_digest="input", stages=counted) == info.id


def _reports_of(files: Files, stage: str) -> tuple[ShardReport, ...]:
    found = [path for path in files.list() if path.startswith(f"{stage}/") and path.endswith("done.json")]
    return tuple(ShardReport.from_json(files.read_bytes(path)) for path in found)


def _rewrite(files: Files, recipe: Recipe, manifest: pa.Table, *stages: str, reports: Any = None) -> VersionInfo:
    runs = [
        StageRun(stage=stage, code_version=1, config=recipe.config, reports=reports or _reports_of(files, stage))
        for stage in stages
    ]
    return VersionStore(files).write(manifest, runs=runs, input_digest="input")


def test_an_existing_version_never_changes(files: Files, recipe: Recipe):
    first = recipe.build(files)
    manifest = VersionStore(files).manifest(first)
    info = _rewrite(files, recipe, manifest, "plan", "pack")
    assert info.id != first.id
    before = _contents(files)
    other = manifest.set_column(
        manifest.schema.get_field_index("caption"), manifest.schema.field("caption"), pa.array(["x"] * 4, pa.string())
    )
    with pytest.raises(VersionConflictError, match=info.id):
        _rewrite(files, recipe, other, "plan", "pack")
    assert _contents(files) == before


def test_a_version_that_does_not_add_up_is_never_written(files: Files, recipe: Recipe):
    info = recipe.build(files)
    manifest = VersionStore(files).manifest(info)
    before = _contents(files)
    tar = manifest.schema.get_field_index("tar")
    elsewhere = manifest.set_column(tar, manifest.schema.field("tar"), pa.array(["pack/x.tar"] * 4, pa.string()))
    empty = tuple(replace(report, num_in=0, num_out=0) for report in _reports_of(files, "pack"))
    cases = [
        (AccountingError, "3 rows, but the last stage, pack put out 4", manifest.slice(1), ("plan", "pack"), None),
        (VersionError, "no report of the last stage lists", elsewhere, ("plan", "pack"), None),
        (VersionError, "at least one stage", manifest, (), None),
        (VersionError, "each stage once", manifest, ("pack", "pack"), None),
        (EmptyVersionError, "no sample", manifest.slice(4), ("pack",), empty),
        (SchemaError, "lacks the column", manifest.drop_columns(["tar_size"]), ("pack",), None),
    ]
    for kind, message, table, stages, reports in cases:
        with pytest.raises(kind, match=message):
            _rewrite(files, recipe, table, *stages, reports=reports)
    assert _contents(files) == before


def test_a_run_must_be_of_a_dataset_stage_with_one_report_a_shard(files: Files, recipe: Recipe):
    recipe.build(files)
    plan = _reports_of(files, "plan")
    for stage, reports, message in (
        ("caption", plan, "does not belong"),
        ("plan", plan + plan, "one report per shard"),
        ("plan", (), "one report per shard"),
    ):
        with pytest.raises(VersionError, match=message):
            StageRun(stage=stage, code_version=1, config=recipe.config, reports=reports)


def test_an_unknown_or_ambiguous_id_lists_what_there_is(files: Files, recipe: Recipe):
    versions = VersionStore(files)
    with pytest.raises(UnknownVersionError, match="none yet"):
        versions.load("abc")
    info = recipe.build(files)
    for name in ("", "zzz", info.id + "0"):
        with pytest.raises(UnknownVersionError, match=info.id):
            versions.load(name)
    for name in ("00ff00ff00ff00f1", "00ff00ff00ff00f2"):
        files.write_bytes(f"versions/{name}/version.json", b"{}")
    with pytest.raises(UnknownVersionError, match="2 versions begin with"):
        versions.load("00ff00f")


@pytest.mark.parametrize(
    "change",
    [{"id": "0" * 16}, {"format": 2}, {"input_digest": "x"}, {"where": "x"}, {"files": 3}, {"stages": [{}]}, {"x": 1}],
)
def test_a_version_whose_content_was_touched_is_refused(files: Files, recipe: Recipe, change: dict[str, object]):
    info = recipe.build(files)
    content = json.loads(info.to_json()) | change
    with pytest.raises(CorruptFileError):
        VersionInfo.from_json(json.dumps(content).encode())
    assert VersionInfo.from_json(info.to_json()) == info


def test_a_crash_before_the_last_file_leaves_no_version_and_the_rerun_gives_the_same_bytes(
    files: Files, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    info = recipe.build(files)
    expected = _contents(files)
    write = Files.write_bytes
    for name in ("manifest.parquet", "shard_files.parquet", "version.json"):
        files.remove_tree(f"versions/{info.id}")

        def fail(self: Files, path: str, data: bytes, name: str = name) -> None:
            if path.endswith(name):
                raise ConnectionError("lost")
            write(self, path, data)

        monkeypatch.setattr(Files, "write_bytes", fail)
        with pytest.raises(ConnectionError):
            recipe.build(files)
        monkeypatch.undo()
        assert VersionStore(files).list() == []
        assert recipe.build(files) == info
        assert _contents(files) == expected


def test_a_version_that_lost_its_manifest_gets_it_back_from_the_same_build(files: Files, recipe: Recipe):
    info = recipe.build(files)
    expected = _contents(files)
    files.remove(f"versions/{info.id}/manifest.parquet")
    recipe.build(files)
    assert _contents(files) == expected


def test_a_sub_version_is_a_filtered_manifest_over_the_same_tars(files: Files, recipe: Recipe):
    versions, info = VersionStore(files), recipe.build(files)
    tars = _contents(files, "pack")
    part = versions.subset(info.id, where="split=='train'  and sample_id != 'e'")
    assert (part.parent, part.where) == (info.id, "split == 'train' and sample_id != 'e'")
    assert versions.manifest(part)["sample_id"].to_pylist() == ["a", "b"]
    assert part.stages == info.stages
    assert (part.num_samples, part.splits) == (2, {"train": 2})
    assert {path for path in part.files if path.endswith(".tar")} < set(info.files)
    assert _contents(files, "pack") == tars
    assert verify_version(versions, part.id) == []
    assert versions.subset(info.id[:5], where="split == 'train' and sample_id != \"e\"") == part
    deeper = versions.subset(part.id, where="sample_id == 'a'")
    assert (deeper.parent, versions.manifest(deeper).num_rows) == (part.id, 1)


def test_a_sub_version_can_be_a_list_of_samples(files: Files, recipe: Recipe):
    versions, info = VersionStore(files), recipe.build(files)
    part = versions.subset(info.id, sample_ids=["d", "a", "d"])
    assert versions.manifest(part)["sample_id"].to_pylist() == ["a", "d"]
    assert versions.subset(info.id, sample_ids={"a", "d"}) == part
    assert versions.subset(info.id, sample_ids={"a", "b"}).id != part.id
    with pytest.raises(VersionError, match="1 samples are not in version"):
        versions.subset(info.id, sample_ids=["a", "zz"])


def test_a_sub_version_of_nothing_or_by_no_rule_is_refused(files: Files, recipe: Recipe):
    versions, info = VersionStore(files), recipe.build(files)
    with pytest.raises(EmptyVersionError, match="split == 'val'"):
        versions.subset(info.id, where="split == 'val'")
    with pytest.raises(EmptyVersionError):
        versions.subset(info.id, sample_ids=[])
    for rule in ({}, {"where": "split == 'test'", "sample_ids": ["a"]}):
        with pytest.raises(FilterError, match="not both"):
            versions.subset(info.id, **rule)


def test_a_version_holds_one_row_a_file_of_every_shard(files: Files, recipe: Recipe):
    info = recipe.build(files)
    rows = VersionStore(files).shard_files(info).to_pylist()
    listed = {(row["stage"], row["name"], row["size"], row["sha256"]) for row in rows}
    expected = {
        (report.stage, name, entry.size, entry.sha256)
        for stage in ("plan", "caption", "pack")
        for report in _reports_of(files, stage)
        for name, entry in report.files.items()
        if name != "log.txt"
    }
    assert listed == expected
    assert len(rows) == len(expected) == 8  # plan and caption: table and losses; each of two packs: table and tar
