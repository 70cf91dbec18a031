"""A takedown: a list of images -> a new version without every sample that shows one of them, as source or target.

Only tars that hold such a sample are written anew; all others are shared with the old version byte for byte. What the
earlier stages stored stays, and so do the old versions, until ``tasks.dataset.purge`` removes every trace.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from storage import (
    CorruptFileError,
    Dropped,
    FileEntry,
    MissingFileError,
    ShardReport,
    ShardStore,
    ShardTarget,
    StageRecord,
    StageRun,
    TableSchema,
    TarMember,
    VersionInfo,
    VersionStore,
    digest_of,
    fingerprint,
    iter_tar,
    split_member,
    write_tar,
)
from storage.parquet import is_text, texts_of
from storage.reports import file_path
from storage.tables import SHARD_FILES, compute
from tasks.corpus import ID_LENGTH, url_key
from tasks.errors import TaskError
from tasks.outside import TriedParquet
from tasks.pack.plan import STAGE

if TYPE_CHECKING:
    import pyarrow as pa

REASON: Final = "taken_down"
"""Why the samples are dropped, as one word."""
_NOBODY: Final = "0" * ID_LENGTH
"""Stands for a sample that must not be named."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"https?:[/\\]*[^/\\\s].*", re.IGNORECASE)
_URL_COLUMNS: Final = ("url", "target_url")
_HASH_COLUMNS: Final = ("sha256", "target_sha256", "stored_sha256", "target_stored_sha256")
_LIST_COLUMNS: Final = frozenset({"url", "sha256", "hash"})
_MAX_LIST_BYTES: Final = 1 << 28
_MAX_ENTRY_BYTES: Final = 1 << 16


class TakedownListError(TaskError):
    """A takedown list that cannot be understood; the message names the line or the columns."""


@dataclass(frozen=True, kw_only=True)
class TakedownList:
    """Images that must go: any of the URLs, any of the hashes.

    Raises:
        TakedownListError: it is empty, or an entry is neither a URL nor a sha256.
    """

    urls: frozenset[str] = frozenset()
    """http(s) URLs in any spelling (``canonical_url``)."""
    hashes: frozenset[str] = frozenset()
    """sha256 of an image's bytes, as fetched or as stored, 64 lower-case hex characters."""

    def __post_init__(self) -> None:
        for entries, form, what in ((self.urls, _URL, "http(s) URL"), (self.hashes, _SHA256, "sha256")):
            if wrong := sorted(entry for entry in entries if not form.fullmatch(entry)):
                raise TakedownListError(f"{wrong[0]!r:.200} in the takedown list is no {what}")
        if not self.urls and not self.hashes:
            raise TakedownListError("the takedown list is empty: give one http(s) URL or sha256 per line")

    @property
    def digest(self) -> str:
        """64 hex characters over all entries, in whatever order they came."""
        return digest_of(*sorted(self.urls), *sorted(self.hashes))


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """What a takedown did."""

    version: VersionInfo
    """The new version, or the old one when no sample is concerned."""
    removed: tuple[str, ...]
    """Ids of the samples that went, sorted."""
    tars: tuple[str, ...]
    """Tars of the old version that the new one does not use, sorted."""
    unmatched: tuple[str, ...]
    """Entries of the list that no sample matches, sorted."""


@dataclass(frozen=True, kw_only=True)
class _Removal:
    """What decides the bytes of a tar that is written anew."""

    sample_ids: tuple[str, ...]


