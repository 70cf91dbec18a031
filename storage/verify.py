"""Is a dataset version still what was written? All files that led to it and all rows of its manifest are read again."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from storage.errors import CorruptFileError, MissingFileError, SchemaError
from storage.lineage import VersionInfo
from storage.reports import FileEntry, ShardReport, file_path, marker_path
from storage.tables import SAMPLE_PARTS, TableSchema, validated
from storage.tars import TarMember, iter_tar
from storage.versions import FOLDER, VersionStore, manifest_path

if TYPE_CHECKING:
    import pyarrow as pa

_READ_BYTES = 1 << 20
_PLACE = ("sample_id", "tar_offset", "tar_size", *(f"{part}_member_sha256" for part in SAMPLE_PARTS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is not as it was written: the file, the sample if it is one, and what is wrong."""

    path: str
    message: str
    sample_id: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {f'sample {self.sample_id}: ' if self.sample_id else ''}{self.message}"


def verify_version(versions: VersionStore, version: str) -> list[Problem]:
    """Read every file of a version again and return all that is wrong with it; an empty list means that it is whole.

    Checked: size and sha256 of the manifest, the list of shard files and each tar; the manifest against its schema; the
    place and the hash of every member of every sample; samples in a tar that the manifest does not know (unless the
    version is a part of another); groups that cross a split; the marker and every file of each shard of each stage.

    Raises:
        UnknownVersionError: there is no such version.
        CorruptFileError: its ``version.json`` is damaged.
    """
    info = versions.load(version)
    problems = list(_shard_problems(versions, info))
    tars = [path for path in info.files if path.endswith(".tar")]
    for path in sorted(info.files.keys() - set(tars)):
        problems.extend(_file_problems(versions, path, info.files[path]))
    try:
        manifest = versions.manifest(info)
        manifest = validated(manifest, TableSchema.of(manifest.schema))
    except (MissingFileError, CorruptFileError, SchemaError) as error:
        return [*problems, Problem(path=manifest_path(info.id), message=str(error))]
    problems.extend(_manifest_problems(info, manifest))
    for path in sorted(tars):
        problems.extend(_tar_problems(versions, info, path, _rows_of(manifest, path)))
    return problems


def repair(versions: VersionStore, problems: Iterable[Problem]) -> list[str]:
    """Remove the damaged files of stages, so that the next build makes them again, and return their paths.

    A version's own files stay: the build that wrote it compares and renews them.
    """
    paths = sorted({problem.path for problem in problems if not problem.path.startswith(f"{FOLDER}/")})
    for path in paths:
        versions.files.remove(path)
    return paths


def _shard_problems(versions: VersionStore, info: VersionInfo) -> Iterator[Problem]:
    """Read what the stages wrote for a version, but for its tars; a list that is damaged itself is found elsewhere."""
    try:
        rows = versions.shard_files(info).to_pylist()
    except (MissingFileError, CorruptFileError):
        return
    files: dict[str, FileEntry] = {}
    for place in sorted({(row["stage"], row["fingerprint"], row["shard"]) for row in rows}):
        path = marker_path(*place)
        try:
            report = ShardReport.from_json(versions.files.read_bytes(path))
        except MissingFileError:
            yield Problem(path=path, message="the file is missing")
            continue
        except CorruptFileError as error:
            yield Problem(path=path, message=str(error))
            continue
        if (report.stage, report.fingerprint, report.shard) != place:
            yield Problem(path=path, message=f"it is the marker of {report.name} under {report.fingerprint}")
        files |= {report.path(name): entry for name, entry in report.files.items()}
    for row in rows:  # a shard that was done anew has other files by now than those that led to the version
        path = file_path(row["stage"], row["fingerprint"], row["shard"], row["name"], row["sha256"])
        files[path] = FileEntry(size=row["size"], sha256=row["sha256"])
    for path in sorted(files.keys() - info.files.keys()):
        yield from _file_problems(versions, path, files[path])


