"""Dataset versions: immutable, named by what made them, over tars that several versions may share.

``versions/<id>/manifest.parquet`` has one row per sample, ``shard_files.parquet`` one row per file of every stage that
led to it, and ``version.json``, written last, says all else. ``verify``, ``diff`` and ``garbage`` read them.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.errors import (
    AccountingError,
    CorruptFileError,
    EmptyVersionError,
    FilterError,
    MissingFileError,
    SchemaError,
    UnknownVersionError,
    VersionConflictError,
    VersionError,
)
from storage.files import Files
from storage.filters import canonical_filter, parse_filter
from storage.ids import digest_of
from storage.lineage import StageRecord, StageRun, VersionInfo, version_id
from storage.parquet import filtered, parquet_bytes, read_parquet, read_schema
from storage.reports import FileEntry, is_log
from storage.tables import PACKED_COLUMNS, SHARD_FILES, TableSchema, compute

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "versions"
_MANIFEST, _SHARD_FILES, _VERSION = "manifest.parquet", "shard_files.parquet", "version.json"
_MAX_VERSION_BYTES = 256 << 20


@dataclass(frozen=True)
class VersionStore:
    """All versions of the store under one root; holds no connection, so that it can go to any worker."""

    files: Files

    def list(self) -> Sequence[str]:
        """Return the ids of all versions, sorted."""
        found = (path.split("/") for path in self.files.list(FOLDER))
        return [parts[1] for parts in found if len(parts) == 3 and parts[2] == _VERSION]

    def load(self, version: str) -> VersionInfo:
        """Return the version whose id begins with ``version``.

        Raises:
            UnknownVersionError: there is none, or more than one.
            CorruptFileError: its ``version.json`` is damaged.
        """
        known = self.list()
        matching = [name for name in known if name.startswith(version)] if version else []
        if len(matching) != 1:
            which = f"{len(matching)} versions begin" if matching else "no version begins"
            raise UnknownVersionError(f"{which} with {version!r}; there are: {', '.join(known) or 'none yet'}")
        path = version_path(matching[0])
        try:
            return VersionInfo.from_json(self.files.read_bytes(path, max_bytes=_MAX_VERSION_BYTES))
        except CorruptFileError as error:
            raise CorruptFileError(
                f"{self.files.address(path)} is damaged: {error}; the build that made the version writes it again"
            ) from error

    def manifest(
        self, info: VersionInfo, *, columns: Sequence[str] | None = None, where: str | None = None
    ) -> "pa.Table":
        """Return the manifest, one row per sample sorted by ``sample_id``; some columns or rows only, if asked.

        Raises:
            MissingFileError: the manifest is gone.
            CorruptFileError: it is damaged.
            SchemaError: it has no such column.
            FilterError: ``where`` is no filter over its columns (``storage.filters``).
        """
        path = manifest_path(info.id)
        with self.files.open(path) as stream:
            expression = None
            if where is not None:
                expression = parse_filter(where, TableSchema.of(read_schema(stream, name=path)))
                stream.seek(0)
            return read_parquet(stream, name=self.files.address(path), columns=columns, where=expression)

    def shard_files(self, info: VersionInfo) -> "pa.Table":
        """Return one row per file of every stage's shard that led to the version.

        Raises:
            MissingFileError: the list is gone.
            CorruptFileError: it is damaged.
        """
        path = shard_files_path(info.id)
        with self.files.open(path) as stream:
            return read_parquet(stream, name=self.files.address(path))

    def write(self, manifest: "pa.Table", *, runs: Sequence[StageRun], input_digest: str) -> VersionInfo:
        """Write a version made by ``runs`` and return it; one that is there with the same content is left alone.

        Args:
            manifest: one row per packed sample, with the declaration that ``manifest_schema`` made.
            runs: every stage that led to it, in their order; the reports of the last one list the tars.
            input_digest: hash of the input manifest.

        Raises:
            EmptyVersionError: the manifest has no row.
            AccountingError: its rows are not as many as the last stage put out.
            VersionError: a stage comes twice, or the manifest names a tar that no report of the last stage lists.
            VersionConflictError: this id is there, whole, with other rows: other code wrote it.
        """
        records = tuple(StageRecord.of(run) for run in runs)
        names = [record.stage for record in records]
        if len(set(names)) != len(names) or not names:
            raise VersionError(f"a version needs at least one stage and each stage once, got {names}")
        if manifest.num_rows != records[-1].num_out:
            last = f"{names[-1]} put out {records[-1].num_out}"
            raise AccountingError(f"the manifest has {manifest.num_rows} rows, but the last stage, {last}")
        packed = {report.path(name): entry for report in runs[-1].reports for name, entry in report.files.items()}
        listing = parquet_bytes(SHARD_FILES.table(_rows_of(runs)), SHARD_FILES)
        return self._store(manifest, listing, packed, input_digest=input_digest, stages=records)

    def subset(
        self, version: str, *, where: str | None = None, sample_ids: Collection[str] | None = None
    ) -> VersionInfo:
        """Write the version that keeps some samples of another: a filtered manifest over the same tars.

        Args:
            version: id of the parent, or the beginning of it.
            where: a filter over the manifest (``storage.filters``), or
            sample_ids: the samples to keep.

        Raises:
            FilterError: not exactly one of the two is given, or ``where`` cannot be understood.
            EmptyVersionError: no sample is left.
            VersionError: a sample id is not in the parent.
        """
        parent = self.load(version)
        manifest = self.manifest(parent)
        if where is not None and sample_ids is None:
            kept, label = (
                filtered(manifest, parse_filter(where, TableSchema.of(manifest.schema)), name=parent.id),
                canonical_filter(where),
            )
        elif sample_ids is not None and where is None:
            kept, label = _chosen(manifest, frozenset(sample_ids), parent.id)
        else:
            raise FilterError("a sub-version needs a filter or a list of sample ids, and not both")
        listing = self.files.read_bytes(shard_files_path(parent.id))
        return self._store(
            kept,
            listing,
            parent.files,
            input_digest=parent.input_digest,
            stages=parent.stages,
            parent=parent.id,
            where=label,
        )

    def derive(
        self,
        parent: VersionInfo,
        manifest: "pa.Table",
        *,
        shard_files: "pa.Table",
        tars: Mapping[str, FileEntry],
        stages: tuple[StageRecord, ...],
        where: str,
        replaces: bool = False,
    ) -> VersionInfo:
        """Write the version that is made from another by more than a filter: some of its tars were written anew.

        Args:
            parent: the version that it comes from.
            manifest: one row per sample, with the declaration of the parent's.
            shard_files: one row per file of every stage's shard, as ``SHARD_FILES`` declares.
            tars: the tars that the parent does not have.
            stages: the lineage, which must tell the two apart.
            where: what was done, in words.
            replaces: whether it takes the place of ``parent``, which is about to go.

        Raises:
            EmptyVersionError: the manifest has no row.
            VersionError: it names a tar that neither the parent nor ``tars`` has.
            VersionConflictError: this id is there, whole, with other rows.
        """
        return self._store(
            manifest,
            parquet_bytes(shard_files, SHARD_FILES),
            {**parent.files, **tars},
            input_digest=parent.input_digest,
            stages=stages,
            parent=parent.parent if replaces else parent.id,
            where=where,
        )

    def _store(
        self,
        manifest: "pa.Table",
        listing: bytes,
        packed: Mapping[str, FileEntry],
        *,
        input_digest: str,
        stages: tuple[StageRecord, ...],
        parent: str | None = None,
        where: str | None = None,
    ) -> VersionInfo:
        if not manifest.num_rows:
            raise EmptyVersionError(f"no sample is left{f' of {parent} by the filter {where}' if parent else ''}")
        if lacking := [name for name in PACKED_COLUMNS if name not in manifest.column_names]:
            raise SchemaError(
                f"the manifest lacks the column {lacking[0]!r}; it has {', '.join(manifest.column_names)}"
            )
        rows = parquet_bytes(manifest, TableSchema.of(manifest.schema))
        tars = manifest["tar"].unique().to_pylist()
        if unknown := sorted(set(tars) - packed.keys()):
            raise VersionError(f"the manifest names the tar {unknown[0]}, which no report of the last stage lists")
        name = version_id(input_digest=input_digest, stages=stages, parent=parent, where=where)
        written = {manifest_path(name): rows, shard_files_path(name): listing}
        entries = {path: packed[path] for path in sorted(tars)} | {path: _entry(data) for path, data in written.items()}
        info = VersionInfo(
            id=name,
            input_digest=input_digest,
            stages=stages,
            files=entries,
            num_samples=manifest.num_rows,
            splits=_counts(manifest["split"]),
            parent=parent,
            where=where,
        )
        if (held := self._held(info.id)) is not None:
            # Another pyarrow writes the same rows as other bytes: then what is there stays.
            if held != info and parquet_bytes(self.manifest(held), TableSchema.of(manifest.schema)) != rows:
                raise VersionConflictError(
                    f"version {info.id} is there, whole, with another manifest, although its stages read and wrote the "
                    f"same: other code wrote it; look at {self.files.address(version_path(info.id))}, or move its "
                    "folder away to write this one"
                )
            return held
        for path, data in (*written.items(), (version_path(name), info.to_json())):
            self.files.write_bytes(path, data)
        self.files.sweep(f"{FOLDER}/{name}")
        return info

    def _held(self, version: str) -> VersionInfo | None:
        """Return the version of this id if it is there and the files of its own are what it says, else None."""
        try:
            held = VersionInfo.from_json(self.files.read_bytes(version_path(version), max_bytes=_MAX_VERSION_BYTES))
            whole = all(
                _entry(self.files.read_bytes(path)) == held.files[path]
                for path in (manifest_path(version), shard_files_path(version))
            )
        except (MissingFileError, CorruptFileError, KeyError):
            return None
        return held if whole and held.id == version else None


def manifest_path(version: str) -> str:
    """Return where the manifest of a version lies."""
    return f"{FOLDER}/{version}/{_MANIFEST}"


def shard_files_path(version: str) -> str:
    """Return where the list of shard files of a version lies."""
    return f"{FOLDER}/{version}/{_SHARD_FILES}"


def version_path(version: str) -> str:
    """Return where the ``version.json`` of a version lies."""
    return f"{FOLDER}/{version}/{_VERSION}"


def _rows_of(runs: Iterable[StageRun]) -> Iterator[dict[str, str | int]]:
    for run in runs:
        for report in run.reports:
            for name, entry in report.files.items():
                if is_log(name):
                    continue
                yield {
                    "stage": report.stage,
                    "shard": report.shard,
                    "fingerprint": report.fingerprint,
                    "name": name,
                    "size": entry.size,
                    "sha256": entry.sha256,
                }


def _chosen(manifest: "pa.Table", sample_ids: frozenset[str], version: str) -> "tuple[pa.Table, str]":
    import pyarrow as pa

    pc = compute()

    chosen = sorted(sample_ids)
    kept = manifest.filter(pc.is_in(manifest["sample_id"], value_set=pa.array(chosen, type=pa.string())))
    if kept.num_rows != len(chosen):
        strange = sorted(sample_ids - set(kept["sample_id"].to_pylist()))
        raise VersionError(f"{len(strange)} samples are not in version {version}, the first is {strange[0]!r}")
    return kept, f"{len(chosen)} listed samples ({digest_of(*chosen)[:16]})"


def _counts(values: "pa.ChunkedArray") -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in sorted(values.value_counts().to_pylist(), key=str)}


def _entry(data: bytes) -> FileEntry:
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
