"""A remote system whose put is not atomic and whose far ranges are errors: what fsspec's memory never shows."""

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage import CorruptFileError, Files, MissingFileError


class FaultySystem(MemoryFileSystem):
    """Shows files while they are written, can lose its connection half way, answers a far range with an error."""

    protocol = "faulty"
    breaks = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return "/" + str(path).removeprefix("faulty://").strip("/")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value[: len(value) // 2])
        if type(self).breaks:
            raise ConnectionError("lost")
        super().pipe_file(path, value)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if path in self.store and start and start >= self.store[path].size:
            raise OSError("416 range not satisfiable")
        return super().cat_file(path, start, end)


@pytest.fixture
def remote() -> Files:
    fsspec.register_implementation("faulty", FaultySystem, clobber=True)
    FaultySystem.store, FaultySystem.pseudo_dirs, FaultySystem.breaks = {}, [""], False
    return Files("faulty://host/data")


def test_files_go_up_and_come_down_through_the_general_interface(remote: Files, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    remote.upload(source, "a/b")
    remote.write_bytes("a/c", b"xyz")
    assert remote.list() == ["a/b", "a/c"]
    with remote.local_path("a/b") as path:
        assert path.read_bytes() == b"0123456789"
    with remote.open("a/b") as stream:
        stream.seek(4)
        assert stream.read(2) == b"45"
    assert sorted(FaultySystem.store) == ["/host/data/a/b", "/host/data/a/c"]


def test_a_connection_lost_while_writing_leaves_the_old_bytes_under_the_name(remote: Files):
    remote.write_bytes("a/b", b"the old content")
    FaultySystem.breaks = True
    with pytest.raises(ConnectionError):
        remote.write_bytes("a/b", b"the new content")
    assert remote.read_bytes("a/b") == b"the old content"
    assert list(FaultySystem.store) == ["/host/data/a/b"]


def test_the_errors_of_a_far_range_are_told_apart(remote: Files):
    remote.write_bytes("a", b"0123")
    with pytest.raises(CorruptFileError, match="cut short"):
        remote.read_range("a", 9, 1)
    with pytest.raises(MissingFileError):
        remote.read_range("b", 9, 1)
