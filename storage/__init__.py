"""Bytes on disk or in an object store: ids, tables, tars, shards and dataset versions; knows no model and no stage.

Read in this order: ``ids`` (names that follow from content), ``files`` (atomic files at any address),
``tables`` (columns, and the manifest as their union), ``tars``, ``reports`` and ``shards`` (what a stage wrote),
``lineage`` and ``versions`` (datasets), then ``verify``, ``diff`` and ``garbage``. Importing it loads neither pyarrow
nor fsspec.
"""

from storage.diff import SampleChange, VersionDiff, diff_versions
from storage.errors import (
    AccountingError,
    AddressError,
    CorruptFileError,
    DamagedFileError,
    DiskFullError,
    EmptyVersionError,
    FilterError,
    FingerprintError,
    ForbiddenMemberError,
    MissingFileError,
    RemoteError,
    SchemaError,
    ShardNameError,
    StorageError,
    TruncatedTarError,
    UnknownVersionError,
    VersionConflictError,
    VersionError,
)
from storage.files import Files, FileStat
from storage.filters import canonical_filter, parse_filter
from storage.garbage import Garbage, collect_garbage
from storage.ids import (
    Json,
    canonical_json,
    canonical_value,
    digest_of,
    file_sha256,
    fingerprint,
    folder_identity,
    json_document,
    sample_id,
    sample_seed,
)
from storage.lineage import StageRecord, StageRun, VersionInfo
from storage.parquet import OutsideParquet, filtered, parquet_bytes, read_parquet
from storage.reports import Dropped, FileEntry, ShardReport
from storage.shards import ShardStore, ShardTarget, until_whole
from storage.tables import (
    DROPPED,
    SAMPLE_ID,
    SAMPLE_PARTS,
    Column,
    TableSchema,
    col,
    in_manifest,
    manifest_schema,
    validated,
)
from storage.tars import TarMember, WrittenTar, iter_tar, read_tar_member, write_tar
from storage.verify import Problem, repair, split_member, verify_version
from storage.versions import VersionStore

__all__ = [
    "DROPPED",
    "SAMPLE_ID",
    "SAMPLE_PARTS",
    "AccountingError",
    "AddressError",
    "Column",
    "CorruptFileError",
    "DamagedFileError",
    "DiskFullError",
    "Dropped",
    "EmptyVersionError",
    "FileEntry",
    "FileStat",
    "Files",
    "FilterError",
    "FingerprintError",
    "ForbiddenMemberError",
    "Garbage",
    "Json",
    "MissingFileError",
    "OutsideParquet",
    "Problem",
    "RemoteError",
    "SampleChange",
    "SchemaError",
    "ShardNameError",
    "ShardReport",
    "ShardStore",
    "ShardTarget",
    "StageRecord",
    "StageRun",
    "StorageError",
    "TableSchema",
    "TarMember",
    "TruncatedTarError",
    "UnknownVersionError",
    "VersionConflictError",
    "VersionDiff",
    "VersionError",
    "VersionInfo",
    "VersionStore",
    "WrittenTar",
    "canonical_filter",
    "canonical_json",
    "canonical_value",
    "col",
    "collect_garbage",
    "diff_versions",
    "digest_of",
    "file_sha256",
    "filtered",
    "fingerprint",
    "folder_identity",
    "in_manifest",
    "iter_tar",
    "json_document",
    "manifest_schema",
    "parquet_bytes",
    "parse_filter",
    "read_parquet",
    "read_tar_member",
    "repair",
    "sample_id",
    "sample_seed",
    "split_member",
    "until_whole",
    "validated",
    "verify_version",
    "write_tar",
]
