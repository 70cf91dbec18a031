import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from storage import (
    CorruptFileError,
    Files,
    ForbiddenMemberError,
    TruncatedTarError,
    iter_tar,
    read_tar_member,
    write_tar,
)
from storage import tars as tars_module

MEMBERS = [("a.source.png", b"picture"), ("a.json", b"{}"), ("b.source.png", bytes(1000)), ("b.json", b"")]

_members = st.dictionaries(
    st.from_regex(r"[a-z0-9_]{1,8}(\.[a-z]{1,5}){1,2}", fullmatch=True), st.binary(max_size=1500), max_size=6
)


def _written(folder: Path, members: object = MEMBERS) -> bytes:
    write_tar(folder / "x.tar", members)  # pyright: ignore[reportArgumentType]
    return (folder / "x.tar").read_bytes()


def _read(data: bytes, **options: int) -> dict[str, bytes]:
    return {member.name: content for member, content in iter_tar(io.BytesIO(data), name="x.tar", **options)}


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(info)
    assert stream is not None
    return stream.read()


@given(_members)
def test_what_is_written_comes_back_from_our_reader_and_from_the_standard_librarys(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
):
    data = _written(tmp_path_factory.getbasetemp(), members.items())
    assert _read(data) == members
    with tarfile.open(fileobj=io.BytesIO(data)) as theirs:
        assert {info.name: _content(theirs, info) for info in theirs} == members
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) for info in theirs} <= {
            (0, 0, 0, "", "", 0o644)
        }


