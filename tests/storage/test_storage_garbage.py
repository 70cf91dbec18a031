import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage import CorruptFileError, Files, UnknownVersionError, VersionStore, collect_garbage, verify_version
from tasks.stages import stage_names

Recipe = Any  # the fixture's class lives in conftest


def _grow_old(files: Files, *, but: str = "nothing") -> None:
    long_ago = time.time() - 10 * 24 * 3600
    for path in files.stats():
        if but not in path:
            os.utime(Path(files.root) / path, (long_ago, long_ago))


@pytest.fixture
def store(tmp_path: Path) -> Files:
    return Files(str(tmp_path / "store"))


def test_nothing_that_a_version_needs_is_garbage(store: Files, recipe: Recipe):
    recipe.build(store)
    _grow_old(store)
    garbage = collect_garbage(VersionStore(store), stages=stage_names())
    assert (garbage.files, garbage.versions, garbage.num_bytes) == ({}, (), 0)


def test_the_log_of_a_shard_goes_when_its_shard_goes(store: Files, recipe: Recipe):
    kept, gone = recipe.build(store), replace(recipe, input_digest="other").build(store)
    logs = {path for path in store.list() if ".log." in path}
    _grow_old(store)
    removed = set(collect_garbage(VersionStore(store), stages=stage_names(), keep=[kept.id], remove=True).files)
    assert len(logs) == 2
    assert len(logs & removed) == 1
    assert {path for path in store.list() if ".log." in path} == logs - removed
    folders = {row["fingerprint"] for row in VersionStore(store).shard_files(kept).to_pylist()}
    assert all(path.split("/")[1] in folders for path in logs - removed)
    assert gone.id != kept.id


def test_a_dry_run_lists_and_a_real_one_removes_exactly_that(store: Files, recipe: Recipe):
    versions = VersionStore(store)
    kept, gone = recipe.build(store), replace(recipe, input_digest="other").build(store)
    store.write_bytes("train/0123/checkpoint", b"precious")
    _grow_old(store)
    before = store.list()
    listed = collect_garbage(versions, stages=stage_names(), keep=[kept.id[:6]])
    assert store.list() == before
    assert (listed.versions, listed.removed) == ((gone.id,), False)
    assert listed.num_bytes == sum(store.size(path) or 0 for path in listed.files)
    assert f"versions/{gone.id}" in listed.folders()
    assert sum(listed.folders().values()) == listed.num_bytes
    removed = collect_garbage(versions, stages=stage_names(), keep=[kept.id], remove=True)
    assert removed.files == listed.files
    assert set(store.list()) == set(before) - set(listed.files)
    assert versions.list() == [kept.id]
    assert verify_version(versions, kept.id) == []
    assert store.exists("train/0123/checkpoint")
    assert not any(path.is_dir() and not any(path.iterdir()) for path in Path(store.root).rglob("*"))
    assert collect_garbage(versions, stages=stage_names(), keep=[kept.id]).files == {}


def test_a_sub_version_keeps_all_that_it_needs_when_its_parent_goes(store: Files, recipe: Recipe):
    versions, info = VersionStore(store), recipe.build(store)
    part = versions.subset(info.id, where="split == 'train'")
    _grow_old(store)
    garbage = collect_garbage(versions, stages=stage_names(), keep=[part.id], remove=True)
    assert {path.rpartition("/")[0] for path in garbage.files} == {f"versions/{info.id}"}
    assert verify_version(versions, part.id) == []


def test_leftovers_of_killed_runs_and_files_of_earlier_tries_are_garbage(store: Files, recipe: Recipe):
    recipe.build(store)
    stray = ("caption/0123456789abcdef/00000.0123456789abcdef.tar", "pack/x/.a.tar.12ab.partial")
    for path in stray:
        store.write_bytes(path, b"x")
    assert collect_garbage(VersionStore(store), stages=stage_names()).files == {}
    _grow_old(store)
    assert tuple(collect_garbage(VersionStore(store), stages=stage_names()).files) == stray


def test_what_was_written_lately_stays_and_a_young_version_stays_whole(store: Files, recipe: Recipe):
    kept, young = recipe.build(store), replace(recipe, input_digest="other").build(store)
    _grow_old(store, but=f"{young.id}/version.json")
    garbage = collect_garbage(VersionStore(store), stages=stage_names(), keep=[kept.id], remove=True)
    assert (garbage.files, garbage.versions) == ({}, ())
    assert verify_version(VersionStore(store), young.id) == []
    assert collect_garbage(VersionStore(store), stages=stage_names(), keep=[kept.id], older_than_s=-60).versions == (
        young.id,
    )


def test_gc_does_not_guess_what_to_keep(store: Files, recipe: Recipe):
    info = recipe.build(store)
    with pytest.raises(UnknownVersionError, match="at least one"):
        collect_garbage(VersionStore(store), stages=stage_names(), keep=[])
    with pytest.raises(UnknownVersionError, match="zzz"):
        collect_garbage(VersionStore(store), stages=stage_names(), keep=["zzz"])
    store.write_bytes(f"versions/{info.id}/shard_files.parquet", b"damaged")
    _grow_old(store)
    with pytest.raises(CorruptFileError):
        collect_garbage(VersionStore(store), stages=stage_names(), remove=True)


def test_a_store_in_memory_can_be_cleaned_too(files: Files, recipe: Recipe):
    kept, gone = recipe.build(files), replace(recipe, input_digest="other").build(files)
    garbage = collect_garbage(VersionStore(files), stages=stage_names(), keep=[kept.id], older_than_s=-60, remove=True)
    assert garbage.versions == (gone.id,)
    assert verify_version(VersionStore(files), kept.id) == []
