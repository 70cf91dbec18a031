"""What changed between two dataset versions: samples that came, went or changed, and why."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.errors import MissingFileError
from storage.ids import Json
from storage.lineage import StageRecord, VersionInfo
from storage.parquet import read_parquet
from storage.reports import DROPPED_TABLE, TABLE, file_path
from storage.tables import TableSchema, compute
from storage.versions import VersionStore

if TYPE_CHECKING:
    import pyarrow as pa

_WHERE_IT_LIES = frozenset({"tar", "tar_offset", "tar_size", "image_shard", "image_offset", "image_size"})
"""Columns that say where a sample lies, not what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleChange:
    """One sample that came, went or changed; why; and for a change the manifest's columns that differ."""

    sample_id: str
    why: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VersionDiff:
    """All differences from version ``old`` to version ``new``, each list sorted by ``sample_id``."""

    old: str
    new: str
    lineage: tuple[str, ...]
    """What was done otherwise: ``caption: config.max_new_tokens 30 -> 20``."""
    added: tuple[SampleChange, ...]
    removed: tuple[SampleChange, ...]
    changed: tuple[SampleChange, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return added, removed and changed -> why -> number of samples, the most frequent reason first."""
        lists = {"added": self.added, "removed": self.removed, "changed": self.changed}
        return {name: dict(Counter(change.why for change in changes).most_common()) for name, changes in lists.items()}


def diff_versions(versions: VersionStore, old: str, new: str) -> VersionDiff:
    """Compare two versions.

    Why a sample is missing from one of them is read from the dropped samples of all its stages, then from its filter,
    then from its plan; a stage's files that are gone are skipped.

    Raises:
        UnknownVersionError: one of them is not there.
        CorruptFileError: a file that is needed is damaged.
    """
    before, after = versions.load(old), versions.load(new)
    rows, other = versions.manifest(before), versions.manifest(after)
    held, wanted = set(rows["sample_id"].to_pylist()), set(other["sample_id"].to_pylist())
    lineage = tuple(_lineage_changes(before, after))
    missing = _absences(versions, before, wanted - held)
    gone = _absences(versions, after, held - wanted)
    return VersionDiff(
        old=before.id,
        new=after.id,
        lineage=lineage,
        added=tuple(SampleChange(sample_id=name, why=f"before: {why}") for name, why in sorted(missing.items())),
        removed=tuple(SampleChange(sample_id=name, why=f"now: {why}") for name, why in sorted(gone.items())),
        changed=tuple(_changes(rows, other, held & wanted, lineage, _order(before, after))),
    )


def _absences(versions: VersionStore, info: VersionInfo, sample_ids: set[str]) -> dict[str, str]:
    """Return sample id -> why the version does not have it."""
    if not sample_ids:
        return {}
    reasons: dict[str, str] = {}
    known: set[str] = set()
    for stage, name, table in _records(versions, info, sample_ids):
        if name == DROPPED_TABLE:  # a later stage's word counts: a plan also drops doubles of what it keeps
            reasons |= {row["sample_id"]: f"{stage} dropped it: {row['reason']}" for row in table.to_pylist()}
        else:
            known.update(table["sample_id"].to_pylist())
    for sample_id in sample_ids - reasons.keys():
        if info.where is not None:
            reasons[sample_id] = f"left out by the filter {info.where}"
        elif sample_id in known:
            reasons[sample_id] = "in the plan, but no stage says what became of it"
        else:
            reasons[sample_id] = "not among the inputs"
    return reasons


def _records(versions: VersionStore, info: VersionInfo, sample_ids: set[str]) -> "Iterator[tuple[str, str, pa.Table]]":
    pc = compute()

    asked = pc.field("sample_id").isin(sorted(sample_ids))
    files = versions.shard_files(info).to_pylist()
    order = [record.stage for record in info.stages]
    for row in sorted(files, key=lambda row: (order.index(row["stage"]), row["shard"], row["name"])):
        if row["name"] != DROPPED_TABLE and (row["stage"], row["name"]) != (order[0], TABLE):
            continue
        path = file_path(row["stage"], row["fingerprint"], row["shard"], row["name"], row["sha256"])
        columns = ("sample_id", "reason") if row["name"] == DROPPED_TABLE else ("sample_id",)
        try:
            with versions.files.open(path) as stream:
                yield row["stage"], row["name"], read_parquet(stream, name=path, columns=columns, where=asked)
        except MissingFileError:
            continue


def _order(before: VersionInfo, after: VersionInfo) -> list[str]:
    """Return the stages of both versions in the order of the newer one; those that it left out come last."""
    return list(dict.fromkeys(record.stage for info in (after, before) for record in info.stages))


def _changes(
    rows: "pa.Table", other: "pa.Table", common: set[str], lineage: tuple[str, ...], order: Sequence[str]
) -> Iterator[SampleChange]:
    if not common:
        return
    import pyarrow as pa

    pc = compute()

    columns_of = [{column.name: column for column in TableSchema.of(table.schema).columns} for table in (rows, other)]
    shared = pa.array(sorted(common), type=pa.string())
    # Manifests are sorted by sample_id, so that the common rows of both stand in the same order.
    rows, other = (table.filter(pc.is_in(table["sample_id"], value_set=shared)) for table in (rows, other))
    differing: dict[int, list[str]] = {}
    for name in (name for name in columns_of[1] if name in columns_of[0]):
        if name not in _WHERE_IT_LIES:
            for row in _differing_rows(rows[name], other[name]):
                differing.setdefault(row, []).append(name)
    for row, columns in sorted(differing.items()):
        stage = min((columns_of[1][name].stage for name in columns), key=order.index)
        # The first stage that gives other values, or one before it whose change is only seen there.
        causes = [line for line in lineage if line.partition(":")[0] == stage]
        why = f"{stage} gives other values" + (f" ({'; '.join(causes)})" if causes else "")
        yield SampleChange(sample_id=shared[row].as_py(), why=why, columns=tuple(columns))


def _differing_rows(values: "pa.ChunkedArray", others: "pa.ChunkedArray") -> Iterable[int]:
    if values.equals(others):
        return ()
    pairs = zip(values.to_pylist(), others.to_pylist(), strict=True)
    return [row for row, (value, other) in enumerate(pairs) if not _same(value, other)]


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return value == other or (math.isnan(value) and math.isnan(other))
    return value == other


def _lineage_changes(before: VersionInfo, after: VersionInfo) -> Iterator[str]:
    if before.input_digest != after.input_digest:
        yield f"input: {before.input_digest:.16} -> {after.input_digest:.16}"
    for stage in _order(before, after):
        old, new = before.stage(stage), after.stage(stage)
        if old is not None and new is not None:
            yield from _stage_changes(stage, old, new)
        elif old is not new:
            yield f"{stage}: {'left out' if new is None else 'new'}"
    if before.where != after.where:
        yield f"filter: {before.where} -> {after.where}"


def _stage_changes(stage: str, old: StageRecord, new: StageRecord) -> Iterator[str]:
    if old.code_version != new.code_version:
        yield f"{stage}: code version {old.code_version} -> {new.code_version}"
    if old.weights_digest != new.weights_digest:
        yield f"{stage}: model {old.weights_digest!s:.16} -> {new.weights_digest!s:.16}"
    yield from (f"{stage}: {line}" for line in _json_changes("config", old.config, new.config))


def _json_changes(at: str, old: Json, new: Json) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _json_changes(f"{at}.{key}", old.get(key), new.get(key))
    elif old != new or type(old) is not type(new):
        yield f"{at} {old!r:.60} -> {new!r:.60}"
