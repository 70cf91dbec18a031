import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from storage import AddressError, CorruptFileError, Files, MissingFileError


def test_what_is_written_is_read_whole_or_in_ranges(files: Files):
    files.write_bytes("a/b.bin", b"0123456789")
    assert files.read_bytes("a/b.bin") == b"0123456789"
    assert files.read_range("a/b.bin", 3, 4) == b"3456"
    assert files.read_range("a/b.bin", 10, 0) == b""
    with files.open("a/b.bin") as stream:
        stream.seek(8)
        assert stream.read() == b"89"
    assert files.size("a/b.bin") == 10


def test_an_empty_file_is_a_file(files: Files):
    files.write_bytes("empty", b"")
    assert files.size("empty") == 0
    assert files.exists("empty")
    assert files.read_bytes("empty") == b""


def test_a_second_write_replaces_the_first(files: Files):
    files.write_bytes("a", b"a long content")
    files.write_bytes("a", b"short")
    assert files.read_bytes("a") == b"short"


def test_a_missing_file_has_its_own_error_with_its_address(files: Files):
    files.write_bytes("folder/x", b"1")
    for path in ("none", "folder", "folder/x/y"):
        assert files.size(path) is None
        with pytest.raises(MissingFileError, match=path):
            files.read_bytes(path)
        with pytest.raises(MissingFileError), files.open(path):
            pass
        with pytest.raises(MissingFileError), files.local_path(path):
            pass
        with pytest.raises(MissingFileError):
            files.read_range(path, 0, 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 11), (9, 2), (20, 1)])
def test_a_range_past_the_end_is_damage_and_not_a_shorter_answer(files: Files, offset: int, size: int):
    files.write_bytes("a", b"0123456789")
    with pytest.raises(CorruptFileError, match="cut short"):
        files.read_range("a", offset, size)
    with pytest.raises(AddressError):
        files.read_range("a", -1, 2)


def test_a_file_larger_than_allowed_is_not_taken_into_memory(files: Files):
    files.write_bytes("a", b"0123456789")
    assert files.read_bytes("a", max_bytes=10) == b"0123456789"
    with pytest.raises(CorruptFileError, match="more than the 9 bytes"):
        files.read_bytes("a", max_bytes=9)


def test_a_listing_is_sorted_and_of_its_folder_alone(files: Files):
    for path in ("b/2", "b/1", "b/c/0", "bb/1", "a"):
        files.write_bytes(path, b"x")
    assert files.list() == ["a", "b/1", "b/2", "b/c/0", "bb/1"]
    assert files.list("b") == ["b/1", "b/2", "b/c/0"]
    assert files.list("none") == []


def test_removing_a_tree_leaves_its_neighbours(files: Files):
    for path in ("b/1", "b/c/0", "bb/1"):
        files.write_bytes(path, b"x")
    files.remove_tree("b")
    files.remove_tree("b")
    files.remove("none")
    assert files.list() == ["bb/1"]


def test_an_uploaded_file_is_a_copy_and_a_scratch_file_becomes_the_file_itself(files: Files, tmp_path: Path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"kept")
    files.upload(source, "a/copy.bin")
    source.write_bytes(b"changed")
    assert files.read_bytes("a/copy.bin") == b"kept"
    with files.scratch("a/made.bin") as partial:
        partial.write_bytes(b"made")
        inode = partial.stat().st_ino
        files.upload(partial, "a/made.bin")
    assert files.read_bytes("a/made.bin") == b"made"
    assert files.list() == ["a/copy.bin", "a/made.bin"]
    if files.is_local:
        assert (Path(files.root) / "a/made.bin").stat().st_ino == inode


def test_a_local_path_is_the_file_itself_or_a_copy_that_goes_away(files: Files):
    files.write_bytes("a/b.bin", b"0123")
    with files.local_path("a/b.bin") as path:
        assert path.read_bytes() == b"0123"
        assert path.name == "b.bin"
    assert path.exists() == files.is_local


def test_times_of_files_are_recent(files: Files):
    files.write_bytes("a", b"x")
    stat = files.stats()["a"]
    assert stat.size == 1
    assert abs(stat.modified - time.time()) < 60


def test_readers_of_one_file_do_not_disturb_each_other(files: Files):
    files.write_bytes("a", b"0123456789")
    with files.open("a") as one, files.open("a") as other:
        assert one.read(5) == b"01234"
        assert other.read(5) == b"01234"
        assert one.read(5) == b"56789"


def test_a_reader_sees_the_old_bytes_or_the_new_ones_while_another_thread_writes(files: Files):
    contents = {bytes([letter]) * 50_000 for letter in b"abc"}
    files.write_bytes("a", b"a" * 50_000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                files.write_bytes("a", content)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {files.read_bytes("a") for _ in range(100)}
    stop.set()
    writer.join()
    assert seen <= contents


def test_a_store_can_go_to_another_process_and_equals_another_spelling_of_its_root(tmp_path: Path):
    store = Files(f"{tmp_path}/x/../store/")
    store.write_bytes("a", b"1")
    assert store == Files(f"file://{tmp_path}/store")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
        assert workers.submit(store.read_bytes, "a").result(timeout=60) == b"1"


def test_a_store_without_its_driver_says_what_is_missing():
    with pytest.raises(AddressError, match="notascheme"):
        Files("notascheme://bucket/x").read_bytes("a")


def test_links_out_of_a_tree_are_not_followed_when_it_is_removed(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    store = Files(str(tmp_path / "store"))
    store.write_bytes("a/1", b"x")
    (tmp_path / "store" / "a" / "link").symlink_to(outside)
    (tmp_path / "store" / "b").symlink_to(outside)
    store.remove_tree("a")
    store.remove_tree("b")
    assert (outside / "precious").read_bytes() == b"x"
    assert store.list() == []


def test_an_unreachable_disk_is_not_mistaken_for_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Files(str(tmp_path))
    store.write_bytes("a", b"0123")

    def unplugged(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", unplugged)
    with pytest.raises(OSError, match="Input/output error"):
        store.read_range("a", 0, 2)


def test_only_empty_folders_are_removed(tmp_path: Path):
    store = Files(str(tmp_path))
    store.write_bytes("a/b/c", b"x")
    (tmp_path / "a" / "d" / "e").mkdir(parents=True)
    store.remove_empty_folders("a")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["a", "a/b", "a/b/c"]
