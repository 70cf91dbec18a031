"""What the stages know of the pairs that are packed, gathered from their tables: narrow columns first, all of it later.

The tables of one shard are in memory at a time; of the whole corpus only what is asked for each image of a pair.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from storage import ShardReport, ShardStore, TableSchema
from storage.tables import compute
from tasks.corpus import Ids, packed_ids
from tasks.errors import TaskError
from tasks.pack.splits import Int64s

if TYPE_CHECKING:
    import pyarrow as pa

COPY_REASONS: Final = ("same_url", "same_hash", "near_duplicate")
"""Reasons of the retrieve stage for candidates that show the source again."""

IMAGE_COLUMNS: Final = (
    *("url", "alt_text", "sha256", "stored_sha256", "phash"),
    *("image_shard", "image_offset", "image_size"),
)
"""What is gathered for every image of a pair, beside its caption."""

MASK_COLUMNS: Final = ("source_mask_png", "target_mask_png")


class PackInputError(TaskError):
    """The tables of the stages do not fit together; the message names stage, shard and sample."""


_NEEDED: Final = ("plan", "download", "caption", "swap", "retrieve", "mask")


@dataclass(frozen=True)
class PackInputs:
    """Finished reports of the stages that a dataset is packed from; the order of a stage's reports does not matter.

    Raises:
        PackInputError: a stage is missing, a report of another stage, a shard twice, or a shard of masks without all
            earlier stages.
    """

    stages: Mapping[str, tuple[ShardReport, ...]]
    """Stage -> its reports, in the order of the stages, which is that of the manifest's columns. Those of ``embed``
    confirm that images with close perceptual hashes are alike; needed unless the configuration does without."""

    def __post_init__(self) -> None:
        if absent := [stage for stage in _NEEDED if stage not in self.stages]:
            raise PackInputError(f"a dataset is packed from the stages {', '.join(_NEEDED)}; {absent[0]} is missing")
        for stage, reports in self.stages.items():
            if wrong := [report.name for report in reports if report.stage != stage]:
                raise PackInputError(f"the report {wrong[0]} does not belong to the stage {stage}")
            shards = {report.shard for report in reports}
            if len(shards) != len(reports):
                raise PackInputError(f"the stage {stage} comes with a shard twice: {sorted(shards)[:8]}")
            if stage != "embed" and (lacking := {report.shard for report in self.stages["mask"]} - shards):
                raise PackInputError(f"the stage {stage} lacks the shard {min(lacking)}, which has masks")

    def of(self, stage: str, shard: str) -> ShardReport:
        """Return the report of one stage and shard.

        Raises:
            PackInputError: it is not among them.
        """
        found = next((report for report in self.stages[stage] if report.shard == shard), None)
        if found is None:
            raise PackInputError(f"the stage {stage} lacks the shard {shard}")
        return found

    def digests(self) -> tuple[str, ...]:
        """Return a digest for each report, sorted by stage and shard."""
        return tuple(
            report.digest
            for _, reports in sorted(self.stages.items())
            for report in sorted(reports, key=lambda report: report.shard)
        )

    def tables(self, store: ShardStore) -> list[TableSchema]:
        """Return the declarations of the stages' tables, as their files carry them."""
        return [store.read_schema(reports[0]) for reports in self.stages.values() if reports]


def read_pairs(inputs: PackInputs, store: ShardStore) -> "pa.Table":
    """Return one row per pair, sorted by ``sample_id``: the columns that splits and order are made from.

    ``sample_id``, ``target_id``, ``shard`` (of the stages), ``source_file``, ``source_row``, ``caption``,
    ``edit_prompt``, ``relation``.
    """
    import pyarrow as pa

    tables = []
    for report in inputs.stages["mask"]:
        table = store.read_table(report, columns=["sample_id", "target_id"])
        ids = table["sample_id"]
        for stage, columns in (
            ("plan", ("source_file", "source_row")),
            ("swap", ("caption", "edit_prompt", "relation")),
        ):
            rows = rows_of(store, inputs.of(stage, report.shard), ids, columns)
            for name in columns:
                table = table.append_column(name, rows[name])
        shard = pa.array([report.shard] * table.num_rows, pa.string())
        tables.append(table.append_column("shard", shard))
    joined = pa.concat_tables(tables) if tables else pa.table({"sample_id": pa.array([], pa.string())})
    joined = joined.sort_by("sample_id").combine_chunks()
    _refuse_doubles(joined["sample_id"])
    return joined


def read_images(inputs: PackInputs, store: ShardStore, ids: Ids) -> "pa.Table":
    """Return ``IMAGE_COLUMNS`` and ``caption`` of the images ``ids`` (sorted, without repetition), in their order.

    Raises:
        PackInputError: a image is in no download or caption table, or was never fetched.
    """
    images = _gathered(store, inputs.stages["download"], ids, IMAGE_COLUMNS)
    for name in IMAGE_COLUMNS:
        if images[name].null_count and name != "alt_text":
            lost = images.filter(compute().field(name).is_null())["sample_id"][0].as_py()
            raise PackInputError(f"the image {lost} of a pair has no {name}: it was never fetched")
    shards = {report.shard for report in inputs.stages["download"]}
    if strange := set(images["image_shard"].unique().to_pylist()) - shards:
        raise PackInputError(f"a image of a pair lies in the download shard {min(strange)!r}, which was not given")
    return images.append_column("caption", _gathered(store, inputs.stages["caption"], ids, ("caption",))["caption"])


