"""Stage 1, download: URLs -> images of one size in a tar, and one row per URL whether it gave an image or not.

A shard is done once, under a fingerprint of what decides its images. ``retry_failed`` tries those URLs again that
may still succeed and commits the shard anew under the same fingerprint: the marker then names the new tar and table,
and whoever reads it goes on from there. The bytes of each commit stay under their own names (see ADR 0004).
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import field, replace
from typing import Annotated, Any, Final

from pydantic import Field, NonNegativeInt

from iedit_model.configuration import Share, configuration
from iedit_model.imaging.decoder_process import prepare
from storage import (
    SAMPLE_ID,
    Dropped,
    ShardReport,
    ShardStore,
    ShardTarget,
    TableSchema,
    WrittenTar,
    col,
    in_manifest,
    parquet_bytes,
    write_tar,
)
from tasks.download.addresses import Resolver, system_addresses
from tasks.download.client import FetchConfig, Fetcher
from tasks.download.errors import FetchError
from tasks.download.image_body import ImageConfig
from tasks.download.ledger import read_ledger
from tasks.download.rounds import Outcome, RetryConfig, Spill, UrlTask, fetch_rounds
from tasks.errors import ShardError
from tasks.stage import Job, Stage

VERSION: Final = 3

DOWNLOAD: Final = TableSchema(
    name="download",
    description="One row per URL that was tried, whether it could be fetched or not.",
    columns=(
        SAMPLE_ID,
        col("url", "string", "Address of the source image."),
        col("alt_text", "string", "Text that the page gives for the image.", nullable=True),
        col("status", "string", "Whether the image is there.", allowed=("ok", "failed")),
        col(
            "error_kind", "string", "Whether another try could help.", nullable=True, allowed=("permanent", "transient")
        ),
        col("error_class", "string", "Class of a permanent failure, one word.", nullable=True),
        *in_manifest(
            col("sha256", "string", "Hash of the original bytes.", "64 hex characters", nullable=True),
            col("original_format", "string", "Format of the original image.", "lower case", nullable=True),
            col("original_width", "int32", "Width of the original image.", "pixels", nullable=True),
            col("original_height", "int32", "Height of the original image.", "pixels", nullable=True),
            col("width", "int32", "Width of the stored image.", "pixels", nullable=True),
            col("height", "int32", "Height of the stored image.", "pixels", nullable=True),
            col("stored_sha256", "string", "Hash of the stored image's bytes.", "64 hex characters", nullable=True),
            col("image_shard", "string", "Download shard whose tar holds the stored image.", nullable=True),
            col("image_offset", "int64", "Where the stored image begins in that tar.", "bytes", nullable=True),
            col("image_size", "int64", "Length of the stored image.", "bytes", nullable=True),
            col("phash", "int64", "Perceptual hash: near-duplicates differ in few bits.", "64 bits", nullable=True),
            certain=True,
        ),
    ),
)

DOWNLOAD_LOG: Final = TableSchema(
    name="download_log",
    description="One row per URL that was tried, and how that went; `log.parquet` of a download shard.",
    columns=(
        SAMPLE_ID,
        col("url", "string", "Address of the source image."),
        col("status", "string", "Whether the image is there.", allowed=("ok", "failed")),
        col(
            "error_kind", "string", "Whether another try could help.", nullable=True, allowed=("permanent", "transient")
        ),
        col("error_class", "string", "Class of the failure, one word.", nullable=True),
        col("error_message", "string", "What the failure said.", nullable=True),
        col("http_status", "int32", "Last status of the server.", nullable=True),
        col("attempts", "int32", "How often the URL was tried, in all runs.", "count"),
        col("fetched_bytes", "int64", "Length of the last body that came whole.", "bytes"),
    ),
)

LOG: Final = "log.parquet"
"""How each URL was tried and what it said. Table and tar say only what came of it, so that transient network errors (a
retry more, a timeout where another run met a refused connection) renew nothing that was built on the same images."""
TRANSIENT: Final = "transient"
"""The reason of every drop that another try might undo; which class of failure it was stands in the log."""

_Row = dict[str, Any]
_SPEED: Final[dict[str, Any]] = {"fingerprint": False}


@configuration
class DownloadConfig:
    """What is fetched and stored; what decides only when and how fast is no part of the fingerprint."""

    image: ImageConfig = field(default_factory=ImageConfig)
    """What is stored of an image."""
    fetch: FetchConfig = field(default_factory=FetchConfig)
    """How a URL is requested."""
    verify_hash: bool = True
    """Whether bytes must have the md5 or sha256 that the plan promises for them, where it does."""
    retry: RetryConfig = field(default_factory=RetryConfig, metadata=_SPEED)
    """How often and when a transient failure is tried again."""
    threads: Annotated[int, Field(ge=1, le=1024)] = field(default=32, metadata=_SPEED)
    """Fetches of a shard at the same time; twice as many bodies may wait in memory to be decoded."""
    min_success_rate: Share = field(default=0.25, metadata=_SPEED)
    """Least share of a shard's URLs that must give an image, 0 to 1; below it the shard fails."""
    floor_from_rows: NonNegativeInt = field(default=20, metadata=_SPEED)
    """Smaller shards are spared ``min_success_rate``: their share says little."""


