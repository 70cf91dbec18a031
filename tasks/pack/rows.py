"""What the stages know of the pairs that are packed, gathered from their tables: narrow columns first, all of it later.

The tables of one shard are in memory at a time; of the whole corpus only what is asked for each picture of a pair.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from storage import CAPTION, DOWNLOAD, MANIFEST, MASK, PLAN, RETRIEVE, SWAP, ShardReport, ShardStore, TableSchema
from storage.arrow import compute
from tasks.corpus import Ids, packed_ids
from tasks.errors import TaskError
from tasks.pack.components import Int64s

if TYPE_CHECKING:
    import pyarrow as pa

COPY_REASONS: Final = ("same_url", "same_hash", "near_duplicate")
"""Reasons of the retrieve stage for candidates that show the source again."""

IMAGE_COLUMNS: Final = (
    *("url", "alt_text", "sha256", "stored_sha256", "phash"),
    *("image_shard", "image_offset", "image_size"),
)
"""What is gathered for every picture of a pair, beside its caption."""

_RENAMED: Final = {"plan": {"width": "laion_width", "height": "laion_height", "similarity": "laion_similarity"}}
_STAGES: Final[Mapping[str, TableSchema]] = {
    "plan": PLAN,
    "download": DOWNLOAD,
    "caption": CAPTION,
    "swap": SWAP,
    "retrieve": RETRIEVE,
    "mask": MASK,
}
MASK_COLUMNS: Final = ("source_mask_png", "target_mask_png")


class PackInputError(TaskError):
    """The tables of the stages do not fit together; the message names stage, shard and sample."""


@dataclass(frozen=True, kw_only=True)
class PackInputs:
    """Finished reports of the stages that a dataset is packed from; their order does not matter.

    Raises:
        PackInputError: a report of another stage, a shard twice, or a shard of masks without all earlier stages.
    """

    plan: tuple[ShardReport, ...]
    download: tuple[ShardReport, ...]
    caption: tuple[ShardReport, ...]
    swap: tuple[ShardReport, ...]
    retrieve: tuple[ShardReport, ...]
    mask: tuple[ShardReport, ...]
    embed: tuple[ShardReport, ...] = ()
    """Confirm that pictures with close perceptual hashes are alike; needed unless the configuration does without."""

    def __post_init__(self) -> None:
        for field in fields(self):
            reports = getattr(self, field.name)
            if wrong := [report.name for report in reports if report.stage != field.name]:
                raise PackInputError(f"the report {wrong[0]} does not belong to the stage {field.name}")
            shards = {report.shard for report in reports}
            if len(shards) != len(reports):
                raise PackInputError(f"the stage {field.name} comes with a shard twice: {sorted(shards)[:8]}")
            if field.name != "embed" and (lacking := {report.shard for report in self.mask} - shards):
                raise PackInputError(f"the stage {field.name} lacks the shard {min(lacking)}, which has masks")

    def of(self, stage: str, shard: str) -> ShardReport:
        """Return the report of one stage and shard.

        Raises:
            PackInputError: it is not among them.
        """
        found = next((report for report in getattr(self, stage) if report.shard == shard), None)
        if found is None:
            raise PackInputError(f"the stage {stage} lacks the shard {shard}")
        return found

    def digests(self) -> tuple[str, ...]:
        """Return a digest for each report, sorted by stage and shard."""
        return tuple(
            report.digest
            for field in fields(self)
            for report in sorted(getattr(self, field.name), key=lambda report: report.shard)
        )


def read_pairs(inputs: PackInputs, store: ShardStore) -> "pa.Table":
    """Return one row a pair, sorted by ``sample_id``: the columns that splits and order are made from.

    ``sample_id``, ``target_id``, ``shard`` (of the stages), ``source_file``, ``source_row``, ``caption``,
    ``edit_prompt``.
    """
    import pyarrow as pa

    tables = []
    for report in inputs.mask:
        table = store.read_table(report, columns=["sample_id", "target_id"])
        ids = table["sample_id"]
        for stage, columns in (("plan", ("source_file", "source_row")), ("swap", ("caption", "edit_prompt"))):
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
    """Return ``IMAGE_COLUMNS`` and ``caption`` of the pictures ``ids`` (sorted, without repetition), in their order.

    Raises:
        PackInputError: a picture is in no download or caption table, or was never fetched.
    """
    images = _gathered(store, inputs.download, ids, IMAGE_COLUMNS)
    for name in IMAGE_COLUMNS:
        if images[name].null_count and name != "alt_text":
            lost = images.filter(compute().field(name).is_null())["sample_id"][0].as_py()
            raise PackInputError(f"the picture {lost} of a pair has no {name}: it was never fetched")
    shards = {report.shard for report in inputs.download}
    if strange := set(images["image_shard"].unique().to_pylist()) - shards:
        raise PackInputError(f"a picture of a pair lies in the download shard {min(strange)!r}, which was not given")
    return images.append_column("caption", _gathered(store, inputs.caption, ids, ("caption",))["caption"])


def read_copies(inputs: PackInputs, store: ShardStore, ids: Ids) -> tuple[Int64s, Int64s]:
    """Return links between the pictures ``ids``, as positions in them, that the retrieve stage found to be copies."""
    ends = [np.zeros((2, 0), np.int64)]
    for report in inputs.retrieve:
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
    for stage, schema in _STAGES.items():
        renamed = _RENAMED.get(stage, {})
        wanted = {name: renamed.get(name, name) for name in schema.names}
        names = [
            name
            for name, column in wanted.items()
            if column not in columns and (column in MANIFEST.names or name in MASK_COLUMNS)
        ]
        rows = rows_of(store, inputs.of(stage, shard), ids, names)
        columns |= {wanted[name]: rows[name] for name in names}
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
        raise PackInputError(f"the picture {name} of a pair is in {number} tables of the stage {reports[0].stage}")
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
