"""Stage 0, plan: LAION-style metadata -> filtered rows without duplicate URLs, cut into shards.

The rows are read in order (files by name, rows as they stand) and cut whenever a shard is full. A dropped row belongs
to the shard in whose part of the input it stands, so that the shards' counts add up to the whole input.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from iedit_model.configuration import Probability, configuration
from storage import DROPPED, SAMPLE_ID, ShardReport, ShardStore, TableSchema, col, in_manifest, sample_id
from storage.tables import COSINE, UNIT_RANGE
from tasks.corpus import url_key
from tasks.download.addresses import is_url
from tasks.download.ledger import TakedownLedger, read_ledger
from tasks.errors import EmptyPlanError, MetadataError
from tasks.plan.filters import FilterConfig, MetadataRow, reason_against
from tasks.plan.metadata import DigestScope, Kind, Metadata, MetadataFile
from tasks.stage import Job, Stage

_DIGITS: Final = 16
_log = logging.getLogger(__name__)


def url_number(sample_id: str) -> int:
    """Return the first 64 of a sample id's 80 bits, 0 to 2**64 - 1."""
    return int(sample_id[:_DIGITS], 16)


class SeenNumbers:
    """A growing set of 64-bit numbers in a few sorted runs, each more than twice as long as the next.

    Of n URLs, two different ones share a number with a probability of about n**2 / 2**65: one in 3,700 for a hundred
    million. The second of them would count as a duplicate.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Add numbers and return, for each, whether it was new: neither in the set nor earlier among them.

        Args:
            numbers: uint64, one axis.
        """
        new = np.zeros(len(numbers), dtype=bool)
        new[np.unique(numbers, return_index=True)[1]] = True
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, numbers), len(run) - 1)
            new &= run[places] != numbers
        if new.any():
            self._take(np.sort(numbers[new]))
        return new

    def _take(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        self._runs.append(run)


VERSION: Final = 3

PLAN: Final = TableSchema(
    name="plan",
    description="One row per URL that is to be fetched, as the metadata describes it.",
    columns=(
        SAMPLE_ID,
        *in_manifest(
            col("url", "string", "Address of the source image."),
            col("alt_text", "string", "Text that the page gives for the image.", nullable=True),
            col("width", "int32", "Width that the metadata states.", "pixels", nullable=True),
            col("height", "int32", "Height that the metadata states.", "pixels", nullable=True),
            col(
                "similarity", "float32", "CLIP similarity of image and alt text in the metadata.", COSINE, nullable=True
            ),
            col("punsafe", "float32", "Probability that the image is unsafe.", UNIT_RANGE, nullable=True),
            col("pwatermark", "float32", "Probability that the image has a watermark.", UNIT_RANGE, nullable=True),
            col("aesthetic_score", "float32", "Predicted aesthetic score.", "[0, 10]", nullable=True),
            col("language", "string", "Language of the alt text.", "ISO 639-1", nullable=True),
            col("expected_hash", "string", "Hash of the original bytes that the metadata states.", nullable=True),
            col("source_file", "string", "Metadata file from which the row comes."),
            col("source_row", "int64", "Row in that file.", "from 0"),
            rename={"width": "laion_width", "height": "laion_height", "similarity": "laion_similarity"},
        ),
    ),
)

_HASH_DIGITS: Final = (32, 64)
_HEX: Final = frozenset("0123456789abcdef")
_MOST_DROPPED: Final = 1_000_000
_MOST_SIDE: Final = 2**31 - 1
_NUMBERS: Final = ("width", "height", "similarity", "punsafe", "pwatermark", "aesthetic_score")
_Row = dict[str, Any]


@configuration
class ColumnNames:
    """What the metadata calls its columns; those of LAION by default. None, or one that is absent, is all unknown."""

    url: str = "URL"
    alt_text: str | None = "TEXT"
    width: str | None = "WIDTH"
    """Pixels."""
    height: str | None = "HEIGHT"
    """Pixels."""
    similarity: str | None = "similarity"
    punsafe: str | None = "punsafe"
    pwatermark: str | None = "pwatermark"
    aesthetic_score: str | None = "AESTHETIC_SCORE"
    language: str | None = "LANGUAGE"
    expected_hash: str | None = "hash"
    """md5 or sha256 of the image's bytes, as hex; anything else (LAION's number is of URL and text) is unknown."""

    def named(self) -> dict[str, str]:
        """Return our name -> the metadata's, for all that have one."""
        names = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: column for name, column in names.items() if column is not None}