def read_takedown_list(path: Path) -> TakedownList:
    """Read a list: a parquet file with a column ``url``, ``sha256`` or ``hash``, else text with one entry a line.

    Empty lines and lines that begin with ``#`` mean nothing.

    Raises:
        TakedownListError: the file is missing, too large, or has a line that is neither a URL nor a sha256.
    """
    urls, hashes = set[str](), set[str]()
    try:
        if (size := path.stat().st_size) > _MAX_LIST_BYTES or not path.is_file():
            raise TakedownListError(
                f"the takedown list {path} has {size} bytes: files of at most {_MAX_LIST_BYTES} are read"
            )
        for where, entry in _parquet_entries(path) if _is_parquet(path) else _text_entries(path):
            if _SHA256.fullmatch(entry.lower()):
                hashes.add(entry.lower())
            elif _URL.fullmatch(entry):
                urls.add(entry)
            else:
                raise TakedownListError(f"{where}: {entry!r:.200} is neither an http(s) URL nor a sha256")
    except OSError as error:
        raise TakedownListError(f"the takedown list {path} cannot be read: {error.strerror}") from error
    return TakedownList(urls=frozenset(urls), hashes=frozenset(hashes))


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What a version must not even name any more, since it is about to be removed for good."""

    ids: frozenset[str]
    """Of the samples that go."""
    paths: frozenset[str]
    """Files of stages that go."""

    def renamed(self, rows: "pa.Table") -> "pa.Table":
        """Return rows in which another name stands for each of the ids: as a candidate, say, or as that of a group."""
        import pyarrow as pa

        pc = compute()
        for number, field in enumerate(rows.schema):
            lists = pa.types.is_list(field.type)
            column = rows.column(number).combine_chunks()
            values = column.values if lists else column
            if pa.types.is_string(values.type):
                hit = pc.is_in(values, value_set=pa.array(sorted(self.ids), pa.string()))
                other = pa.array(
                    [digest_of(name)[:ID_LENGTH] if name in self.ids else name for name in values.to_pylist()]
                )
                values = pc.if_else(hit, other.cast(pa.string()), values)
                column = pa.ListArray.from_arrays(column.offsets, values, type=field.type) if lists else values
                rows = rows.set_column(number, field, column)
        return rows


def take_down(versions: VersionStore, version: str, listed: TakedownList, *, purged: Purged | None = None) -> Takedown:
    """Write the version that has no sample which shows a listed image.

    Args:
        versions: the versions of a store.
        version: id of the old version, or the beginning of it.
        listed: what must go.
        purged: what is to be removed for good: the new version takes the old one's place.

    Raises:
        UnknownVersionError: there is no such version.
        EmptyVersionError: no sample would be left.
        CorruptFileError: a tar or table of the old version is damaged.
    """
    parent = versions.load(version)
    store = ShardStore(versions.files)
    matcher = _Matcher(listed)
    reports = _pack_reports(versions, parent)
    renewed: dict[str, ShardReport] = {}
    for report in reports:
        if any(suffix == "tar" for suffix in report.files):
            ids = matcher.hit(store.read_table(report, columns=["sample_id", *_URL_COLUMNS, *_HASH_COLUMNS]))
            if ids or (purged is not None and not purged.paths.isdisjoint(map(report.path, report.files))):
                renewed[report.shard] = _without(store, report, ids, purged)
    if not renewed and purged is None:
        return Takedown(version=parent, removed=(), tars=(), unmatched=matcher.unmatched())
    old = {report.path("tar"): report for report in reports if report.shard in renewed}
    manifest = _manifest(versions, parent, store, {path: renewed[report.shard] for path, report in old.items()})
    removed = set(versions.manifest(parent, columns=["sample_id"])["sample_id"].to_pylist())
    removed -= set(manifest["sample_id"].to_pylist())
    where = f"without the images of the takedown list {listed.digest[:16]}"
    info = versions.derive(
        parent,
        manifest,
        shard_files=_listing(versions, parent, renewed, purged),
        tars=_tars(renewed.values()),
        stages=_stages(parent, [renewed.get(report.shard, report) for report in reports], listed),
        where=f"{parent.where}, {where}" if purged is not None and parent.where else where,
        replaces=purged is not None,
    )
    return Takedown(
        version=info, removed=tuple(sorted(removed)), tars=tuple(sorted(old)), unmatched=matcher.unmatched()
    )


class _Matcher:
    """Finds samples that show a listed image, and remembers which entries were met."""

    def __init__(self, listed: TakedownList) -> None:
        self._keys: dict[str, int | str] = {url: url_key(url) for url in listed.urls}
        self._keys |= {sha256: sha256 for sha256 in listed.hashes}
        self._wanted = frozenset(self._keys.values())
        self._met: set[int | str] = set()

    def hit(self, rows: "pa.Table") -> tuple[str, ...]:
        """Return the ids of the rows to remove."""
        ids = []
        for row in rows.to_pylist():
            keys = {url_key(row[name]) for name in _URL_COLUMNS} | {row[name] for name in _HASH_COLUMNS}
            if met := keys & self._wanted:
                ids.append(row["sample_id"])
                self._met |= met
        return tuple(ids)

    def unmatched(self) -> tuple[str, ...]:
        """Return the entries that no row had, sorted."""
        return tuple(sorted(entry for entry, key in self._keys.items() if key not in self._met))


def _text_entries(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if (entry := line.strip()) and not entry.startswith("#"):
                    yield f"{path}, line {number}", entry
    except UnicodeDecodeError as error:
        raise TakedownListError(f"the takedown list {path} is no UTF-8 text: {error.reason}") from error


def _parquet_entries(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open("rb") as stream:
            table = TriedParquet(stream, name=str(path), max_bytes=_MAX_LIST_BYTES)
            names = table.schema.names
            known = [name for name in names if name.lower() in _LIST_COLUMNS and is_text(table.schema.field(name).type)]
            if not known:
                raise TakedownListError(
                    f"{path} has no column of texts {', '.join(sorted(_LIST_COLUMNS))}; it has {', '.join(names)}"
                )
            row = 0
            for batch in table.batches(known):
                for name in known:
                    entries = texts_of(batch.column(name), max_bytes=_MAX_ENTRY_BYTES)
                    # A text that is repeated a million times is one entry.
                    for entry, index in {text: index for index, text in enumerate(entries) if text is not None}.items():
                        yield f"{path}, {name} of row {row + index}", entry.strip()
                row += batch.num_rows
    except CorruptFileError as error:
        raise TakedownListError(f"the takedown list is no parquet file that can be read: {error}") from error


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1" or path.suffix.lower() in {".parquet", ".pq"}


def _pack_reports(versions: VersionStore, info: VersionInfo) -> list[ShardReport]:
    """Return the reports of all shards of pack that a version was made from."""
    rows = versions.shard_files(info).filter(compute().field("stage") == STAGE.name)
    found = []
    for shard, name in sorted({(row["shard"], row["fingerprint"]) for row in rows.to_pylist()}):
        report = ShardStore(versions.files).target(STAGE.name, shard, name).finished()
        if report is None:
            raise MissingFileError(f"the shard {STAGE.name}/{shard} of version {info.id} is not whole any more")
        found.append(report)
    return found


def _without(store: ShardStore, report: ShardReport, removed: Sequence[str], purged: Purged | None) -> ShardReport:
    """Write one tar anew without some samples and return its report; all other bytes are copied."""
    config = _Removal(sample_ids=tuple(sorted({*removed, *(() if purged is None else purged.ids)})))
    inputs = (report.fingerprint, report.digest, *(() if purged is None else ("purged",)))
    name = fingerprint(stage=STAGE.name, version=STAGE.version, config=config, inputs=inputs)
    target = store.target(STAGE.name, report.shard, name)
    if (done := target.finished()) is not None:
        return done
    started = time.monotonic()
    gone = frozenset(removed)
    rows = store.read_table(report)
    rows = rows.filter(_not_in(rows["sample_id"], gone))
    lost = [Dropped(**row) for row in store.read_dropped(report).to_pylist()]
    lost += [Dropped(sample_id=name, reason=REASON) for name in sorted(gone)]
    if purged is not None:
        rows = purged.renamed(rows)
        lost = [replace(drop, sample_id=_NOBODY, detail="") if drop.sample_id in purged.ids else drop for drop in lost]
    with target.scratch("tar") as path:
        with store.open_blob(report, "tar") as stream:
            members = iter_tar(stream, name=report.path("tar"))
            kept = ((found.name, data) for found, data in members if split_member(found.name)[0] not in gone)
            written = write_tar(path, kept)
        return target.commit(
            num_in=report.num_in,
            seconds=time.monotonic() - started,
            table=_placed(rows, written.members, target, written.sha256),
            schema=TableSchema.of(rows.schema),
            blobs={"tar": written} if rows.num_rows else {},
            dropped=lost,
        )


def _placed(rows: "pa.Table", members: Sequence[TarMember], target: ShardTarget, sha256: str) -> "pa.Table":
    """Return rows of the manifest with the offsets that their samples have in a new tar."""
    import pyarrow as pa

    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    for member in members:
        sample_id = split_member(member.name)[0]
        starts.setdefault(sample_id, member.start)
        ends[sample_id] = member.end
    ids = rows["sample_id"].to_pylist()
    new = {
        "tar": pa.array([target.path("tar", sha256)] * len(ids), pa.string()),
        "tar_offset": pa.array([starts[name] for name in ids], pa.int64()),
        "tar_size": pa.array([ends[name] - starts[name] for name in ids], pa.int64()),
    }
    return pa.table({name: new.get(name, rows[name]) for name in rows.column_names})


def _manifest(
    versions: VersionStore, parent: VersionInfo, store: ShardStore, renewed: dict[str, ShardReport]
) -> "pa.Table":
    """Return the parent's manifest with the rows of the renewed tars exchanged; ``renewed`` goes by their old paths."""
    import pyarrow as pa

    manifest = versions.manifest(parent)
    pc = compute()
    concerned = pc.is_in(manifest["tar"], value_set=pa.array(sorted(renewed), pa.string()))
    ids = frozenset(manifest.filter(concerned)["sample_id"].to_pylist())
    tables = [manifest.filter(pc.invert(concerned))]
    for report in renewed.values():
        rows = store.read_table(report)
        # A version may be a part of its tars: what it left out before stays out.
        tables.append(rows.filter(pc.invert(_not_in(rows["sample_id"], ids))))
    return pa.concat_tables(tables)


