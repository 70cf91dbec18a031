"""Stage 5, index: all image embeddings -> one faiss index, the one barrier of the flow.

Beside the index it commits what the search for targets needs at hand for every image: the embeddings as they were
stored, the facts that exclude candidates, the means of the two modalities. Rows are sorted by sample id, so that the
division into shards does not show in any byte.
"""

from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from iedit_model.configuration import Seed, Share, configuration
from storage import SAMPLE_ID, ShardReport, ShardStore, TableSchema, col
from tasks.corpus import read_facts
from tasks.embed.stage import Float16s
from tasks.embed.vectors import Float64s, Int64s, QueryConfig, gathered_cosines, query_embeds, unit_rows
from tasks.errors import TaskError
from tasks.index.index_rows import Gathered, gather, id_table, list_images, save_array
from tasks.index.vector_index import (
    FACTS_BLOB,
    FAISS_BLOB,
    LAYOUTS_BLOB,
    MEANS_BLOB,
    VECTORS_BLOB,
    ListConfig,
    Neighbours,
    SearchSettings,
    exact_index,
    list_index,
)
from tasks.stage import Job, Output, Stage, Workspace

Search = Callable[[Float64s, int], Int64s]
"""Queries (n, d) and k -> positions (n, k), -1 where there is none."""

_TOLERANCE: Final = 2e-6
"""The full search runs in float32; a neighbour that is worse by less is as good."""
_BLOCK_ROWS: Final = 16_384


@configuration
class RecallConfig:
    """How the recall is measured, and how high it must be."""

    least: Share = 0.95
    """Share of the true neighbours in [0, 1] that must be found, else the stage fails."""
    queries: Annotated[int, Field(ge=1, le=10**6)] = 256
    """Images whose queries are tried."""
    top_k: Annotated[int, Field(ge=1, le=2048)] = 20
    """Neighbours of each that should be found; the retrieval's ``top_k``."""
    text_weights: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.8)
    """Text weights of the queries; the worst one counts."""
    seed: Seed = 0
    """Decides which images."""

    def sample(self, num_rows: int) -> Int64s:
        """Return the sorted positions of the images whose queries are tried."""
        size = min(self.queries, num_rows)
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(num_rows, size, replace=False, shuffle=False)).astype(np.int64)