def read_copies(inputs: PackInputs, store: ShardStore, ids: Ids) -> tuple[Int64s, Int64s]:
    """Return links between the images ``ids``, as positions in them, that the retrieve stage found to be copies."""
    ends = [np.zeros((2, 0), np.int64)]
    for report in inputs.stages["retrieve"]:
        table = store.read_table(report, columns=["sample_id", "candidate_ids", "candidate_reasons"])
        for pair in _copies(table):
            places = np.array([places_of(ids, end) for end in pair])
            ends.append(places[:, (places >= 0).all(axis=0)])
    one, other = np.concatenate(ends, axis=1)
    return one, other


def manifest_rows(inputs: PackInputs, store: ShardStore, shard: str, ids: "pa.Array") -> "pa.Table":
    """Return all that the stages know of some samples of one shard, in the order of ``ids``.

    The columns are those of the manifest that come from a stage's own table, and the two masks.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {"sample_id": pa.chunked_array([ids])}
    for stage in inputs.stages:
        report = inputs.of(stage, shard)
        names = {column.name: column.manifest for column in store.read_schema(report).columns if column.manifest}
        if stage == "mask":
            names |= dict(zip(MASK_COLUMNS, MASK_COLUMNS, strict=True))
        if names:
            rows = rows_of(store, report, ids, list(names))
            columns |= {kept: rows[name] for name, kept in names.items()}
    return pa.table(columns)


def rows_of(
    store: ShardStore, report: ShardReport, ids: "pa.Array | pa.ChunkedArray", columns: Sequence[str]
) -> "pa.Table":
    """Return the rows of the samples ``ids`` (sorted) of one shard, in their order.

    Raises:
        PackInputError: the shard has no row of one of them.
    """
    pc = compute()
    ids = _chunked(ids)
    wanted = pc.field("sample_id").isin(ids.combine_chunks())
    table = store.read_table(report, columns=["sample_id", *columns], where=wanted).combine_chunks()
    if not table["sample_id"].equals(ids):
        missing = sorted(set(ids.to_pylist()) - set(table["sample_id"].to_pylist()))
        what = f"has no row of the sample {missing[0]}" if missing else "is not sorted by sample_id"
        raise PackInputError(f"the table of {report.name} {what}")
    return table


def _gathered(store: ShardStore, reports: Sequence[ShardReport], ids: Ids, columns: Sequence[str]) -> "pa.Table":
    import pyarrow as pa

    tables, places = [], [np.zeros(0, np.int64)]
    for report in reports:
        table = store.read_table(report, columns=["sample_id", *columns])
        at = places_of(ids, packed_ids(table["sample_id"].to_pylist()))
        tables.append(table.take(np.flatnonzero(at >= 0)))
        places.append(at[at >= 0])
    found = np.concatenate(places)
    times = np.bincount(found, minlength=len(ids))
    if len(wrong := np.flatnonzero(times != 1)):
        name, number = id_at(ids, wrong[0]), times[wrong[0]]
        raise PackInputError(f"the image {name} of a pair is in {number} tables of the stage {reports[0].stage}")
    return pa.concat_tables(tables).take(np.argsort(found)).combine_chunks()


def id_at(ids: Ids, row: int) -> str:
    """Return one of the ids as a string."""
    return bytes(ids[row]).decode()


def places_of(ids: Ids, asked: Ids) -> Int64s:
    """Return where each of ``asked`` stands in the sorted ``ids``, or -1."""
    if not len(ids):
        return np.full(len(asked), -1)
    at = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
    return np.where(ids[at] == asked, at, -1)


def _copies(table: "pa.Table") -> Iterator[tuple[Ids, Ids]]:
    """Yield (source ids, candidate ids) of the candidates that show their source again."""
    import pyarrow as pa

    pc = compute()
    for batch in table.to_batches(max_chunksize=4096):
        parents = pc.list_parent_indices(batch["candidate_reasons"])
        reasons, candidates = pc.list_flatten(batch["candidate_reasons"]), pc.list_flatten(batch["candidate_ids"])
        if len(reasons) != len(candidates):
            raise PackInputError("the retrieve table has candidates without a reason, or reasons without a candidate")
        copies = pc.is_in(reasons, value_set=pa.array(COPY_REASONS, pa.string()))
        sources = batch["sample_id"].take(parents.filter(copies))
        yield packed_ids(sources.to_pylist()), packed_ids(candidates.filter(copies).to_pylist())


def _refuse_doubles(ids: "pa.ChunkedArray") -> None:
    pc = compute()
    if len(ids) > 1 and pc.any(same := pc.equal(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py():
        twice = ids[pc.index(same, True).as_py()].as_py()
        raise PackInputError(f"the sample {twice} is in two shards")


def _chunked(ids: "pa.Array | pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    return ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids])
