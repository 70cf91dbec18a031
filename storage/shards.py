"""The store of shards: what a stage wrote for one shard, addressed by stage, fingerprint and shard.

A shard is finished when its marker ``<shard>.done.json`` is there and every file that it lists is there with its size.
Files first, marker last: a run that is killed at any moment leaves the shard unfinished or finished, never in between.
A file that changed after its marker is hashed before the shard counts as finished, and every file is hashed before it
is read: what is damaged is never built upon.
"""

import errno
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from storage.errors import AccountingError, CorruptFileError, DamagedFileError, MissingFileError, ShardNameError
from storage.files import Files
from storage.ids import file_sha256, stream_sha256
from storage.parquet import parquet_bytes, read_parquet, read_schema
from storage.reports import (
    DROPPED_TABLE,
    TABLE,
    Dropped,
    FileEntry,
    Scalar,
    ShardReport,
    check_address,
    check_suffix,
    file_path,
    marker_path,
    stage_folder,
)
from storage.tables import DROPPED, TableSchema, validated
from storage.tars import WrittenTar, read_tar_member

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_MAX_REPORT_BYTES = 16 << 20
_log = logging.getLogger(__name__)

Blob = bytes | Path | WrittenTar


@dataclass(frozen=True)
class ShardStore:
    """Shards of all stages under one root; holds no connection, so that it can go to any worker."""

    files: Files

    @classmethod
    def at(cls, root: str | Path) -> "ShardStore":
        """Return the store at a folder or fsspec address.

        Raises:
            AddressError: the root cannot be used.
        """
        return cls(Files(str(root)))

    def target(self, stage: str, shard: str, fingerprint: str) -> "ShardTarget":
        """Return the place where ``stage`` writes ``shard``.

        Raises:
            ShardNameError: one of the three cannot be part of an address.
        """
        check_address(stage, shard, fingerprint)
        return ShardTarget(files=self.files, stage=stage, shard=shard, fingerprint=fingerprint)

    def read_table(
        self,
        report: ShardReport,
        *,
        columns: Sequence[str] | None = None,
        where: "pc.Expression | None" = None,
        suffix: str = TABLE,
    ) -> "pa.Table":
        """Return the table of a finished shard, sorted as its schema says; some columns or rows only, if asked.

        Args:
            report: of the shard.
            columns: names of the columns, in the requested order.
            where: a pyarrow expression over any columns of the table.
            suffix: which of its tables, if not the stage's own: ``log.parquet``.

        Raises:
            ShardNameError: the shard has no such table.
            MissingFileError: the file is gone.
            DamagedFileError: it is damaged.
            SchemaError: it has no such column.
            FilterError: ``where`` does not fit it.
        """
        with self.open_blob(report, suffix) as stream:
            return read_parquet(stream, name=self.files.address(report.path(suffix)), columns=columns, where=where)

    def read_schema(self, report: ShardReport) -> TableSchema:
        """Return the declaration of a finished shard's table, without reading its rows.

        Raises:
            ShardNameError: the shard has no table.
            MissingFileError: the file is gone.
            DamagedFileError: it is damaged.
            SchemaError: it carries no declaration.
        """
        with self.open_blob(report, TABLE) as stream:
            return TableSchema.of(read_schema(stream, name=self.files.address(report.path(TABLE))))

    def read_dropped(self, report: ShardReport) -> "pa.Table":
        """Return one row (sample_id, reason, detail) per sample that the stage dropped."""
        if DROPPED_TABLE not in report.files:
            return DROPPED.table(())
        return self.read_table(report, suffix=DROPPED_TABLE)

    @contextmanager
    def open_blob(self, report: ShardReport, suffix: str) -> Iterator[BinaryIO]:
        """Yield a seekable stream over one file of the shard, which was read and compared with its hash before.

        Raises:
            ShardNameError: the shard has no such file.
            MissingFileError: the file is gone.
            DamagedFileError: its bytes are not those that were written.
        """
        with self.files.open(report.path(suffix)) as stream:
            self._check(report, suffix, stream)
            stream.seek(0)
            yield stream

    @contextmanager
    def local_blob(self, report: ShardReport, suffix: str) -> Iterator[Path]:
        """Yield a local path of one file of the shard (a copy when the store is remote), compared with its hash before.

        Raises what ``open_blob`` raises.
        """
        with self.files.local_path(report.path(suffix)) as path:
            with path.open("rb") as stream:
                self._check(report, suffix, stream)
            yield path

    def read_member(self, report: ShardReport, offset: int, size: int, *, sha256: str) -> bytes:
        """Return ``size`` bytes at ``offset`` of the shard's tar, compared with their hash, without reading the rest.

        Raises:
            MissingFileError: the tar is gone.
            DamagedFileError: it ends before, or the bytes are not those that were written.
        """
        path = report.path("tar")
        try:
            return read_tar_member(self.files, path, offset, size, sha256=sha256)
        except CorruptFileError as error:
            raise damaged(path, str(error)) from error

    def problems(self, report: ShardReport) -> list[str]:
        """Read every file of the shard again and return one line per file that is missing or not what was written."""
        return [str(error) for suffix in sorted(report.files) if (error := self.problem(report, suffix)) is not None]

    def problem(self, report: ShardReport, suffix: str) -> MissingFileError | DamagedFileError | None:
        """Read one file of the shard again and return what is wrong with it."""
        try:
            with self.open_blob(report, suffix):
                return None
        except (MissingFileError, DamagedFileError) as error:
            return error

    def _check(self, report: ShardReport, suffix: str, stream: BinaryIO) -> None:
        path, expected = report.path(suffix), report.files[suffix].sha256
        try:
            digest = stream_sha256(stream)
        except OSError as error:
            if error.errno != errno.EIO:  # the disk's own word for what it cannot read any more
                raise
            digest = "none, it cannot be read"
        if digest != expected:
            raise damaged(path, f"{self.files.address(path)} has sha256 {digest}, expected {expected}")


