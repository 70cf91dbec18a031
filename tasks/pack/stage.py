"""Stage 8, pack: everything above -> WebDataset tars, a manifest and a dataset version.

``plan_pack`` decides once for all pairs, ``pack_shard`` writes one tar, ``write_dataset`` makes the version of them. A
tar holds ``<sample_id>.{source,target}.<ext>``, ``.{source_mask,target_mask}.png`` and ``.json``; the same pairs give
the same bytes.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from iedit_model.batching import prefetch
from storage import (
    SAMPLE_PARTS,
    Dropped,
    EmptyVersionError,
    ShardReport,
    ShardStore,
    StageRun,
    TableSchema,
    TarMember,
    VersionInfo,
    VersionStore,
    manifest_schema,
    write_tar,
)
from storage.tables import compute
from tasks.pack.packed_sample import BadPartError, image_part, json_columns, json_records, mask_part
from tasks.pack.plan import PACK, PLAN_SHARD, STAGE, PackConfig, dropped_by, plan_pack, tar_names
from tasks.pack.rows import MASK_COLUMNS, PackInputError, PackInputs, manifest_rows
from tasks.stage import Output, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["STAGE", "PackConfig", "PackInputs", "pack_shard", "plan_pack", "tar_names", "write_dataset"]

_BATCH: Final = 256
_STORED: Final = ("stored_sha256", "image_shard", "image_offset", "image_size")
_READ: Final = ["sample_id", *_STORED, *(f"target_{name}" for name in _STORED), *MASK_COLUMNS]

_Row = dict[str, Any]
_Member = tuple[str, bytes]


def pack_shard(plan: ShardReport, tar: str, inputs: PackInputs, config: PackConfig, store: ShardStore) -> ShardReport:
    """Write one tar of the plan, or return the finished report.

    Images are read where they were stored, some ahead in threads, checked and copied as they are.

    Args:
        plan: report of ``plan_pack``.
        tar: one of ``tar_names(plan)``.
        inputs: as they were for the plan.
        config: as it was for the plan.
        store: where all of it lies.

    Returns:
        A report with the tar and its rows of the manifest. Dropped are samples of which a part is not what was stored:
        ``damaged_source_image``, ``damaged_target_image``, ``damaged_source_mask`` or ``damaged_target_mask``. When
        none is left there is no tar.

    Raises:
        PackInputError: the plan knows no such tar, or the tables do not fit together.
        MissingFileError: a tar of the download stage is gone.
        DamagedFileError: it is not what was stored, so that its shard must be downloaded again.
    """

    def work(space: Workspace) -> Output:
        schema = manifest_schema([*inputs.tables(store), PACK])
        rows = _rows_of_tar(plan, tar, inputs, store)
        samples = _Samples(rows, json_columns(schema), inputs, store)
        written = write_tar(space.scratch("tar"), samples.members(config.read_threads))
        table = _packed(rows, schema, samples.kept, written.members, space.target.path("tar", written.sha256))
        return Output(
            num_in=rows.num_rows,
            table=table,
            schema=schema,
            blobs={"tar": written} if samples.kept else {},
            dropped=samples.dropped,
        )

    return STAGE.shard(tar, store, work, config=config, inputs=(plan.fingerprint, plan.digest))


def write_dataset(
    plan: ShardReport,
    packed: Sequence[ShardReport],
    config: PackConfig,
    store: ShardStore,
    *,
    runs: Sequence[StageRun],
    input_digest: str,
) -> VersionInfo:
    """Write the dataset version of all packed tars and return it.

    Args:
        plan: report of ``plan_pack``.
        packed: reports of ``pack_shard``, one for each of ``tar_names(plan)``, in any order.
        config: as it was for them.
        store: where they lie.
        runs: the other stages that led here.
        input_digest: hash of the input manifest.

    Raises:
        PackInputError: a tar of the plan is missing.
        EmptyVersionError: no sample is left.
        VersionError: see ``VersionStore.write``.
    """
    import pyarrow as pa

    if missing := set(tar_names(plan)) ^ {report.shard for report in packed}:
        raise PackInputError(f"the tars of a dataset are those of its plan; missing or too many: {sorted(missing)[:8]}")
    # Sorted here, so that writing it makes no further copy.
    manifest = pa.concat_tables([store.read_table(report) for report in packed]).sort_by("sample_id")
    if not manifest.num_rows:
        lost = ", ".join(f"{reason} {count:,}" for reason, count in dropped_by(plan, *packed).most_common())
        raise EmptyVersionError(f"no sample could be packed, so that there is no dataset; dropped: {lost}")
    run = StageRun(stage=STAGE.name, code_version=STAGE.version, config=config, reports=(plan, *packed))
    return VersionStore(store.files).write(manifest, runs=(*runs, run), input_digest=input_digest)


class _Samples:
    """The samples of one tar on their way into it: which were kept, which dropped."""

    def __init__(self, rows: "pa.Table", names: Sequence[str], inputs: PackInputs, store: ShardStore) -> None:
        self._rows, self._names, self._store = rows, names, store
        self._downloads = {report.shard: report for report in inputs.stages["download"]}
        self.kept: list[int] = []
        """Rows whose members were given out, in order."""
        self.dropped: list[Dropped] = []

    def members(self, num_threads: int) -> Iterator[_Member]:
        """Yield the members of all sound samples; few samples are in memory at a time."""
        loaded = prefetch(self._samples(), self._load, num_threads=num_threads, ahead=max(1, 2 * num_threads))
        for row, (sample_id, parts) in enumerate(loaded):
            if isinstance(parts, BadPartError):
                self.dropped.append(Dropped(sample_id=sample_id, reason=parts.reason, detail=str(parts)))
                continue
            self.kept.append(row)
            yield from ((f"{sample_id}.{end}", data) for end, data in parts)

    def _samples(self) -> Iterator[tuple[_Row, _Member]]:
        rows = (row for batch in self._rows.select(_READ).to_batches(max_chunksize=_BATCH) for row in batch.to_pylist())
        return zip(rows, json_records(self._rows, self._names), strict=True)

    def _load(self, sample: tuple[_Row, _Member]) -> tuple[str, list[_Member] | BadPartError]:
        row, record = sample
        try:
            return row["sample_id"], [*self._images(row), *_masks(row), record]
        except BadPartError as error:
            return row["sample_id"], error

    def _images(self, row: _Row) -> Iterator[_Member]:
        for part, prefix in (("source", ""), ("target", "target_")):
            shard, offset, size = (row[f"{prefix}image_{name}"] for name in ("shard", "offset", "size"))
            sha256 = row[f"{prefix}stored_sha256"]
            yield image_part(part, self._store.read_member(self._downloads[shard], offset, size, sha256=sha256))


def _masks(row: _Row) -> Iterator[_Member]:
    for column in MASK_COLUMNS:
        yield mask_part(column.removesuffix("_png"), row[column])


def _rows_of_tar(plan: ShardReport, tar: str, inputs: PackInputs, store: ShardStore) -> "pa.Table":
    """Return all that is known of the samples of one tar, in their order in it."""
    import pyarrow as pa

    pc = compute()
    planned = store.read_table(plan, where=pc.field("tar") == tar).combine_chunks()
    if plan.shard != PLAN_SHARD or not planned.num_rows:
        raise PackInputError(f"{plan.name} plans no tar {tar!r}; it plans {tar_names(plan)[:8]}")
    tables = []
    for shard in sorted(set(planned["shard"].to_pylist())):
        part = planned.filter(pc.field("shard") == shard).combine_chunks()
        known = manifest_rows(inputs, store, shard, part["sample_id"])
        for name in part.column_names:
            if name not in known.column_names:
                known = known.append_column(part.schema.field(name), part[name])
        tables.append(known)
    return pa.concat_tables(tables).sort_by("position").combine_chunks()


def _packed(
    rows: "pa.Table", schema: TableSchema, kept: Sequence[int], members: Sequence[TarMember], path: str
) -> "pa.Table":
    """Return the rows of the manifest of what was packed."""
    import pyarrow as pa

    parts = len(SAMPLE_PARTS)
    samples = [members[i : i + parts] for i in range(0, len(members), parts)]
    found: dict[str, Any] = {
        "tar": pa.array([path] * len(kept), pa.string()),
        "tar_offset": pa.array([sample[0].start for sample in samples], pa.int64()),
        "tar_size": pa.array([sample[-1].end - sample[0].start for sample in samples], pa.int64()),
    }
    for i, part in enumerate(SAMPLE_PARTS):
        found[f"{part}_member_sha256"] = pa.array([sample[i].sha256 for sample in samples], pa.string())
    rows = rows.take(pa.array(kept, pa.int64()))
    return pa.table({name: found[name] if name in found else rows[name] for name in schema.names})