def _listing(
    versions: VersionStore, parent: VersionInfo, renewed: dict[str, ShardReport], purged: Purged | None
) -> "pa.Table":
    import pyarrow as pa

    pc = compute()
    files = versions.shard_files(parent)
    shards = pa.array(sorted(renewed), pa.string())
    kept = files.filter(~((pc.field("stage") == STAGE.name) & pc.field("shard").isin(shards)))
    if purged is not None:
        places = (
            (row["stage"], row["fingerprint"], row["shard"], row["name"], row["sha256"]) for row in kept.to_pylist()
        )
        kept = kept.filter(pa.array([file_path(*place) not in purged.paths for place in places], pa.bool_()))
    rows = [
        {"stage": STAGE.name, "shard": report.shard, "fingerprint": report.fingerprint, "name": name}
        | {"size": entry.size, "sha256": entry.sha256}
        for report in renewed.values()
        for name, entry in report.files.items()
    ]
    return pa.concat_tables([kept, SHARD_FILES.table(rows)])


def _tars(reports: Iterable[ShardReport]) -> dict[str, FileEntry]:
    return {report.path("tar"): report.files["tar"] for report in reports if "tar" in report.files}


def _stages(parent: VersionInfo, reports: Sequence[ShardReport], listed: TakedownList) -> tuple[StageRecord, ...]:
    """Return the parent's lineage with pack as it is now; its configuration says which lists it was freed from."""
    run = StageRun(stage=STAGE.name, code_version=STAGE.version, config=None, reports=tuple(reports))
    record = StageRecord.of(run)
    before = next(stage for stage in parent.stages if stage.stage == STAGE.name)
    config: dict[str, Any] = dict(before.config) if isinstance(before.config, dict) else {"config": before.config}
    config["takedowns"] = [*config.get("takedowns", []), listed.digest]
    made = replace(record, config=json.loads(json.dumps(config)), weights_digest=before.weights_digest)
    return tuple(made if stage.stage == STAGE.name else stage for stage in parent.stages)


def _not_in(values: "pa.ChunkedArray", gone: frozenset[str]) -> "pa.ChunkedArray":
    import pyarrow as pa

    pc = compute()
    return pc.invert(pc.is_in(values, value_set=pa.array(sorted(gone), pa.string())))
