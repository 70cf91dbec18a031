from dataclasses import replace
from typing import Any

import pytest

from storage import Files, UnknownVersionError, VersionStore, parquet_bytes, split_member, verify_version
from tasks.stages import MANIFEST

Recipe = Any  # the fixture's class lives in conftest


def _messages(files: Files, version: str) -> list[str]:
    return [str(problem) for problem in verify_version(VersionStore(files), version)]


def _tar(files: Files, nth: int = 0) -> str:
    return [path for path in files.list("pack") if path.endswith(".tar")][nth]


def test_a_version_as_it_was_written_has_no_problem(files: Files, recipe: Recipe):
    assert _messages(files, recipe.build(files).id) == []
    with pytest.raises(UnknownVersionError):
        verify_version(VersionStore(files), "zzz")


def test_one_flipped_bit_in_a_picture_names_the_tar_the_sample_and_the_part(files: Files, recipe: Recipe):
    info = recipe.build(files)
    for tar, sample in ((_tar(files, 0), "b"), (_tar(files, 1), "e")):
        good = files.read_bytes(tar)
        where = good.index(f"target_mask of {sample}".encode())
        files.write_bytes(tar, good[:where] + b"T" + good[where + 1 :])
        problems = verify_version(VersionStore(files), info.id)
        assert [(problem.path, problem.sample_id) for problem in problems] == [(tar, ""), (tar, sample)]
        assert "target_mask has sha256" in problems[1].message
        files.write_bytes(tar, good)
    assert _messages(files, info.id) == []


def test_a_flipped_bit_in_the_padding_is_found_too(files: Files, recipe: Recipe):
    info, tar = recipe.build(files), _tar(files)
    good = files.read_bytes(tar)
    files.write_bytes(tar, good[:-1] + b"x")
    found = _messages(files, info.id)
    assert len(found) == 1
    assert found[0].startswith(f"{tar}: {len(good)} bytes with sha256")


def test_a_missing_and_a_cut_tar_are_named_and_the_others_still_checked(files: Files, recipe: Recipe):
    info = recipe.build(files)
    first, second = _tar(files, 0), _tar(files, 1)
    files.write_bytes(second, files.read_bytes(second)[:700])
    files.remove(first)
    assert _messages(files, info.id) == [
        f"{first}: the file is missing",
        f"{second}: {second} is cut short: 501 bytes expected at byte 523, 177 are there",
    ]


def test_a_damaged_or_missing_manifest_is_named(files: Files, recipe: Recipe):
    info = recipe.build(files)
    path = f"versions/{info.id}/manifest.parquet"
    good = files.read_bytes(path)
    files.write_bytes(path, good[:-40])
    assert all(message.startswith(path) for message in _messages(files, info.id))
    assert len(_messages(files, info.id)) == 2
    files.remove(path)
    assert _messages(files, info.id)[0] == f"{path}: the file is missing"
    files.write_bytes(path, good)
    files.remove(f"versions/{info.id}/shard_files.parquet")
    assert _messages(files, info.id) == [f"versions/{info.id}/shard_files.parquet: the file is missing"]


def test_a_manifest_that_tells_another_story_is_caught_row_by_row(files: Files, recipe: Recipe, tmp_path: Any):
    info = recipe.build(files)
    other = Files(str(tmp_path / "other"))
    stranger = replace(recipe, captions=recipe.captions | {"b": "a dogs"}).build(other)
    path = f"versions/{info.id}/manifest.parquet"
    files.write_bytes(path, other.read_bytes(f"versions/{stranger.id}/manifest.parquet"))
    messages = _messages(files, info.id)
    assert messages[0].startswith(f"{path}: ")
    assert sum("names the tar" in message for message in messages) == 2
    assert sum("in the tar but not in the manifest" in message for message in messages) == 4


def test_a_place_that_is_wrong_is_caught(files: Files, recipe: Recipe):
    info, versions = recipe.build(files), VersionStore(files)
    manifest = versions.manifest(info).to_pylist()
    for entry in manifest:
        if entry["sample_id"] == "b":
            entry["tar_offset"] += 512
    data = parquet_bytes(MANIFEST.table(manifest), MANIFEST)
    files.write_bytes(f"versions/{info.id}/manifest.parquet", data)
    problems = verify_version(versions, info.id)
    assert [problem.sample_id for problem in problems] == ["", "b"]
    assert "the manifest says" in problems[1].message


def test_a_group_in_two_splits_is_a_problem(files: Files, recipe: Recipe):
    info = replace(recipe, crossing=True).build(files)
    assert _messages(files, info.id) == [f"versions/{info.id}/manifest.parquet: the group all crosses a split"]


def test_samples_that_a_sub_version_leaves_out_are_no_problem_of_it(files: Files, recipe: Recipe):
    info = recipe.build(files)
    part = VersionStore(files).subset(info.id, sample_ids=["a"])
    assert _messages(files, part.id) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.source.png", ("a", "source")), ("a.json", ("a", "json")), ("x/a.target_mask.png", ("a", "target_mask"))],
)
def test_the_name_of_a_member_says_sample_and_part(name: str, expected: tuple[str, str]):
    assert split_member(name) == expected
