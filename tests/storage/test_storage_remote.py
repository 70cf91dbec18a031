"""A remote system whose put is not atomic and whose far ranges are errors: what fsspec's memory never shows."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from flows.checks import check_writable
from storage import AddressError, CorruptFileError, Files, MissingFileError, RemoteError
from storage.remote import open_system
from tasks.errors import MetadataError
from tasks.plan.metadata import Metadata


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
    with pytest.raises(RemoteError):
        remote.write_bytes("a/b", b"the new content")
    assert remote.read_bytes("a/b") == b"the old content"
    assert list(FaultySystem.store) == ["/host/data/a/b"]


def test_the_errors_of_a_far_range_are_told_apart(remote: Files):
    remote.write_bytes("a", b"0123")
    with pytest.raises(CorruptFileError, match="cut short"):
        remote.read_range("a", 9, 1)
    with pytest.raises(MissingFileError):
        remote.read_range("b", 9, 1)


class StrangeError(Exception):
    """What botocore, aiohttp, gcsfs or paramiko may raise: no OSError, and nowhere documented."""


class NoCredentialsError(Exception):
    """Named as botocore names it."""


class BrokenSystem(FaultySystem):
    """Every call and every read of a stream raises."""

    protocol = "broken"
    raised: type[Exception] = StrangeError

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise type(self).raised("of a library")

    info = find = isdir = exists = glob = pipe_file = put_file = get_file = cat_file = rm_file = mv = _raise


@pytest.mark.parametrize("raised", [StrangeError, RuntimeError, KeyError, TimeoutError, OSError, RecursionError])
def test_whatever_a_foreign_system_raises_is_one_error_with_the_address(raised: type[Exception], tmp_path: Path):
    fsspec.register_implementation("broken", BrokenSystem, clobber=True)
    BrokenSystem.raised = raised
    files = Files("broken://user:secret@host/data")
    (tmp_path / "x").write_bytes(b"x")
    calls = [
        lambda: files.write_bytes("a", b""),
        lambda: files.upload(tmp_path / "x", "a"),
        lambda: files.read_bytes("a"),
        lambda: files.read_range("a", 0, 1),
        lambda: files.size("a"),
        files.stats,
        lambda: files.remove("a"),
        lambda: Metadata("broken://user:secret@host/data"),
    ]
    for call in calls:
        with pytest.raises(RemoteError, match=r"cannot use broken://\*\*\*@host/data") as caught:
            call()
        assert "secret" not in str(caught.value)


def test_a_lost_connection_in_the_middle_of_a_stream_names_the_address(remote: Files, monkeypatch: pytest.MonkeyPatch):
    remote.write_bytes("a", b"0123456789")
    with remote.open("a") as stream, monkeypatch.context() as patch:
        assert stream.read(3) == b"012"
        patch.setattr(MemoryFile, "read", lambda *_: (_ for _ in ()).throw(StrangeError("gone")))
        with pytest.raises(RemoteError, match="cannot use faulty://host/data: gone"):
            stream.read(3)


def test_missing_credentials_and_packages_say_what_to_do(monkeypatch: pytest.MonkeyPatch):
    fsspec.register_implementation("broken", BrokenSystem, clobber=True)
    monkeypatch.setattr(BrokenSystem, "raised", NoCredentialsError)
    with pytest.raises(AddressError, match=r"broken://host.*give credentials"):
        Files("broken://host").list()
    with pytest.raises(MetadataError, match=r"nosuch://host"):
        Metadata("nosuch://host/x")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    elsewhere = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    for name, value in (elsewhere | {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}).items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("s3fs")
    with pytest.raises(MetadataError, match=r"s3://bucket/x\.parquet.*credentials"):
        Metadata("s3://bucket/x.parquet")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://[::1/x", "Invalid IPv6 URL: check the address"),
        ("abfs://container/x", "adlfs.*install that package"),
        ("foo://x", "Protocol not known: foo: check the address"),
    ],
)
def test_an_address_that_cannot_be_one_says_what_to_do(address: str, words: str):
    with pytest.raises(AddressError, match=words):
        open_system(address)


class ReadingSystem(MemoryFileSystem):
    """Cannot be written, as most of fsspec's systems."""

    protocol = "reading"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        raise NotImplementedError


def test_a_system_for_reading_alone_is_told_before_anything_is_built():
    fsspec.register_implementation("reading", ReadingSystem, clobber=True)
    with pytest.raises(AddressError, match="can only be read"):
        check_writable("reading://host/data", "root")


def test_nothing_stays_behind_where_an_address_was_tried(remote: Files):
    check_writable("faulty://host/data", "root")
    assert FaultySystem.store == {}
