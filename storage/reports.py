"""What a stage says about one finished shard: its files, its counts, and the digest that later stages build on."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.errors import AccountingError, CorruptFileError, SchemaError, ShardNameError
from storage.ids import digest_of, sealed_content, sealed_document

Scalar = str | int | float | bool | None

_STAGE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"[a-z0-9]+(\.[a-z0-9]+){0,2}")
_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
TABLE, DROPPED_TABLE, DONE = "parquet", "dropped.parquet", "done.json"
_LOG = "log."


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """Length in bytes and sha256 (64 hex characters) of one file."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.size < 0 or not _SHA256.fullmatch(self.sha256):
            raise CorruptFileError(f"a file of {self.size} bytes with sha256 {self.sha256!r} cannot exist")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """One sample that a stage dropped, why as one word that is counted, and why in words."""

    sample_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """One finished shard of one stage.

    Raises:
        AccountingError: ``num_in != num_out + sum(dropped.values())``, or a count is negative.
        ShardNameError: stage, shard, fingerprint, a file's suffix or a reason cannot be part of an address.
        SchemaError: an extra value is no finite JSON scalar.
    """

    stage: str
    shard: str
    fingerprint: str
    """Names what decided the bytes; see ``storage.ids.fingerprint``."""
    num_in: int
    num_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of samples."""
    seconds: float = 0.0
    """Wall time of the work; no part of the digest."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Suffix -> file; ``path`` says where it lies."""
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    """Facts of the stage (a dimension, a measured recall); no part of the digest."""

    def __post_init__(self) -> None:
        check_address(self.stage, self.shard, self.fingerprint)
        for suffix in self.files:
            check_suffix(suffix)
        for reason in self.dropped:
            if not _REASON.fullmatch(reason):
                raise ShardNameError(f"the reason {reason!r} of {self.name} must be a snake_case word")
        if min(self.num_in, self.num_out, *self.dropped.values()) < 0:
            raise AccountingError(f"{self.name} counts below zero: {self.num_in=} {self.num_out=} {self.dropped=}")
        if self.num_in != self.num_out + sum(self.dropped.values()):
            raise AccountingError(
                f"{self.name}: {self.num_in} samples came in, {self.num_out} went out and "
                f"{sum(self.dropped.values())} were dropped ({dict(self.dropped)}): the rest is unaccounted for"
            )
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise AccountingError(f"{self.name} took {self.seconds} seconds, which cannot be")
        for name, value in self.extra.items():
            if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
                raise SchemaError(f"{self.name}: extra {name!r} is {value!r:.80}, expected a finite JSON scalar")

    @property
    def name(self) -> str:
        """What users call it: ``caption/00042``."""
        return f"{self.stage}/{self.shard}"

    @property
    def digest(self) -> str:
        """64 hex characters over the contents of all files but logs: what later stages' fingerprints are made of."""
        decisive = sorted(suffix for suffix in self.files if not is_log(suffix))
        return digest_of(*(part for suffix in decisive for part in (suffix, self.files[suffix].sha256)))

    def path(self, suffix: str) -> str:
        """Return the path of one of the files, relative to the root of the store.

        Raises:
            ShardNameError: the shard has no such file.
        """
        if suffix not in self.files:
            raise ShardNameError(f"{self.name} has no file {suffix!r}, only {sorted(self.files)}")
        return file_path(self.stage, self.fingerprint, self.shard, suffix, self.files[suffix].sha256)

    def to_json(self) -> bytes:
        """Return the report as the bytes of a ``.done.json``."""
        content = {
            "stage": self.stage,
            "shard": self.shard,
            "fingerprint": self.fingerprint,
            "num_in": self.num_in,
            "num_out": self.num_out,
            "dropped": dict(self.dropped),
            "seconds": self.seconds,
            "files": {suffix: {"size": entry.size, "sha256": entry.sha256} for suffix, entry in self.files.items()},
            "digest": self.digest,
            "extra": dict(self.extra),
        }
        return sealed_document(content)

    @classmethod
    def from_json(cls, data: bytes) -> "ShardReport":
        """Return the report that ``to_json`` wrote.

        Raises:
            CorruptFileError: not such a report, or its digest does not match its files.
        """
        try:
            content = sealed_content(data)
            files = {suffix: FileEntry(**entry) for suffix, entry in content.pop("files").items()}
            digest = content.pop("digest")
            report = cls(files=files, **content)
        except (ValueError, TypeError, KeyError, AttributeError, AccountingError, SchemaError, ShardNameError) as error:
            raise CorruptFileError(f"this is no report of a finished shard: {error}") from error
        if report.digest != digest:
            raise CorruptFileError(f"the report of {report.name} says digest {digest}, its files give {report.digest}")
        return report


def check_address(stage: str, shard: str, fingerprint: str) -> None:
    """Refuse a stage, shard or fingerprint that cannot be part of an address.

    Raises:
        ShardNameError: a stage that is no lower-case word, a shard name outside [A-Za-z0-9_-], or a fingerprint that is
            not 16 hex characters.
    """
    if not _STAGE.fullmatch(stage):
        raise ShardNameError(f"stage {stage!r} must be 1 to 32 lower-case letters, digits or '_', a letter first")
    if not _SHARD.fullmatch(shard):
        raise ShardNameError(f"shard {shard!r} must be 1 to 64 letters, digits, '_' or '-'")
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ShardNameError(f"fingerprint {fingerprint!r} must be 16 hex characters")


def is_log(suffix: str) -> bool:
    """Return whether a file says how the work went and not what came out: ``log.parquet``, ``log.txt``.

    Two runs that gave the same may differ in it (transient network errors): it is part of no digest and no version.
    """
    return suffix.startswith(_LOG)


def check_suffix(suffix: str) -> None:
    """Refuse a file suffix that cannot be part of an address.

    Raises:
        ShardNameError: not one to three words of small letters and digits with dots between, or the marker's own.
    """
    if not _SUFFIX.fullmatch(suffix) or suffix == DONE:
        raise ShardNameError(f"file suffix {suffix!r} must be like 'tar' or 'ids.parquet', and not {DONE!r}")


def stage_folder(stage: str, fingerprint: str) -> str:
    """Return the folder of a stage under one fingerprint: ``caption/<fingerprint>``."""
    return f"{stage}/{fingerprint}"


def file_path(stage: str, fingerprint: str, shard: str, suffix: str, sha256: str) -> str:
    """Return where a file lies: ``stage/<fingerprint>/<shard>.<16 hex of its sha256>.<suffix>``.

    The hash in the name makes a commit one switch of the marker: when a shard is done anew with other content (a
    download tried again), the old files stay whole for their readers and versions, on object stores too, and two
    processes that commit at once never mix their files.
    """
    return f"{stage_folder(stage, fingerprint)}/{shard}.{sha256[:16]}.{suffix}"


def marker_of_log(path: str) -> str | None:
    """Return the path of the marker beside which a log lies, or None if ``path`` is no log of a shard."""
    folder, _, name = path.rpartition("/")
    shard, _, rest = name.partition(".")
    is_a_log = is_log(rest.partition(".")[2]) and _FINGERPRINT.fullmatch(rest.partition(".")[0])
    return f"{folder}/{shard}.{DONE}" if is_a_log else None


def marker_path(stage: str, fingerprint: str, shard: str) -> str:
    """Return where the marker of a finished shard lies."""
    return f"{stage_folder(stage, fingerprint)}/{shard}.{DONE}"