def test_the_index_says_where_each_member_lies_and_what_it_is(files: Files, tmp_path: Path):
    tar = write_tar(tmp_path / "x.tar", MEMBERS)
    data = tar.path.read_bytes()
    assert (tar.size, tar.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    files.upload(tar.path, "t/x.tar")
    with tarfile.open(tar.path) as theirs:
        for member, (name, content) in zip(tar.members, MEMBERS, strict=True):
            assert member.name == name
            assert (member.offset, member.start) == (theirs.getmember(name).offset_data, theirs.getmember(name).offset)
            assert member.sha256 == hashlib.sha256(content).hexdigest()
            assert read_tar_member(files, "t/x.tar", member.offset, member.size, sha256=member.sha256) == content
    assert [member for member, _ in iter_tar(io.BytesIO(data), name="x")] == list(tar.members)
    with pytest.raises(CorruptFileError, match="sha256"):
        read_tar_member(files, "t/x.tar", tar.members[0].offset + 1, 7, sha256=tar.members[0].sha256)
    with pytest.raises(CorruptFileError, match="cut short"):
        read_tar_member(files, "t/x.tar", tar.size - 3, 7)


@pytest.mark.parametrize("sizes", [(5_000_000, 3, 700_000), (1 << 20,), (400_000,) * 9])
def test_a_tar_of_many_blocks_is_the_standard_librarys_and_its_hash_is_of_all_its_bytes(
    tmp_path: Path, sizes: tuple[int, ...]
):
    members = [(f"{number}.bin", bytes([number, 7]) * (size // 2)) for number, size in enumerate(sizes)]
    tar = write_tar(tmp_path / "x.tar", iter(members))
    data = tar.path.read_bytes()
    assert (tar.size, tar.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert data == theirs.getvalue()


def test_a_samples_members_are_one_range(tmp_path: Path):
    tar = write_tar(tmp_path / "x.tar", MEMBERS)
    start, end = tar.members[2].start, tar.members[3].end
    sample = tar.path.read_bytes()[start:end] + bytes(1024)
    assert _read(sample) == dict(MEMBERS[2:])
    assert tar.members[1].end == start


def test_the_bytes_never_change(tmp_path: Path):
    data = _written(tmp_path)
    assert len(data) == tarfile.RECORDSIZE
    assert data == _written(tmp_path, iter(MEMBERS))
    assert hashlib.sha256(data).hexdigest() == "56864011e85ca0f6a68ede49ab3387037977650161c1b0c16b2ffca49603dbfe"
    code = f"""
import hashlib, pathlib, storage
print(storage.write_tar(pathlib.Path({str(tmp_path / "y.tar")!r}), {MEMBERS!r}).sha256)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "3"}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == hashlib.sha256(data).hexdigest()


@given(_members)
def test_the_bytes_are_those_of_webdatasets_own_writer(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
):
    theirs = io.BytesIO()
    with webdataset.TarWriter(theirs, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for name, data in members.items():
            key, _, ending = name.partition(".")
            writer.write({"__key__": key, ending: data})
    assert _written(tmp_path_factory.getbasetemp(), members.items()) == theirs.getvalue()


def test_gnu_tar_and_webdataset_read_it(tmp_path: Path):
    _written(tmp_path)
    if shutil.which("tar"):
        listing = subprocess.run(["tar", "tf", "x.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert listing.stdout.split() == [name for name, _ in MEMBERS]
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [(sample["__key__"], sample["source.png"], sample["json"]) for sample in samples] == [
        ("a", b"picture", b"{}"),
        ("b", bytes(1000), b""),
    ]


def test_every_cut_is_noticed_though_the_standard_library_ends_silently(tmp_path: Path):
    data = _written(tmp_path)
    end = 512 + 512 + 512 + 512 + 512 + 1024 + 512  # headers and padded contents: then come two blocks of zeros
    for size in (0, 1, 511, 512, 1000, 1024, 1536, 2100, end, end + 512, end + 1023):
        with pytest.raises(TruncatedTarError, match=r"x\.tar is cut short"):
            _read(data[:size])
    assert len(_read(data[: end + 1024])) == 4
    with tarfile.open(fileobj=io.BytesIO(data[:1024])) as theirs:  # why we do not leave this to tarfile
        assert theirs.getnames() == ["a.source.png"]


def test_a_broken_header_is_damage_wherever_it_stands(tmp_path: Path):
    data = bytearray(_written(tmp_path))
    data[1024 + 3] ^= 1
    with pytest.raises(CorruptFileError, match="broken header at byte 1024"):
        _read(bytes(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as theirs:  # it ends there without a word
        assert theirs.getnames() == ["a.source.png"]
    data = _written(tmp_path)
    with pytest.raises(CorruptFileError, match="after an end marker at byte 1024"):
        _read(data[:1024] + bytes(512) + data[1024:])


def _foreign(name: str = "a.txt", kind: bytes = tarfile.REGTYPE, *, form: int = tarfile.USTAR_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd", 3 if kind == tarfile.REGTYPE else 0
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        tar.addfile(info, io.BytesIO(b"abc"))
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_folders_and_devices_are_never_read(kind: bytes):
    with pytest.raises(ForbiddenMemberError, match="only regular files"):
        _read(_foreign(kind=kind))


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\b", "a\nb", "*.png"])
def test_names_that_could_leave_the_folder_are_refused_in_reading_and_writing(name: str, tmp_path: Path):
    with pytest.raises(ForbiddenMemberError, match="not safe"):
        _read(_foreign(name))
    with pytest.raises(ForbiddenMemberError, match="not safe"):
        _written(tmp_path, [(name, b"")])


def test_extended_headers_are_refused():
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with pytest.raises(ForbiddenMemberError):
            _read(_foreign("a" * 150, form=form))


def test_names_that_come_twice_or_are_too_long_are_refused(tmp_path: Path):
    with pytest.raises(ForbiddenMemberError, match="twice"):
        _written(tmp_path, [("a", b"1"), ("a", b"2")])
    one = _foreign()[:1024]
    with pytest.raises(ForbiddenMemberError, match="twice"):
        _read(one + one + bytes(1024))
    for name in ("a" * 101, "ü.png"):
        with pytest.raises(ForbiddenMemberError, match="ASCII of at most 100"):
            _written(tmp_path, [(name, b"")])


def test_an_oversize_member_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    stream = Counting(_written(tmp_path))
    with pytest.raises(ForbiddenMemberError, match="1000 bytes, more than the 999"):
        list(iter_tar(stream, name="x", max_member_bytes=999))
    assert stream.taken == 512 * 5
    monkeypatch.setattr(tars_module, "MAX_MEMBER_BYTES", 999)
    with pytest.raises(ForbiddenMemberError, match="more than the 999"):
        _written(tmp_path)


def test_a_negative_size_does_not_read_to_the_end():
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" * 12  # base 256: -1
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    with pytest.raises(CorruptFileError, match="of -1 bytes"):
        _read(bytes(header) + bytes(4096))


@given(st.binary(max_size=2000))
def test_any_bytes_at_all_give_members_or_a_named_error(data: bytes):
    is_empty_archive = data[:1024] == bytes(1024)
    with contextlib.nullcontext() if is_empty_archive else pytest.raises(CorruptFileError, match=r"x\.tar"):
        assert list(iter_tar(io.BytesIO(data), name="x.tar")) == []


@given(
    st.from_regex(r"[a-z0-9][a-z0-9_.]{0,99}", fullmatch=True).filter(lambda name: ".." not in name),
    st.integers(0, 2**30),
)
def test_headers_are_those_of_the_standard_library(name: str, size: int):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert tars_module._header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
