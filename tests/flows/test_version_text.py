"""Versions as a person names and reads them."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from flows.reporting.version_text import find_version, funnel_lines, latest_version, lineage_lines, table_lines
from storage import Files, UnknownVersionError, VersionStore
from storage.lineage import version_id
from tests.storage.conftest import CAPTIONS, Recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of which the first by name need not be the first by time."""
    folder = tmp_path_factory.mktemp("versions")
    for captions in (CAPTIONS, CAPTIONS | {"f": "a house"}):
        Recipe(captions=captions).build(Files(str(folder)))
    return folder


@pytest.fixture
def versions(root: Path) -> VersionStore:
    return VersionStore(Files(str(root)))


def test_the_latest_version_is_the_one_written_last_whatever_its_name(root, versions):
    names = versions.list()
    assert len(names) == 2
    for offset, wanted in enumerate((names[0], names[1], names[0])):
        now = time.time() + 100 * (offset + 1)
        os.utime(root / "versions" / wanted / "version.json", (now, now))
        assert latest_version(versions) == wanted
        assert find_version(versions, "latest").id == wanted


def test_a_version_is_found_by_the_beginning_of_its_id(versions):
    for name in versions.list():
        assert find_version(versions, name).id == name
        assert find_version(versions, name[:8]).id == name


@pytest.mark.parametrize("name", ["", "zz", "../..", "nothing"])
def test_an_unknown_name_is_an_error(versions, name):
    with pytest.raises(UnknownVersionError):
        find_version(versions, name)


def test_without_any_version_the_error_says_how_to_get_one(tmp_path):
    with pytest.raises(UnknownVersionError, match="iedit build"):
        find_version(VersionStore(Files(str(tmp_path))), "latest")


def test_the_funnel_has_a_line_a_stage_with_counts_and_reasons(versions):
    info = find_version(versions, "latest")
    head, *rows = funnel_lines(info)
    assert head.split() == ["stage", "in", "out", "dropped"]
    told = {row.split()[0]: row.split() for row in rows}
    for record in info.stages:
        assert told[record.stage][1:3] == [f"{record.num_in:,}", f"{record.num_out:,}"]
        for reason, count in record.dropped.items():
            assert f"{reason} {count}" in " ".join(told[record.stage])
    assert told["caption"][3:] == ["empty_caption", "1"]
    assert told["pack"][3:] == ["-"]


def test_the_most_frequent_reason_comes_first(versions):
    info = find_version(versions, "latest")
    counts = {"num_in": 1_210, "num_out": 1_000, "dropped": {"a": 5, "b": 200, "c": 5}}
    stages = (dataclasses.replace(info.stages[0], **counts),)
    name = version_id(input_digest=info.input_digest, stages=stages)
    info = dataclasses.replace(info, id=name, stages=stages)
    assert funnel_lines(info)[1].endswith("1,210  1,000  b 200, a 5, c 5")


def test_the_lineage_names_what_made_the_version(versions):
    info = find_version(versions, "latest")
    lines = list(lineage_lines(info))
    assert lines[0] == "input     input"
    (caption,) = [line for line in lines if line.startswith("caption")]
    assert "code 1" in caption
    assert "model blip" in caption
    assert len(lines) == 1 + len(info.stages)


def test_the_lineage_of_a_part_names_the_whole_and_the_filter(versions):
    whole = find_version(versions, "latest")
    part = versions.subset(whole.id, where="split == 'train'")
    assert f"part of   {whole.id}, where split == 'train'" in list(lineage_lines(part))


def test_columns_are_aligned_and_lines_have_no_tail():
    lines = table_lines(("name", "count"), [("a", "1"), ("longer", "1,000")], right=(1,))
    assert lines == ["name    count", "a           1", "longer  1,000"]
    assert table_lines(("a", "b"), [("x", "")]) == ["a  b", "x"]
