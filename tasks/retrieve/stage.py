"""Stage 6, retrieve: image and edit prompt -> the target, another image of the corpus (Section 3.1 of the paper).

The paper takes the nearest neighbour of the mean of the two embeddings. Here a query finds candidates, what shows the
source again is excluded, the rest is ranked by weighted scores, and the first that passes the gates is the target.
"""

from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.configuration import configuration
from storage import Dropped, ShardReport, ShardStore
from tasks.corpus import Ids
from tasks.embed.stage import EmbedRows, read_embeds
from tasks.embed.vectors import (
    FLAWS,
    QUERIES,
    Bools,
    Float64s,
    Int64s,
    QueryConfig,
    QueryMode,
    find_flaws,
    query_embeds,
    unit_rows,
)
from tasks.index.stage import IndexConfig
from tasks.index.vector_index import IndexMismatchError, VectorIndex, cached_index
from tasks.retrieve.candidates import EXCLUSIONS, Batch, ExclusionConfig, find_candidates
from tasks.retrieve.gates import RETRIEVE, GateConfig, dropped_rows, gated
from tasks.retrieve.pair_scores import PairScores, RerankConfig, measure_pairs, ranking_scores, reranked
from tasks.stage import Job, Output, Stage, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

VERSION: Final = 2


@configuration
class RetrieveConfig:
    """What decides the targets; every field but ``batch_size`` is part of the fingerprint."""

    query: QueryConfig = field(default_factory=QueryConfig)
    top_k: Annotated[int, Field(ge=1, le=1000)] = 20
    """Candidates of a source that are scored, ranked and kept."""
    margin: Annotated[int, Field(ge=0, le=1000)] = 20
    """Candidates fetched at first beyond ``top_k``, since some are excluded; more are fetched where too many are."""
    exclude: ExclusionConfig = field(default_factory=ExclusionConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = field(default=1024, metadata={"fingerprint": False})
    """Sources that are searched for at once."""


def retrieval(mode: QueryMode) -> RetrieveConfig:
    """Return the retrieval of the paper (mean of the embeddings, nearest neighbour, no gates) or ours.

    Both exclude copies of the source, without which the paper's own query would return them. Ours holds for any CLIP;
    gates do not, since each CLIP has its own scale of cosines, and stand in the profiles.
    """
    paper = RetrieveConfig(query=QUERIES["paper"])
    if mode == "paper":
        return paper
    # docs/decisions/0005-retrieval-query.md
    return replace(
        paper,
        query=QUERIES["ours"],
        exclude=ExclusionConfig(same_caption=True),
        rerank=RerankConfig(similarity=1.0, directional=2.0, layout=0.5),
    )


def retrieve_shard(embeds: ShardReport, config: RetrieveConfig, store: ShardStore, index: VectorIndex) -> ShardReport:
    """Find the targets of one embedded shard in the whole corpus, or return the finished report.

    The result for a sample depends on the sample, the corpus and the configuration alone, not on its shard or batch.

    Args:
        embeds: report of the embed stage for this shard.
        config: the settings.
        store: where it lies.
        index: the opened index (``open_index``) over the embed reports of all shards.

    Returns:
        A report whose table (``RETRIEVE``) has one row per query; samples without a target keep their row and are
        dropped with a reason: ``no_candidates``, ``all_excluded``, ``source_text_low`` or ``all_gated``. Without a row
        are those for which there is no query: ``no_edit_prompt`` (a text embedding of zeros), ``no_query`` (the two
        embeddings cancel out), ``not_finite``, ``zero`` or ``not_unit``.

    Raises:
        IndexMismatchError: the index was made from other embeddings.
        EmbedTableError: the shard's table lacks a column.
        MissingScoreError: a gate or weight asks for a score that was not measured.
    """

    def work(_: Workspace) -> Output:
        rows = read_embeds(store, embeds, "image_embeds", "text_embeds", "caption_embeds")
        queries, reasons = _queries(rows, config.query, index)
        usable, unusable = np.flatnonzero(reasons == ""), np.flatnonzero(reasons != "")
        sources, queries = rows.take(usable), queries[usable]
        positions = _positions(sources, index, embeds.name)
        parts = np.split(np.arange(len(usable)), range(config.batch_size, len(usable), config.batch_size))
        table = _joined(
            [_retrieve(index, sources.take(part), queries[part], positions[part], config) for part in parts]
        )
        without = (Dropped(sample_id=rows.ids[row].decode(), reason=reasons[row]) for row in unusable)
        return Output(
            num_in=len(rows.ids),
            num_out=table.num_rows - table["target_id"].null_count,
            table=table,
            dropped=[*without, *dropped_rows(table)],
            extra={"text_weight": config.query.text_weight, "top_k": config.top_k, "rows": table.num_rows},
        )

    return STAGE.shard(embeds.shard, store, work, config=config, inputs=(embeds.digest, index.digest))


def _queries(rows: EmbedRows, config: QueryConfig, index: VectorIndex) -> tuple[Float64s, npt.NDArray[np.str_]]:
    """Return all queries (n, d) and for each sample why it has none, or an empty string."""
    images, texts = rows.held("image_embeds"), rows.held("text_embeds")
    image_flaws, text_flaws = find_flaws(images), find_flaws(texts)
    reasons = np.array(FLAWS, dtype="U32")[np.where(image_flaws > 0, image_flaws, text_flaws)]
    reasons[(image_flaws == 0) & (text_flaws == FLAWS.index("zero"))] = "no_edit_prompt"
    sound = (reasons == "")[:, None]
    queries = query_embeds(np.where(sound, images, 0), np.where(sound, texts, 0), config, index.means)
    reasons[(reasons == "") & ~queries.any(axis=1)] = "no_query"
    return queries, reasons


def _positions(rows: EmbedRows, index: VectorIndex, name: str) -> Int64s:
    """Return where the sources stand in the index, after checking that the index holds the very same embeddings."""
    positions = np.minimum(np.searchsorted(index.ids, rows.ids), len(index) - 1).astype(np.int64)
    images = rows.held("image_embeds")
    same = index.ids[positions] == rows.ids
    if same.all() and images.shape[1] == index.vectors.shape[1]:
        same = (index.vectors[positions] == images).all(axis=1)
    if not same.all():
        unknown = rows.ids[int(np.argmin(same))].decode()
        raise IndexMismatchError(
            f"the index does not hold the embedding of {unknown} that {name} has: build the index from these shards"
        )
    return positions


def _retrieve(
    index: VectorIndex, rows: EmbedRows, queries: Float64s, positions: Int64s, config: RetrieveConfig
) -> "pa.Table":
    """Return the table of one batch of sources, the targets chosen."""
    batch = Batch(queries=queries, sources=positions, images=unit_rows(rows.held("image_embeds")))
    found = find_candidates(index, batch, top_k=config.top_k, margin=config.margin, exclude=config.exclude)
    scores = measure_pairs(index, rows, queries=queries, sources=positions, positions=found.positions)
    ranking = ranking_scores(scores, config.rerank)
    order = reranked(ranking, found.positions, found.eligible)
    present = np.take_along_axis(found.present, order, axis=1)
    exclusions = np.array(EXCLUSIONS)[_flat(found.exclusions, order, present)]
    ids = index.ids[_flat(found.positions, order, present)]
    table = _scored(rows, ids, scores, ranking, order=order, present=present)
    return gated(table, exclusions, config.gates)


def _scored(
    rows: EmbedRows, ids: Ids, scores: PairScores, ranking: Float64s, *, order: Int64s, present: Bools
) -> "pa.Table":
    """Return all columns that do not depend on gates, each candidate list in ``order``."""
    import pyarrow as pa

    offsets = pa.array(np.concatenate([[0], np.cumsum(present.sum(axis=1))]), pa.int32())
    lists = {
        "candidate_scores": ranking,
        "candidate_similarities": scores.similarity,
        "candidate_text_similarities": scores.target_text,
        "candidate_image_similarities": scores.image,
        "candidate_directional_similarities": scores.directional,
        "candidate_layout_similarities": scores.layout,
    }
    source_text = scores.source_text
    columns: dict[str, Any] = {
        "sample_id": pa.array(rows.ids.astype(str), pa.string()),
        "source_text_similarity": pa.nulls(len(rows.ids), pa.float32())
        if source_text is None
        else pa.array(source_text.astype(np.float32)),
        "candidate_ids": pa.ListArray.from_arrays(offsets, pa.array(ids.astype(str), pa.string())),
    }
    nothing = pa.ListArray.from_arrays(pa.array(np.zeros(len(rows.ids) + 1), pa.int32()), pa.array([], pa.float32()))
    for name, values in lists.items():
        columns[name] = nothing
        if values is not None:
            flat = pa.array(_flat(values, order, present).astype(np.float32))
            columns[name] = pa.ListArray.from_arrays(offsets, flat)
    return pa.table(columns)


def _flat(values: npt.NDArray[Any], order: Int64s, present: Bools) -> npt.NDArray[Any]:
    return np.take_along_axis(values, order, axis=1)[present]


def _joined(tables: "list[pa.Table]") -> "pa.Table":
    import pyarrow as pa

    return pa.concat_tables(tables)


def _work(job: Job) -> ShardReport:
    (report,) = job.corpus["index"]
    with cached_index(report, job.store, job.config(IndexConfig).search) as index:
        return retrieve_shard(job.reports["embed"], job.config(RetrieveConfig), job.store, index)


STAGE: Final = Stage(
    name="retrieve",
    version=VERSION,
    summary="target and scored candidates",
    unit="queries",
    config=RetrieveConfig,
    work=_work,
    tables=(RETRIEVE,),
    needs=("embed",),
    corpus=("index",),
)
