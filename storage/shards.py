"""The store of shards: what a stage wrote for one shard, addressed by stage, fingerprint and shard.

A shard is finished when its marker ``<shard>.done.json`` is there and every file that it lists is there with its size.
Files first, marker last: a run that is killed at any moment leaves the shard unfinished or finished, never in between.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from storage.errors import AccountingError, CorruptFileError, MissingFileError, ShardNameError
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
from storage.tars import WrittenTar

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_MAX_REPORT_BYTES = 16 << 20

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
            CorruptFileError: it is damaged.
            SchemaError: it has no such column.
            FilterError: ``where`` does not fit it.
        """
        path = report.path(suffix)
        with self.files.open(path) as stream:
            return read_parquet(stream, name=self.files.address(path), columns=columns, where=where)

    def read_schema(self, report: ShardReport) -> TableSchema:
        """Return the declaration of a finished shard's table, without reading its rows.

        Raises:
            ShardNameError: the shard has no table.
            MissingFileError: the file is gone.
            CorruptFileError: it is damaged.
            SchemaError: it carries no declaration.
        """
        path = report.path(TABLE)
        with self.files.open(path) as stream:
            return TableSchema.of(read_schema(stream, name=self.files.address(path)))

    def read_dropped(self, report: ShardReport) -> "pa.Table":
        """Return one row (sample_id, reason, detail) per sample that the stage dropped."""
        if DROPPED_TABLE not in report.files:
            return DROPPED.table(())
        return self.read_table(report, suffix=DROPPED_TABLE)

    def open_blob(self, report: ShardReport, suffix: str) -> AbstractContextManager[BinaryIO]:
        """Return a context manager that yields a seekable stream over one file of the shard.

        Raises:
            ShardNameError: the shard has no such file.
            MissingFileError: the file is gone.
        """
        return self.files.open(report.path(suffix))

    def local_blob(self, report: ShardReport, suffix: str) -> AbstractContextManager[Path]:
        """Return a context manager that yields a local path of one file of the shard (a copy when the store is remote).

        Raises:
            ShardNameError: the shard has no such file.
            MissingFileError: the file is gone.
        """
        return self.files.local_path(report.path(suffix))

    def read_member(self, report: ShardReport, offset: int, size: int, *, suffix: str = "tar") -> bytes:
        """Return ``size`` bytes at ``offset`` of the shard's tar, without reading the rest.

        Raises:
            MissingFileError: the tar is gone.
            CorruptFileError: it ends before.
        """
        return self.files.read_range(report.path(suffix), offset, size)

    def problems(self, report: ShardReport) -> list[str]:
        """Read every file of the shard again and return one line per file that is missing or not what was written."""
        found = []
        for suffix, entry in sorted(report.files.items()):
            try:
                with self.open_blob(report, suffix) as stream:
                    digest = stream_sha256(stream)
            except MissingFileError as error:
                found.append(str(error))
                continue
            if digest != entry.sha256:
                found.append(f"{self.files.address(report.path(suffix))} has sha256 {digest}, expected {entry.sha256}")
        return found


@dataclass(frozen=True, kw_only=True)
class ShardTarget:
    """The place of one shard of one stage under one fingerprint: ask ``finished``, else do the work and ``commit``."""

    files: Files
    stage: str
    shard: str
    fingerprint: str

    def finished(self) -> ShardReport | None:
        """Return the report if the shard is done and whole, else None; a damaged marker counts as not done."""
        try:
            data = self.files.read_bytes(self._marker, max_bytes=_MAX_REPORT_BYTES)
            report = ShardReport.from_json(data)
        except (MissingFileError, CorruptFileError):
            return None
        if (report.stage, report.shard, report.fingerprint) != (self.stage, self.shard, self.fingerprint):
            return None
        whole = all(self.files.size(report.path(suffix)) == entry.size for suffix, entry in report.files.items())
        return report if whole else None

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