def download_shard(
    plan: ShardReport, config: DownloadConfig, store: ShardStore, *, resolver: Resolver = system_addresses
) -> ShardReport:
    """Fetch every URL of a planned shard once, with its retries, or return the finished report.

    Args:
        plan: a finished shard of the plan.
        config: what to fetch and store.
        store: where the plan is and the images go.
        resolver: looks up a host's addresses, which are then checked.

    Returns:
        The report: ``num_out`` images, the URLs that failed for good counted by their class, the others as
        ``transient``; ``extra`` has the classes of those. Its table has all URLs, and its log says how each was tried.

    Raises:
        ShardError: too few URLs gave an image; nothing is kept.
        DiskFullError: no room for the images.
    """
    target = _target(plan, config, store)
    done = target.finished()
    if done is None:
        rows = store.read_table(plan, columns=("sample_id", "url", "alt_text", "expected_hash")).to_pylist()
        done = _Download(target, config, store, resolver).run(rows, before=None)
    _check_floor(done.name, done.num_out, _failures(done), config)
    return done


def retry_failed(
    plan: ShardReport, config: DownloadConfig, store: ShardStore, *, resolver: Resolver = system_addresses
) -> ShardReport:
    """Try the URLs of a shard that failed transiently again; the images that are there stay.

    A shard that was never downloaded is. When nothing changed, the report is the same as before, so that no later
    stage is done anew for nothing.

    Args:
        plan: a finished shard of the plan.
        config: as it was for the shard; time limits, retries and threads may differ.
        store: where the shard is.
        resolver: looks up a host's addresses, which are then checked.

    Raises:
        ShardError: as ``download_shard``.
        CorruptFileError: an image of the shard is not what was written.
    """
    target = _target(plan, config, store)
    done = target.finished()
    if done is None:
        return download_shard(plan, config, store, resolver=resolver)
    if done.extra.get("num_transient"):
        rows = store.read_table(plan, columns=("sample_id", "url", "alt_text", "expected_hash")).to_pylist()
        done = _Download(target, config, store, resolver).run(rows, before=done)
    _check_floor(done.name, done.num_out, _failures(done), config)
    return done


def latest_download(plan: ShardReport, config: DownloadConfig, store: ShardStore) -> ShardReport | None:
    """Return the report of the last run over a planned shard, or None when there was none that ended."""
    return _target(plan, config, store).finished()


def _target(plan: ShardReport, config: DownloadConfig, store: ShardStore) -> ShardTarget:
    return STAGE.target(plan.shard, store, config=config, inputs=(plan.digest,))


def _failures(report: ShardReport) -> dict[str, int]:
    """Return class of failure -> number of URLs."""
    failures = {name: count for name, count in report.dropped.items() if name != TRANSIENT}
    for name, count in report.extra.items():
        kind, _, failure = name.partition("_")
        if kind == TRANSIENT and isinstance(count, int):
            failures[failure] = count
    return failures