def kth_scores(vectors: Float16s, queries: Float64s, k: int) -> Float64s:
    """Return the k-th highest cosine (n,) of each query with all vectors (rows, d), k at most the number of rows."""
    best = np.zeros((len(queries), 0), np.float32)
    rows = queries.astype(np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = rows @ unit_rows(vectors[start : start + _BLOCK_ROWS]).astype(np.float32).T
        best = np.concatenate([best, block], axis=1)
        if best.shape[1] > k:
            best = np.partition(best, best.shape[1] - k, axis=1)[:, -k:]
    return best.min(axis=1).astype(np.float64)


def recall(search: Search, vectors: Float16s, queries: Float64s, kth: Float64s, k: int) -> float:
    """Return the share in [0, 1] of the k nearest neighbours that ``search`` finds; ties with the k-th all count.

    Args:
        search: what is measured.
        vectors: the whole corpus (rows, d), unit norm.
        queries: unit rows (n, d), n > 0.
        kth: ``kth_scores`` of them.
        k: neighbours of a query, at most the rows of the corpus.
    """
    positions = search(queries, k)
    [scores] = gathered_cosines(vectors, positions, [queries])
    found = (scores >= kth[:, None] - _TOLERANCE) & (positions >= 0)
    return float(found.sum(axis=1).mean() / k)


VERSION: Final = 2

INDEX: Final = TableSchema(
    name="index",
    description="One row per vector of the index: which sample stands at which position.",
    columns=(SAMPLE_ID, col("position", "int64", "Row of the vector in the index.", "from 0")),
)
SHARD: Final = "all"
"""Name of the only shard of this stage."""


class IndexRecallError(TaskError):
    """The index finds too few of the true neighbours; the message says how many and which setting to raise."""

    stops_run = True


@configuration
class IndexConfig:
    """What decides the index; every field but ``search`` is part of the fingerprint."""

    exact_max_rows: Annotated[int, Field(ge=1, le=10**9)] = 5_000
    """Up to so many images every query is compared with each of them; above, inverted lists are used."""
    lists: ListConfig = field(default_factory=ListConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    search: SearchSettings = field(default_factory=SearchSettings, metadata={"fingerprint": False})
    """How the index is searched while its recall is measured, and how many threads build it."""


def build_index(
    embeds: Sequence[ShardReport],
    *,
    downloads: Sequence[ShardReport],
    captions: Sequence[ShardReport],
    config: IndexConfig,
    store: ShardStore,
) -> ShardReport:
    """Build the index of all embedded images, or return the finished report.

    Inverted lists are filled in memory, 4 bytes a number of all embeddings and up to twice that while they grow;
    nothing else grows with the corpus but its ids, facts and the page cache. Searching needs no more memory than
    ``search.max_ram_bytes``.

    Args:
        embeds: reports of the embed stage, in any order and any division into shards.
        downloads: reports of the download stage that cover the same images.
        captions: reports of the caption stage, likewise.
        config: the settings.
        store: where all of them lie.

    Returns:
        The report of the shard ``all``. Its ``extra`` holds kind, metric, dim, num_lists, nprobe and recall, and the
        sha256 of each file stands in ``files``. Dropped are embeddings that are ``not_finite``, ``zero`` or
        ``not_unit``.

    Raises:
        EmptyIndexError: no embedding can be used.
        EmbedTableError: a sample is in two shards, or the shards differ in columns or dimensions.
        CorpusError: an embedded sample has no row in ``downloads`` or ``captions``.
        IndexRecallError: the recall is below what ``config.recall`` asks for.
    """
    inputs = [digest for reports in (embeds, downloads, captions) for digest in sorted(r.digest for r in reports)]

    def work(space: Workspace) -> Output:
        listing = list_images(embeds, store)
        sample = config.recall.sample(len(listing.ids))
        names = (FAISS_BLOB, VECTORS_BLOB, FACTS_BLOB, MEANS_BLOB, LAYOUTS_BLOB)
        paths = {name: space.scratch(name) for name in names}
        gathered = gather(
            listing, embeds, store, vectors=paths[VECTORS_BLOB], layouts=paths[LAYOUTS_BLOB], sample=sample
        )
        if listing.layout_dim is None:
            del paths[LAYOUTS_BLOB]
        save_array(paths[FACTS_BLOB], read_facts(store, listing.ids, downloads=downloads, captions=captions))
        save_array(paths[MEANS_BLOB], np.stack([gathered.means.image, gathered.means.text]))
        extra = _write_faiss(paths[FAISS_BLOB], gathered, sample, config)
        return Output(
            num_in=len(listing.ids) + len(listing.dropped),
            table=id_table(listing.ids),
            blobs=paths,
            dropped=listing.dropped,
            extra=extra,
        )

    return STAGE.shard(SHARD, store, work, config=config, inputs=inputs)


def _write_faiss(path: Path, gathered: Gathered, sample: Int64s, config: IndexConfig) -> dict[str, str | int | float]:
    """Build the index, measure it, write it, and return what the report should say about it."""
    import faiss

    vectors = gathered.vectors
    exact = len(vectors) <= config.exact_max_rows
    threads = config.search.threads
    index = exact_index(vectors) if exact else list_index(vectors, config.lists, threads=threads)
    queries = [_sampled_queries(gathered, sample, weight) for weight in config.recall.text_weights]
    reached = _tuned(index, gathered, [rows for rows in queries if len(rows)], config, exact=exact)
    if reached < config.recall.least:
        raise IndexRecallError(
            f"the index finds {reached:.4f} of the true neighbours, recall.least asks for {config.recall.least}: "
            "raise index.lists.max_nprobe or index.exact_max_rows, or lower index.recall.least"
        )
    faiss.write_index(index, str(path))
    return {
        "kind": "exact" if exact else "inverted_lists",
        "metric": "inner_product",
        "dim": vectors.shape[1],
        "num_lists": 0 if exact else index.nlist,
        "nprobe": 0 if exact else index.nprobe,
        "recall": round(reached, 6),
        "recall_queries": len(sample),
    }


def _tuned(index: Any, gathered: Gathered, queries: list[Float64s], config: IndexConfig, *, exact: bool) -> float:
    """Raise ``index.nprobe`` until the recall is enough, and return the recall that was reached."""
    k = min(config.recall.top_k, len(gathered.vectors))
    kth = [kth_scores(gathered.vectors, rows, k) for rows in queries]
    most = 1 if exact else min(config.lists.max_nprobe, index.nlist)
    while True:
        search = Neighbours.of(index, config.search).search
        found = [recall(search, gathered.vectors, *pair, k) for pair in zip(queries, kth, strict=True)]
        reached = min(found, default=0.0)
        if reached >= config.recall.least or exact or index.nprobe >= most:
            return reached
        index.nprobe = min(2 * index.nprobe, most)


def _sampled_queries(gathered: Gathered, sample: Int64s, text_weight: float) -> Float64s:
    """Return the queries of the sampled images; those without an edit prompt search by their image alone."""
    images, texts = gathered.vectors[sample], gathered.sampled_texts
    config = QueryConfig(text_weight=text_weight)
    mixed = query_embeds(images, np.where(texts.any(axis=1, keepdims=True), texts, images), config, gathered.means)
    return mixed[mixed.any(axis=1)]


def _work(job: Job) -> ShardReport:
    corpus = job.corpus
    return build_index(
        corpus["embed"],
        downloads=corpus["download"],
        captions=corpus["caption"],
        config=job.config(IndexConfig),
        store=job.store,
    )


STAGE: Final = Stage(
    name="index",
    version=VERSION,
    summary="one FAISS index (`faiss`) with its vectors, image attributes and means",
    unit="vectors",
    config=IndexConfig,
    work=_work,
    tables=(INDEX,),
    corpus=("embed", "download", "caption"),
    barrier=True,
)
