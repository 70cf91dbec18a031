"""How WordNet's files come to the machine: cleaned, whole or not at all, whoever asks at the same time."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nltk.data
import pytest

from tasks.errors import WordNetError
from tasks.swap import wordnet
from tasks.swap.wordnet import cache_folder, find_wordnet, install_wordnet

# Of the WordNet 3.0 release: with other bytes every offset of the indexes would miss.
SIZE_OF_DATA_NOUN = 15_300_280


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_wordnet(tmp_path_factory.mktemp("cache"))


def test_the_copy_has_the_bytes_of_the_release(installed: Path) -> None:
    assert installed.parts[-2:] == ("corpora", "wordnet")
    assert (installed / "data.noun").stat().st_size == SIZE_OF_DATA_NOUN
    for name in ("data.noun", "index.noun", "index.sense", "noun.exc", "lexnames", "cntlist.rev"):
        assert b"\r" not in (installed / name).read_bytes()


def test_each_line_of_the_data_stands_where_it_says(installed: Path) -> None:
    content = (installed / "data.adj").read_bytes()
    place, checked = 0, 0
    for line in content.splitlines(keepends=True):
        if not line.startswith(b" "):
            assert int(line[:8]) == place
            checked += 1
        place += len(line)
    assert checked == 18_156  # adjective synsets of WordNet 3.0


def test_a_second_call_changes_nothing(installed: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in installed.iterdir()}
    assert install_wordnet(installed.parents[1]) == installed
    assert {file.name: file.stat().st_mtime_ns for file in installed.iterdir()} == before


def test_a_damaged_copy_is_replaced(installed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "corpora" / "wordnet"
    shutil.copytree(installed, copy)
    (copy / "data.verb").write_bytes(b"cut off")
    assert _digest(install_wordnet(tmp_path)) == _digest(installed)
    assert [path.name for path in copy.parent.iterdir()] == ["wordnet"]


def test_processes_at_the_same_time_end_with_one_whole_copy(installed: Path, tmp_path: Path) -> None:
    code = "from pathlib import Path; from tasks.swap.wordnet import install_wordnet; "
    code += f"install_wordnet(Path({str(tmp_path)!r}))"
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4
    assert _digest(tmp_path / "corpora" / "wordnet") == _digest(installed)
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["wordnet"]


def test_a_killed_process_leaves_nothing_that_counts(installed: Path, tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nfrom tasks.swap import wordnet\n"
        "def slowly(path, content):\n"
        "    path.write_bytes(content[: len(content) // 2])\n    print('half', flush=True)\n    time.sleep(600)\n"
        "wordnet._write_durably = slowly\n"
        f"wordnet.install_wordnet(Path({str(tmp_path)!r}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.send_signal(signal.SIGKILL)
    (leftover,) = (tmp_path / "corpora").iterdir()
    assert leftover.name.endswith(".partial")
    assert _digest(install_wordnet(tmp_path)) == _digest(installed)
    # A fresh leftover may belong to somebody at work; an old one goes with the next installation.
    assert leftover.exists()
    long_ago = time.time() - 7200
    os.utime(leftover, (long_ago, long_ago))
    (tmp_path / "corpora" / "wordnet" / "data.adv").unlink()
    install_wordnet(tmp_path)
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["wordnet"]


def test_a_failure_while_copying_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path), len(content))

    monkeypatch.setattr(wordnet, "_write_durably", full)
    with pytest.raises(WordNetError, match="No space left on device"):
        install_wordnet(tmp_path)
    assert list((tmp_path / "corpora").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(WordNetError, match="IEDIT_CACHE"):
        install_wordnet(tmp_path / "file")


@pytest.mark.parametrize("content", [None, b"no archive", b"half"])
def test_packed_files_that_are_missing_or_damaged_are_one_clear_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "wordnet-3.0.tar.xz"
    if content is not None:
        packed.write_bytes(wordnet._PACKED.read_bytes()[:3_000_000] if content == b"half" else content)
    monkeypatch.setattr(wordnet, "_PACKED", packed)
    with pytest.raises(WordNetError, match=r"missing or damaged .*: install iedit again"):
        install_wordnet(tmp_path / "cache")
    assert list((tmp_path / "cache" / "corpora").iterdir()) == []


def test_the_licence_goes_with_every_copy(installed: Path) -> None:
    licence = (installed / "LICENSE").read_text()
    assert "Permission to use, copy, modify and distribute" in licence
    notices = (Path(wordnet.__file__).parents[2] / "THIRD_PARTY_NOTICES.md").read_text()
    assert [line.rstrip() for line in licence.strip().splitlines()] == notices.split("```text\n")[1].split("\n```")[
        0
    ].splitlines()


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IEDIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("IEDIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "iedit"


def test_nltks_own_data_folder_comes_first(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(installed.parents[1])])
    assert find_wordnet(tmp_path / "unused") == installed
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("fault", ["other version", "carriage returns", "file missing", "none there"])
def test_a_data_folder_of_no_use_is_passed_over(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    theirs = tmp_path / "nltk_data" / "corpora" / "wordnet"
    if fault != "none there":
        theirs.mkdir(parents=True)
        for file in installed.iterdir():
            (theirs / file.name).symlink_to(file)
    header = (installed / "data.adj").read_bytes()[:5000]
    if fault == "file missing":
        (theirs / "index.sense").unlink()
    elif fault != "none there":
        (theirs / "data.adj").unlink()
        changed = header.replace(b"3.0", b"3.1") if fault == "other version" else header.replace(b"\n", b"\r\n")
        (theirs / "data.adj").write_bytes(changed)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    assert find_wordnet(installed.parents[1]) == installed


def test_the_marker_lists_every_file(installed: Path) -> None:
    sizes = json.loads((installed / ".complete.json").read_text(encoding="utf-8"))
    assert sizes == {f.name: f.stat().st_size for f in installed.iterdir() if f.name != ".complete.json"}