T = TypeVar("T")


def until_whole(files: Files, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; each damaged file of a stage that it meets is removed, and it goes on from there.

    Raises:
        DamagedFileError: a file was damaged again after it was made anew: the disk keeps nothing.
    """
    removed = set[str]()
    while True:
        try:
            return work()
        except DamagedFileError as error:
            if removed.issuperset(error.paths):
                raise
            removed.update(error.paths)
            for path in error.paths:
                files.remove(path)
                _log.warning("%s is damaged and made again", files.address(path))


def damaged(path: str, what: str) -> DamagedFileError:
    """Return the error of a finished file at ``path`` that is not what was written."""
    return DamagedFileError(
        f"{what}: the file is damaged; `iedit datasets verify VERSION --repair` removes what is damaged, and the same "
        "build makes it again",
        path,
    )


@dataclass(frozen=True, kw_only=True)
class ShardTarget:
    """The place of one shard of one stage under one fingerprint: ask ``finished``, else do the work and ``commit``."""

    files: Files
    stage: str
    shard: str
    fingerprint: str

    def finished(self) -> ShardReport | None:
        """Return the report if the shard is done and whole, else None; a damaged marker counts as not done.

        Sizes are compared, and the content of a file that was written after its marker: nothing of ours writes there.
        """
        try:
            data = self.files.read_bytes(self._marker, max_bytes=_MAX_REPORT_BYTES)
            report = ShardReport.from_json(data)
        except (MissingFileError, CorruptFileError):
            return None
        if (report.stage, report.shard, report.fingerprint) != (self.stage, self.shard, self.fingerprint):
            return None
        marker, store = self.files.stat(self._marker), ShardStore(self.files)
        for suffix, entry in report.files.items():
            found = self.files.stat(report.path(suffix))
            if marker is None or found is None or found.size != entry.size:
                return None
            if found.modified > marker.modified and store.problem(report, suffix) is not None:
                return None
        return report

    def path(self, suffix: str, sha256: str) -> str:
        """Return where the file of this suffix and content will lie, to be written into tables before the commit.

        Raises:
            ShardNameError: the suffix cannot be part of an address.
        """
        check_suffix(suffix)
        return file_path(self.stage, self.fingerprint, self.shard, suffix, sha256)

    @contextmanager
    def scratch(self, suffix: str) -> Iterator[Path]:
        """Yield an empty local file in which to build a blob; ``commit`` inside the block takes it without a copy."""
        check_suffix(suffix)
        with self.files.scratch(f"{stage_folder(self.stage, self.fingerprint)}/{self.shard}.{suffix}") as partial:
            yield partial

    def commit(
        self,
        *,
        num_in: int,
        seconds: float,
        table: "pa.Table | None" = None,
        schema: TableSchema | None = None,
        num_out: int | None = None,
        blobs: Mapping[str, Blob] | None = None,
        dropped: "Iterable[Dropped] | pa.Table" = (),
        extra: Mapping[str, Scalar] | None = None,
    ) -> ShardReport:
        """Write the shard and return its report; nothing is written when it is there already with the same content.

        Args:
            num_in: samples that the stage was given.
            seconds: wall time of the work.
            table: the rows; checked, sorted and written as ``<shard>.<hash>.parquet``.
            schema: declaration of the table; by default the one that it carries.
            num_out: samples that go on; by default the rows of a table by sample id, which may hold failed rows too,
                and with any other table all that were not dropped.
            blobs: suffix -> bytes, a local file or a tar from ``write_tar``; renamed if made in ``scratch``, else
                copied.
            dropped: one entry per dropped sample; the reasons are counted from it, so table and counts cannot differ.
            extra: values worth keeping.

        Raises:
            AccountingError: ``num_in != num_out + dropped``; nothing was written.
            SchemaError: the table or the dropped rows are not what they should be; nothing was written.
            DiskFullError: no room; the shard is as unfinished or finished as before.
        """
        dropped_rows = _dropped_rows(dropped)
        if table is not None:
            schema = schema or TableSchema.of(table.schema)
        pieces = self._pieces(table, schema, dropped_rows, dict(blobs or {}))
        report = ShardReport(
            stage=self.stage,
            shard=self.shard,
            fingerprint=self.fingerprint,
            num_in=num_in,
            num_out=_num_out(table, schema, num_out, num_in - dropped_rows.num_rows),
            dropped=_counted(dropped_rows),
            seconds=round(seconds, 3),
            files={suffix: piece.entry for suffix, piece in pieces.items()},
            extra=dict(extra or {}),
        )
        marker = report.to_json()
        done = self.finished()
        if done is None or replace(done, seconds=report.seconds) != report:
            for suffix, piece in pieces.items():
                piece.write(self.files, report.path(suffix))
            self.files.write_bytes(self._marker, marker)
            done = report
        # Also where another process finished first: one that was killed beside it may have left something.
        self.files.sweep(stage_folder(self.stage, self.fingerprint), prefix=f"{self.shard}.")
        return done

    @property
    def _marker(self) -> str:
        return marker_path(self.stage, self.fingerprint, self.shard)

    def _pieces(
        self, table: "pa.Table | None", schema: TableSchema | None, dropped_rows: "pa.Table", blobs: dict[str, Blob]
    ) -> "dict[str, _Piece]":
        for suffix in blobs:
            check_suffix(suffix)
            if suffix in {TABLE, DROPPED_TABLE}:
                raise ShardNameError(f"the suffix {suffix!r} belongs to the tables of {self.stage}/{self.shard}")
        pieces = {}
        if table is not None:
            pieces[TABLE] = _piece(parquet_bytes(table, schema or TableSchema.of(table.schema)))
        if dropped_rows.num_rows:
            pieces[DROPPED_TABLE] = _piece(parquet_bytes(dropped_rows, DROPPED))
        return pieces | {suffix: _piece(blob) for suffix, blob in blobs.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    content: bytes | Path
    entry: FileEntry

    def write(self, files: Files, path: str) -> None:
        if isinstance(self.content, bytes):
            files.write_bytes(path, self.content)
        else:
            files.upload(self.content, path)


def _piece(blob: Blob) -> _Piece:
    if isinstance(blob, bytes):
        return _Piece(content=blob, entry=FileEntry(size=len(blob), sha256=hashlib.sha256(blob).hexdigest()))
    if isinstance(blob, WrittenTar):
        return _Piece(content=blob.path, entry=FileEntry(size=blob.size, sha256=blob.sha256))
    return _Piece(content=blob, entry=FileEntry(size=blob.stat().st_size, sha256=file_sha256(blob)))


def _dropped_rows(dropped: "Iterable[Dropped] | pa.Table") -> "pa.Table":
    import pyarrow as pa

    if isinstance(dropped, pa.Table):
        return validated(dropped, DROPPED)
    return DROPPED.table(asdict(entry) for entry in dropped)


def _counted(dropped_rows: "pa.Table") -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in dropped_rows["reason"].value_counts().to_pylist()}


def _num_out(table: "pa.Table | None", schema: TableSchema | None, num_out: int | None, implied: int) -> int:
    # Rows of a table that is not sorted by sample are something else than samples.
    if table is None or (schema is not None and schema.sort_by != ("sample_id",)):
        return implied if num_out is None else num_out
    if num_out is not None and num_out > table.num_rows:
        raise AccountingError(f"{num_out} samples cannot go on from a table of {table.num_rows} rows")
    return table.num_rows if num_out is None else num_out
