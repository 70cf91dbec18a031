"""What a dataset version is: its id, what made it, what became of every sample, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from storage.errors import CorruptFileError, VersionError
from storage.ids import Json, canonical_value, digest_of, sealed_content, sealed_document
from storage.reports import FileEntry, ShardReport

FORMAT = 1
"""Raised when the files of a version mean something else; part of every id."""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What a flow hands over about one stage of a version: how it was run and the reports of all its shards.

    Raises:
        VersionError: no report, or a report of another stage or of a shard that comes twice.
    """

    stage: str
    code_version: int
    """The stage's ``VERSION``."""
    config: object
    """The frozen dataclass that went into the fingerprint."""
    reports: tuple[ShardReport, ...]
    weights_digest: str | None = None

    def __post_init__(self) -> None:
        if wrong := [report.name for report in self.reports if report.stage != self.stage]:
            raise VersionError(f"the report {wrong[0]} does not belong to the stage {self.stage}")
        shards = [report.shard for report in self.reports]
        if not shards or len(set(shards)) != len(shards):
            raise VersionError(f"the stage {self.stage} needs one report per shard, got {sorted(shards)[:8]}")


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage in the lineage of a version, and its line of the funnel."""

    stage: str
    code_version: int
    config: Json
    """Canonical form of the stage's configuration."""
    weights_digest: str | None
    num_shards: int
    digest: str
    """Over the fingerprints and contents of all shards."""
    num_in: int
    num_out: int
    dropped: Mapping[str, int]
    """Reason -> number of samples."""

    @classmethod
    def of(cls, run: StageRun) -> "StageRecord":
        """Return the record of a stage, its shards summed."""
        reports = sorted(run.reports, key=lambda report: report.shard)
        reasons = sorted({reason for report in reports for reason in report.dropped})
        return cls(
            stage=run.stage,
            code_version=run.code_version,
            config=canonical_value(run.config),
            weights_digest=run.weights_digest,
            num_shards=len(reports),
            digest=digest_of(
                *(part for report in reports for part in (report.shard, report.fingerprint, report.digest))
            ),
            num_in=sum(report.num_in for report in reports),
            num_out=sum(report.num_out for report in reports),
            dropped={reason: sum(report.dropped.get(reason, 0) for report in reports) for reason in reasons},
        )


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """One immutable dataset version: the content of its ``version.json``.

    Raises:
        CorruptFileError: the id does not follow from what made the version.
    """

    id: str
    """16 hex characters that follow from all that made the version; see ``version_id``."""
    input_digest: str
    """Hash of the input manifest: which metadata files, with which bytes."""
    stages: tuple[StageRecord, ...]
    files: Mapping[str, FileEntry]
    """Path under the root of the store -> file: the manifest, the list of shard files, every tar."""
    num_samples: int
    splits: Mapping[str, int]
    """Split -> number of samples."""
    parent: str | None = None
    """The version that this one is a part of."""
    where: str | None = None
    """Which samples of the parent it keeps."""

    def __post_init__(self) -> None:
        made = version_id(input_digest=self.input_digest, stages=self.stages, parent=self.parent, where=self.where)
        if self.id != made:
            raise CorruptFileError(f"version {self.id!r} says that it was made by what gives the id {made}")

    def stage(self, name: str) -> StageRecord | None:
        """Return the record of one stage, or None if the version was made without it."""
        return next((record for record in self.stages if record.stage == name), None)

    def to_json(self) -> bytes:
        """Return the version as the bytes of a ``version.json``, without any time in it."""
        return sealed_document({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "VersionInfo":
        """Return the version that ``to_json`` wrote.

        Raises:
            CorruptFileError: not such a version, of another format, or its id does not follow from its content.
        """
        try:
            content = sealed_content(data)
            if (found := content.pop("format")) != FORMAT:
                raise CorruptFileError(f"this version has format {found}, this code reads format {FORMAT}")
            content["stages"] = tuple(StageRecord(**record) for record in content["stages"])
            content["files"] = {path: FileEntry(**entry) for path, entry in content["files"].items()}
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptFileError(f"this is no dataset version: {error!r}") from error


def version_id(
    *, input_digest: str, stages: Sequence[StageRecord], parent: str | None = None, where: str | None = None
) -> str:
    """Return the id of a version: 16 hex characters over its input and the lineage of its stages, parent and filter."""
    made_by = [
        [record.stage, record.code_version, record.config, record.weights_digest, record.digest] for record in stages
    ]
    text = json.dumps([FORMAT, input_digest, made_by, parent, where], sort_keys=True, separators=(",", ":"))
    return digest_of(text)[:16]