def _check_floor(name: str, num_ok: int, failed: Mapping[str, int], config: DownloadConfig) -> None:
    total = num_ok + sum(failed.values())
    if total < config.floor_from_rows or num_ok >= config.min_success_rate * total:
        return
    classes = ", ".join(f"{word} {count}" for word, count in sorted(failed.items(), key=lambda item: (-item[1], item)))
    raise ShardError(
        f"{name}: {num_ok} of {total} URLs gave an image, less than download.min_success_rate "
        f"{config.min_success_rate:g}; failed: {classes}. Look at the network if these are timeout, dns or connection, "
        "else lower the rate"
    )


class _Download:
    """One run over one shard, its first or a later one."""

    def __init__(self, target: ShardTarget, config: DownloadConfig, store: ShardStore, resolver: Resolver) -> None:
        self._target, self._config, self._store, self._resolver = target, config, store, resolver

    def run(self, planned: Sequence[_Row], *, before: ShardReport | None) -> ShardReport:
        start = time.monotonic()
        known = {} if before is None else {row["sample_id"]: row for row in self._kept(before)}
        tasks = [self._task(row) for row in planned if row["sample_id"] not in known or _is_transient(known, row)]
        with self._target.scratch("spill") as spill_path, closing(Spill(spill_path)) as spill:
            outcomes = self._fetch(tasks, spill)
            if before is not None and not any(_is_news(outcome) for outcome in outcomes.values()):
                return before
            rows = [self._row(row, known.get(row["sample_id"]), outcomes.get(row["sample_id"])) for row in planned]
            failed = Counter(str(row["error_class"]) for row in rows if row["status"] == "failed")
            name = f"{STAGE.name}/{self._target.shard}"
            _check_floor(name, len(rows) - failed.total(), failed, self._config)
            with self._target.scratch("tar") as tar_path:
                tar = write_tar(tar_path, self._members(rows, outcomes, spill, before))
                return self._commit(rows, tar, before, time.monotonic() - start)

    def _kept(self, before: ShardReport) -> list[_Row]:
        log = {row["sample_id"]: row for row in self._store.read_table(before, suffix=LOG).to_pylist()}
        return [row | log[row["sample_id"]] for row in self._store.read_table(before).to_pylist()]

    def _task(self, row: _Row) -> UrlTask:
        expected = row["expected_hash"] if self._config.verify_hash else None
        return UrlTask(sample_id=row["sample_id"], url=row["url"], expected_hash=expected)

    def _fetch(self, tasks: Sequence[UrlTask], spill: Spill) -> dict[str, Outcome]:
        config = self._config
        prepare()  # starts while the first bodies come
        with closing(Fetcher(config.fetch, num_threads=config.threads, resolver=self._resolver)) as fetcher:
            outcomes = fetch_rounds(
                tasks,
                fetcher=fetcher,
                spill=spill,
                image=config.image,
                retry=config.retry,
                num_threads=config.threads,
            )
        # No part of the fingerprint: a finished shard that held such an image went with it.
        gone, error = read_ledger(self._store.files).images, FetchError("taken_down", "the image was purged")
        return {
            name: replace(outcome, error=error, fetched=None, image=None)
            if outcome.error is None and outcome.fetched is not None and outcome.fetched.sha256 in gone
            else outcome
            for name, outcome in outcomes.items()
        }

    def _row(self, planned: _Row, known: _Row | None, outcome: Outcome | None) -> _Row:
        if outcome is None:
            return dict(known or {})
        row = {name: planned[name] for name in ("sample_id", "url", "alt_text")}
        row |= {"attempts": outcome.attempts + (known["attempts"] if known else 0)}
        row |= {"status": "ok" if outcome.error is None else "failed", "fetched_bytes": outcome.num_bytes}
        if outcome.fetched is not None:
            row |= {"sha256": outcome.fetched.sha256, "http_status": outcome.fetched.http_status}
        if (error := outcome.error) is not None:
            row |= {"error_kind": error.failure.kind, "error_class": error.error_class, "error_message": error.message}
            row |= {"http_status": error.http_status or row.get("http_status")}
        if outcome.error is None and (image := outcome.image) is not None:
            row |= {"original_format": image.original_format, "phash": image.phash}
            row |= {"original_width": image.original_width, "original_height": image.original_height}
            row |= {"width": image.width, "height": image.height, "image_shard": self._target.shard}
        return row

    def _members(
        self, rows: Sequence[_Row], outcomes: Mapping[str, Outcome], spill: Spill, before: ShardReport | None
    ) -> Iterator[tuple[str, bytes]]:
        for row in rows:  # sorted by sample id, as the plan's table is
            if row["status"] != "ok":
                continue
            if (outcome := outcomes.get(row["sample_id"])) is not None:
                data = spill.read(outcome.offset, outcome.size)
            elif before is not None:
                span = (row["image_offset"], row["image_size"])
                data = self._store.read_member(before, *span, sha256=row["stored_sha256"])
            else:
                raise ShardError(f"{STAGE.name}/{self._target.shard}: the image of {row['sample_id']} is nowhere")
            yield f"{row['sample_id']}.{self._config.image.format}", data

    def _commit(self, rows: list[_Row], tar: WrittenTar, before: ShardReport | None, seconds: float) -> ShardReport:
        members = {member.name.partition(".")[0]: member for member in tar.members}
        for row in rows:
            if (member := members.get(row["sample_id"])) is not None:
                row |= {"image_offset": member.offset, "image_size": member.size, "stored_sha256": member.sha256}
        failed = [row for row in rows if row["status"] == "failed"]
        transient = Counter(str(row["error_class"]) for row in failed if row["error_kind"] == TRANSIENT)
        return self._target.commit(
            num_in=len(rows),
            num_out=len(rows) - len(failed),
            seconds=round(seconds + (before.seconds if before else 0.0), 3),
            table=DOWNLOAD.table(_deterministic(row) for row in rows),
            blobs={"tar": tar, LOG: _log_bytes(rows)},
            dropped=[Dropped(sample_id=row["sample_id"], reason=_reason(row)) for row in failed],
            extra={
                "num_transient": transient.total(),
                "num_runs": 1 if before is None else int(before.extra.get("num_runs") or 1) + 1,
                "fetched_bytes": sum(row["fetched_bytes"] for row in rows),
                **{f"{TRANSIENT}_{name}": count for name, count in sorted(transient.items())},
            },
        )


