from dataclasses import replace
from typing import Any

from storage import Files, SampleChange, VersionStore, diff_versions
from tasks.stages import MANIFEST, stage_names

Recipe = Any  # the fixture's class lives in conftest


def test_a_version_does_not_differ_from_itself_though_a_score_is_nan(files: Files, recipe: Recipe):
    info = recipe.build(files)
    diff = diff_versions(VersionStore(files), info.id, info.id)
    assert (diff.lineage, diff.added, diff.removed, diff.changed) == ((), (), (), ())
    assert diff.counts() == {"added": {}, "removed": {}, "changed": {}}


def test_samples_that_came_went_and_changed_each_say_why(files: Files, recipe: Recipe):
    captions = {"a": "a cat", "b": "", "c": "a cow", "d": "a blue bus", "f": "a house"}
    old = recipe.build(files)
    new = replace(
        recipe,
        captions=captions,
        config=replace(recipe.config, max_new_tokens=20),
        code_version=2,
        weights_digest="new",
    ).build(files)
    diff = diff_versions(VersionStore(files), old.id[:8], new.id[:8])
    assert (diff.old, diff.new) == (old.id, new.id)
    assert diff.lineage == (
        "caption: code version 1 -> 2",
        "caption: model blip -> new",
        "caption: config.max_new_tokens 30 -> 20",
    )
    assert diff.added == (
        SampleChange(sample_id="c", why="before: caption dropped it: empty_caption"),
        SampleChange(sample_id="f", why="before: not among the inputs"),
    )
    assert diff.removed == (
        SampleChange(sample_id="b", why="now: caption dropped it: empty_caption"),
        SampleChange(sample_id="e", why="now: not among the inputs"),
    )
    assert [(change.sample_id, change.columns) for change in diff.changed] == [("d", ("caption", "json_member_sha256"))]
    assert diff.changed[0].why == f"caption gives other values ({'; '.join(diff.lineage)})"
    assert diff.counts()["added"] == {"before: caption dropped it: empty_caption": 1, "before: not among the inputs": 1}


def test_the_way_back_is_the_mirror_image(files: Files, recipe: Recipe):
    one = recipe.build(files)
    other = replace(recipe, captions={"a": "a bat", "x": "a fox"}).build(files)
    forth, back = (diff_versions(VersionStore(files), *pair) for pair in ((one.id, other.id), (other.id, one.id)))
    assert {change.sample_id for change in forth.added} == {change.sample_id for change in back.removed} == {"x"}
    assert (
        {change.sample_id for change in forth.removed} == {change.sample_id for change in back.added} == {"b", "d", "e"}
    )
    assert [change.columns for change in forth.changed] == [change.columns for change in back.changed]


def test_another_place_of_the_same_sample_is_no_change(files: Files, recipe: Recipe):
    old, new = recipe.build(files), replace(recipe, a_tar=3, input_digest="other").build(files)
    diff = diff_versions(VersionStore(files), old.id, new.id)
    assert (diff.added, diff.removed, diff.changed) == ((), (), ())
    assert diff.lineage == ("input: input -> other",)


def test_what_a_filter_left_out_says_so(files: Files, recipe: Recipe):
    versions, info = VersionStore(files), recipe.build(files)
    part = versions.subset(info.id, where="split == 'train'")
    diff = diff_versions(versions, info.id, part.id)
    assert diff.removed == (SampleChange(sample_id="d", why="now: left out by the filter split == 'train'"),)
    assert diff.lineage == ("filter: None -> split == 'train'",)


def test_records_that_are_gone_are_said_to_be_missing_and_nothing_fails(files: Files, recipe: Recipe):
    old = recipe.build(files)
    new = replace(recipe, captions=recipe.captions | {"b": ""}).build(files)
    shards = VersionStore(files).shard_files(new).to_pylist()
    lost = next(row for row in shards if row["stage"] == "caption" and row["name"] == "dropped.parquet")
    files.remove(f"caption/{lost['fingerprint']}/00000.{lost['sha256'][:16]}.dropped.parquet")
    diff = diff_versions(VersionStore(files), old.id, new.id)
    assert diff.removed[0] == SampleChange(sample_id="b", why="now: in the plan, but no stage says what became of it")


def test_a_later_stages_word_counts_more_than_the_plans(files: Files, recipe: Recipe):
    # the plan drops a second row of the same URL as "a", which goes on, and here the caption stage then drops it
    old = recipe.build(files)
    new = replace(recipe, captions=recipe.captions | {"a": ""}).build(files)
    diff = diff_versions(VersionStore(files), old.id, new.id)
    assert diff.removed[0] == SampleChange(sample_id="a", why="now: caption dropped it: empty_caption")


def test_every_column_that_can_differ_has_a_stage_to_name():
    assert all(column.stage in stage_names() for column in MANIFEST.columns[1:])
