"""Versions as users name and read them."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from benchmarks.true_pair_version import build_version, true_pairs
from flows.cli.main import main
from flows.reporting.version_text import find_version, funnel_lines, latest_version, lineage_lines, table_lines
from storage import Files, ShardStore, UnknownVersionError, VersionStore
from storage.lineage import version_id
from tasks.dataset.takedown import TakedownList, take_down
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


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A full version, and a subset and a takedown of it that were written later."""
    folder = tmp_path_factory.mktemp("parts")
    store = ShardStore.at(str(folder))
    versions = VersionStore(store.files)
    full = build_version(store, true_pairs(6))
    subset = versions.subset(full.id, where="split == 'train'")
    url = versions.manifest(full)["url"][0].as_py()
    takedown = take_down(versions, full.id, TakedownList(urls=frozenset({url}))).version
    for number, part in enumerate((subset, takedown)):
        os.utime(folder / "versions" / part.id / "version.json", (4e9 + number, 4e9 + number))
    assert len({full.id, subset.id, takedown.id}) == 3
    return folder, full.id


def test_latest_is_the_newest_full_version_and_no_subset_and_no_takedown(parts):
    folder, full = parts
    assert latest_version(VersionStore(Files(str(folder)))) == full


NAMES_A_VERSION = (
    ["datasets", "show", "latest"],
    ["datasets", "diff", "latest", "latest"],
    ["datasets", "verify", "latest"],
    ["datasets", "card", "latest"],
    ["datasets", "subset", "latest", "--where", "split == 'train'"],
    ["datasets", "takedown", "latest", "LIST"],
    ["gallery", "latest", "-o", "PAGE"],
    ["train", "-o", "RUN", "--no-flow"],
    ["evaluate", "--version", "latest", "--checkpoint", "a", "--checkpoint", "b"],
)
WITH_JSON = tuple([*arguments, "--json"] for arguments in NAMES_A_VERSION if arguments[0] in ("datasets", "train"))


@pytest.mark.parametrize("arguments", [*NAMES_A_VERSION, *WITH_JSON])
def test_what_latest_resolves_to_is_the_first_line(arguments, parts, tmp_path, capfd):
    folder, full = parts
    places = {"LIST": tmp_path / "list.txt", "PAGE": tmp_path / "page.html", "RUN": tmp_path / "run"}
    places["LIST"].write_text("http://127.0.0.1/nothing.png\n")
    command = [str(places.get(word, word)) for word in arguments]
    # A training and an evaluation that cannot start: what they take is printed all the same.
    more = ["--set", "train.rows.where=\"split == 'nothing'\""] if arguments[0] == "train" else []
    main([*command, *more, "--root", str(folder)])
    captured = capfd.readouterr()
    first = (captured.err if "--json" in arguments else captured.out).splitlines()[0]
    assert first.startswith(f"version {full}: 6 pairs, ")


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