def _deterministic(row: _Row) -> _Row:
    kept = {name: value for name, value in row.items() if name in DOWNLOAD.names}
    return kept | ({"error_class": None} if row.get("error_kind") == TRANSIENT else {})


def _log_bytes(rows: Sequence[_Row]) -> bytes:
    log = DOWNLOAD_LOG.table({name: row.get(name) for name in DOWNLOAD_LOG.names} for row in rows)
    return parquet_bytes(log, DOWNLOAD_LOG)


def _reason(row: _Row) -> str:
    return TRANSIENT if row["error_kind"] == TRANSIENT else row["error_class"]


def _is_transient(known: Mapping[str, _Row], row: _Row) -> bool:
    return known[row["sample_id"]]["error_kind"] == TRANSIENT


def _is_news(outcome: Outcome) -> bool:
    return outcome.error is None or not outcome.error.is_transient


def _work(job: Job) -> ShardReport:
    fetch = retry_failed if job.retry else download_shard
    return fetch(job.reports["plan"], job.config(DownloadConfig), job.store)


STAGE: Final = Stage(
    name="download",
    version=VERSION,
    summary="one row per URL, the images in a tar, how each URL was tried in a log",
    unit="URLs",
    config=DownloadConfig,
    work=_work,
    tables=(DOWNLOAD, DOWNLOAD_LOG),
    needs=("plan",),
    network=True,
)