def _file_problems(versions: VersionStore, path: str, entry: FileEntry) -> Iterator[Problem]:
    try:
        with versions.files.open(path) as stream:
            reader = _HashingReader(stream)
            reader.drain()
    except MissingFileError:
        yield Problem(path=path, message="the file is missing")
        return
    yield from reader.problems(path, entry)


def _manifest_problems(info: VersionInfo, manifest: "pa.Table") -> Iterator[Problem]:
    path = manifest_path(info.id)
    if manifest.num_rows != info.num_samples:
        yield Problem(path=path, message=f"it has {manifest.num_rows} rows, expected {info.num_samples}")
    for tar in sorted(set(manifest["tar"].unique().to_pylist()) - info.files.keys()):
        yield Problem(path=path, message=f"it names the tar {tar}, which the version does not list")
    pairs = manifest.select(["group_id", "split"]).group_by(["group_id", "split"]).aggregate([])
    counts = pairs.group_by("group_id").aggregate([("split", "count")]).to_pylist()
    for crossing in sorted(entry["group_id"] for entry in counts if entry["split_count"] > 1):
        yield Problem(path=path, message=f"the group {crossing} crosses a split")


def _rows_of(manifest: "pa.Table", tar: str) -> dict[str, dict[str, Any]]:
    import pyarrow.compute as pc

    rows = manifest.filter(pc.field("tar") == tar).select(list(_PLACE)).to_pylist()
    return {row["sample_id"]: row for row in rows}


def _tar_problems(
    versions: VersionStore, info: VersionInfo, path: str, rows: dict[str, dict[str, Any]]
) -> Iterator[Problem]:
    found: dict[str, dict[str, TarMember]] = {}
    try:
        with versions.files.open(path) as stream:
            reader = _HashingReader(stream)
            for member, _ in iter_tar(reader, name=path):  # pyright: ignore[reportArgumentType]
                sample_id, part = split_member(member.name)
                found.setdefault(sample_id, {})[part] = member
            reader.drain()
    except MissingFileError:
        yield Problem(path=path, message="the file is missing")
        return
    except CorruptFileError as error:
        yield Problem(path=path, message=str(error))
        return
    yield from reader.problems(path, info.files[path])
    for sample_id, row in rows.items():
        for message in _sample_problems(row, found.get(sample_id, {})):
            yield Problem(path=path, message=message, sample_id=sample_id)
    if info.parent is None:
        for sample_id in sorted(found.keys() - rows.keys()):
            yield Problem(path=path, message="it is in the tar but not in the manifest", sample_id=sample_id)


def split_member(name: str) -> tuple[str, str]:
    """Return sample id and part of a member: ``a.source.png`` gives ``a, source``, and ``a.json`` gives ``a, json``."""
    sample_id, _, rest = name.rpartition("/")[2].partition(".")
    return sample_id, rest.split(".")[0]


def _sample_problems(row: dict[str, Any], members: dict[str, TarMember]) -> Iterator[str]:
    if missing := [part for part in SAMPLE_PARTS if part not in members]:
        yield f"the tar lacks {', '.join(missing)}"
        return
    for part in SAMPLE_PARTS:
        if members[part].sha256 != row[f"{part}_member_sha256"]:
            yield f"{part} has sha256 {members[part].sha256}, the manifest says {row[f'{part}_member_sha256']}"
    start = min(member.start for member in members.values())
    end = max(member.end for member in members.values())
    if (start, end - start) != (row["tar_offset"], row["tar_size"]):
        place = f"{row['tar_size']} bytes at {row['tar_offset']}"
        yield f"it lies in {end - start} bytes at {start}, the manifest says {place}"


class _HashingReader:
    """Reads a stream once, counting and hashing what passes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hasher = hashlib.sha256()
        self._size = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._hasher.update(data)
        self._size += len(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_READ_BYTES):
            pass

    def problems(self, path: str, entry: FileEntry) -> Iterator[Problem]:
        """Compare what was read with what was written."""
        if (self._size, digest := self._hasher.hexdigest()) != (entry.size, entry.sha256):
            message = f"{self._size} bytes with sha256 {digest}, expected {entry.size} bytes with {entry.sha256}"
            yield Problem(path=path, message=message)
