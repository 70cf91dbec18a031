import errno
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from storage import DiskFullError, Files, MissingFileError, write_tar
from storage.atomic import create_bytes, disk_errors, is_disk_full, partial_beside, replace_bytes, sweep_partials
from storage.errors import OutputExistsError
from tasks.index.index_rows import _mapped, save_array
from tasks.train.train_log import TensorBoardSink
from tests.builders.small_disk import small_disk


def _hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("call", ["write_bytes", "fsync", "replace"])
def test_a_fault_at_any_step_leaves_the_old_content_and_no_litter(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.json"
    replace_bytes(path, b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "unplugged")

    monkeypatch.setattr(Path if call != "fsync" else os, call, fail)
    with pytest.raises(OSError, match="unplugged"):
        replace_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert _hidden(tmp_path) == []


def test_bytes_reach_the_disk_before_their_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps = []
    sync, rename = os.fsync, Path.replace

    def logged_sync(descriptor: int) -> None:
        steps.append(f"sync {'folder' if Path(f'/proc/self/fd/{descriptor}').is_dir() else 'file'}")
        sync(descriptor)

    def logged_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", logged_sync)
    monkeypatch.setattr(Path, "replace", logged_rename)
    replace_bytes(tmp_path / "a", b"x")
    assert steps == ["sync file", "rename", "sync folder"]


def test_a_full_disk_has_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match="free some space"):
        replace_bytes(tmp_path / "a", b"x")


def _by_faiss(path: Path) -> None:
    index = faiss.IndexFlatIP(64)
    index.add(np.zeros((10_000, 64), np.float32))
    faiss.write_index(index, str(path))


def _by_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE t (a)")
        base.execute("INSERT INTO t VALUES (zeroblob(2000000))")


def _by_tensorboard(path: Path) -> None:
    sink = TensorBoardSink(path.parent / "events", first_step=0)
    for step in range(200_000):
        sink.write(step, {"loss": 0.5, "term_edit": 1.0, "part_edit": 1.0})
    sink.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(2 << 20)),
        lambda path: save_file({"a": np.zeros(1 << 20)}, path),
        lambda path: save_array(path, np.zeros(1 << 20)),
        lambda path: pq.write_table(pa.table({"a": np.random.default_rng(0).random(1 << 20)}), path),
        lambda path: _mapped(path, (1 << 20, 2)),
        lambda path: write_tar(path, [("a.bin", bytes(2 << 20))]),
        _by_faiss,
        _by_sqlite,
        _by_tensorboard,
    ],
    ids=["plain", "safetensors", "npy", "parquet", "mapped", "tar", "faiss", "sqlite", "tensorboard"],
)
def test_every_library_that_writes_for_us_says_that_the_disk_is_full(write: Callable[[Path], object], tmp_path: Path):
    with small_disk(tmp_path / "disk", 1 << 20):
        for name in ("a", "b"):  # the second finds no room at all
            path = tmp_path / "disk" / name
            with pytest.raises(DiskFullError, match="free some space"), disk_errors(path):
                write(path)


def test_a_limit_on_the_size_of_a_file_is_no_room_either():
    assert is_disk_full(OSError(errno.EFBIG, "File too large"))
    assert is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_disk_full(OSError(errno.EIO, "Input/output error"))


def _leave_a_partial_behind(path: Path) -> None:
    child = os.fork()
    if child == 0:
        with partial_beside(path) as partial:
            partial.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_only_what_dead_processes_left_is_swept(tmp_path: Path):
    _leave_a_partial_behind(tmp_path / "00001.tar")
    _leave_a_partial_behind(tmp_path / "00002.tar")
    assert len(_hidden(tmp_path)) == 2
    with partial_beside(tmp_path / "00001.tar") as mine:
        swept = sweep_partials(tmp_path, prefix="00001.")
        assert [path.name.startswith(".00001.tar.") for path in swept] == [True]
        assert mine.exists()
        assert len(_hidden(tmp_path)) == 2
    assert [name.startswith(".00002.tar.") for name in _hidden(tmp_path)] == [True]


def test_a_partial_file_is_no_file_of_the_store(tmp_path: Path):
    store = Files(str(tmp_path))
    with store.scratch("a/b.tar") as partial:
        partial.write_bytes(b"half")
        assert store.list() == []
        assert len(store.stats()) == 1
        with pytest.raises(MissingFileError):
            store.read_bytes("a/b.tar")
    assert store.stats() == {}


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("there", ["file", "folder", "link", "dangling link"])
def test_what_is_at_a_place_that_a_user_named_stays(
    there: str, has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, target = tmp_path / "page.html", tmp_path / "target"
    target.write_text("mine")
    if there == "file":
        path.write_text("mine")
    elif there == "folder":
        path.mkdir()
    else:
        path.symlink_to(target if there == "link" else tmp_path / "nowhere")

    def no_links(*names: object) -> None:
        raise OSError(errno.EPERM, "no hard links", str(names))

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    before = os.lstat(path)
    with pytest.raises(OutputExistsError, match="name another file"):
        create_bytes(path, b"ours")
    assert os.lstat(path)[:8] == before[:8]
    assert target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert _hidden(tmp_path) == []
    create_bytes(tmp_path / "new.html", b"ours")
    assert (tmp_path / "new.html").read_bytes() == b"ours"


def test_the_same_bytes_again_are_no_error(tmp_path: Path):
    for _ in range(2):
        create_bytes(tmp_path / "page.html", b"ours")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