@configuration
class PlanConfig:
    """Which rows of the metadata are downloaded, and in what portions."""

    columns: ColumnNames = field(default_factory=ColumnNames)
    """What the metadata calls its columns."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Which rows are kept."""
    shard_size: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Rows of every shard but the last."""
    sample_share: Probability = 1.0
    """Share of the URLs that is taken, in (0, 1]; a URL's own hash decides, so that equal shares take equal URLs."""
    digest_covers: DigestScope = "content"
    """What the metadata files are known by: ``content``, or ``footer`` for terabytes that take too long to read."""

    def __post_init__(self) -> None:
        names = list(self.columns.named().values())
        if len(set(names)) != len(names):
            raise ValueError(f"columns names a column twice: {', '.join(names)}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole plan."""

    reports: tuple[ShardReport, ...]
    """The shards, in the order of the input."""
    input_digest: str
    """Digest of the metadata, for the lineage of a version: 64 hex characters."""


def plan_shards(metadata: str, config: PlanConfig, store: ShardStore) -> Plan:
    """Filter the metadata, drop repeated and broken URLs, and write the rows as shards; a finished plan is returned.

    Args:
        metadata: a parquet file, a folder of them, or a pattern, at any fsspec address.
        config: columns, filters and size of the shards.
        store: where the shards go.

    Raises:
        MetadataError: no file, a damaged one, or one that lacks a needed column; the message names file and column.
        EmptyPlanError: no row is left; the message counts the reasons.
    """
    source = Metadata(metadata)
    digest, ledger = source.digest(config.digest_covers), read_ledger(store.files)
    inputs = (digest, *ledger.digest)
    reports = _finished(store, config, inputs) or _Planner(source, config, store, inputs, ledger).run()
    return Plan(reports=reports, input_digest=digest)


def _finished(store: ShardStore, config: PlanConfig, inputs: tuple[str, ...]) -> tuple[ShardReport, ...] | None:
    reports: list[ShardReport] = []
    while (report := STAGE.target(_shard(len(reports)), store, config=config, inputs=inputs).finished()) is not None:
        reports.append(report)
        if report.extra.get("is_last"):
            return tuple(reports)
    return None


def _shard(number: int) -> str:
    return f"{number:05d}"


_NUMBERS_OF_URLS: Final = 2**64
_TAKEN_DOWN: Final = "taken_down"


class _Part:
    """The part of the input that becomes one shard."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.num_taken_down = 0
        self.dropped_ids: list[str] = []
        self.dropped_reasons: list[str] = []
        self.dropped_details: list[str] = []
        self.start = time.monotonic()

    def drop(self, name: str, reason: str, detail: str) -> None:
        self.dropped_ids.append(name)
        self.dropped_reasons.append(reason)
        self.dropped_details.append(detail)


class _Planner:
    """One pass over the metadata."""

    def __init__(
        self, source: Metadata, config: PlanConfig, store: ShardStore, inputs: tuple[str, ...], ledger: TakedownLedger
    ) -> None:
        self._source, self._config, self._store, self._inputs, self._ledger = source, config, store, inputs, ledger
        self._seen = SeenNumbers()
        self._reports: list[ShardReport] = []
        self._reasons: Counter[str] = Counter()
        self._empty = set(config.filters.needed()) & set(config.columns.named())

    def run(self) -> tuple[ShardReport, ...]:
        part = _Part()
        for file in self._source.files:
            for row, reason in self._rows_of(file):
                if self._is_full(part, reason):
                    self._commit(part, is_last=False)
                    part = _Part()
                if reason is None:
                    part.rows.append(row)
                else:
                    self._reasons[reason] += 1
                    part.num_taken_down += reason == _TAKEN_DOWN
                    is_named = reason != _TAKEN_DOWN  # the id of any other row follows from its address
                    name = row["sample_id"] if is_named else sample_id(f"{row['source_file']}#{row['source_row']}")
                    part.drop(name, reason, f"{row['source_file']} row {row['source_row']}")
        self._refuse_empty(part)
        for name in sorted(self._empty):
            _log.warning("no row of the metadata states its %s: the filter on it passed every row", name)
        self._commit(part, is_last=True)
        return tuple(self._reports)

    def _is_full(self, part: _Part, reason: str | None) -> bool:
        # A full shard takes the dropped rows up to the next one that is kept, so that no shard holds only those.
        if reason in (None, _TAKEN_DOWN):  # a takedown moves no other row into another shard
            return len(part.rows) + part.num_taken_down >= self._config.shard_size
        return len(part.dropped_ids) >= _MOST_DROPPED

    def _refuse_empty(self, part: _Part) -> None:
        if part.rows or any(report.num_out for report in self._reports):
            return
        if not self._reasons:
            raise EmptyPlanError(f"the metadata at {self._source.address} has no rows")
        counts = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common())
        raise EmptyPlanError(f"no row of the metadata at {self._source.address} is left to download; dropped: {counts}")

    def _commit(self, part: _Part, *, is_last: bool) -> None:
        import pyarrow as pa

        names = pa.schema([(name, pa.string()) for name in DROPPED.names])
        dropped = pa.table([part.dropped_ids, part.dropped_reasons, part.dropped_details], schema=names)
        shard = _shard(len(self._reports))
        report = STAGE.target(shard, self._store, config=self._config, inputs=self._inputs).commit(
            num_in=len(part.rows) + len(part.dropped_ids),
            seconds=time.monotonic() - part.start,
            table=PLAN.table(part.rows),
            dropped=dropped,
            extra={"is_last": is_last},
        )
        self._reports.append(report)

    def _rows_of(self, file: MetadataFile) -> Iterator[tuple[_Row, str | None]]:
        """Yield each row of a file with the reason why it is dropped, None for those that are kept."""
        names = self._config.columns.named()
        kinds: dict[str, Kind] = {column: _kind(name) for name, column in names.items()}
        position = 0
        for batch in self._source.batches(file, kinds, required=self._required(names, file)):
            rows = []
            self._empty -= {name for name in self._empty if any(value is not None for value in batch[names[name]])}
            for number in range(len(batch[names["url"]])):
                given = {name: batch[column][number] for name, column in names.items()}
                rows.append(_planned(given, file.name, position + number))
            position += len(rows)
            yield from self._without_repeated(rows)

    def _required(self, names: dict[str, str], file: MetadataFile) -> list[str]:
        needed = ("url", *self._config.filters.required())
        if unnamed := [name for name in needed if name not in names]:
            raise MetadataError(f"a filter needs plan.columns.{unnamed[0]}, which is None; {file.name} was not read")
        return [names[name] for name in needed]

    def _without_repeated(self, rows: Sequence[_Row]) -> Iterator[tuple[_Row, str | None]]:
        reasons = [self._reason(row) for row in rows]
        kept = [position for position, reason in enumerate(reasons) if reason in (None, _TAKEN_DOWN)]
        numbers = np.array([url_key(rows[position]["url"]) for position in kept], dtype=np.uint64)
        for position, is_new in zip(kept, self._seen.add(numbers), strict=True):
            if not is_new:
                reasons[position] = "duplicate_url"
        return zip(rows, reasons, strict=True)

    def _reason(self, row: _Row) -> str | None:
        if row["url"] is None or not is_url(row["url"]):
            return "bad_url"
        if url_number(row["sample_id"]) >= self._config.sample_share * _NUMBERS_OF_URLS:
            return "not_sampled"
        given = {name: row[name] for name in MetadataRow.__dataclass_fields__}
        if (reason := reason_against(MetadataRow(**given), self._config.filters)) is None:
            return _TAKEN_DOWN if self._ledger.holds(row["url"]) else None
        return reason


def _planned(given: _Row, file: str, position: int) -> _Row:
    url = (given["url"] or "").strip()
    row: _Row = dict.fromkeys(PLAN.names) | given
    row |= {name: _pixels(row[name]) for name in ("width", "height")}
    # A row without a URL has no id of its own, but is counted like the others: its position stands for it.
    row |= {"url": url or None, "sample_id": sample_id(url or f"{file}#{position}")}
    row |= {"expected_hash": _content_hash(row["expected_hash"]), "source_file": file, "source_row": position}
    return row


def _kind(name: str) -> Kind:
    if name == "expected_hash":
        return "hash"
    return "number" if name in _NUMBERS else "text"


def _pixels(value: float | None) -> int | None:
    return int(value) if value is not None and 1 <= value <= _MOST_SIDE else None


def _content_hash(value: str | None) -> str | None:
    digits = (value or "").strip().lower()
    return digits if len(digits) in _HASH_DIGITS and set(digits) <= _HEX else None


def _planned_shard(job: Job) -> ShardReport:
    # The plan cuts the shards, so that each is there before a task run of its own could begin.
    return job.reports[STAGE.name]


STAGE: Final = Stage(
    name="plan",
    version=VERSION,
    summary="rows of the metadata that are to be fetched",
    unit="rows",
    config=PlanConfig,
    work=_planned_shard,
    tables=(PLAN,),
)
