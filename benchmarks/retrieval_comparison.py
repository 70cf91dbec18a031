"""Retrieval over planted vectors against faiss alone, and what our stage adds to the search."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.side_by_side import Work
from flows.config.tree import DataConfig
from storage import ShardReport, ShardStore, sample_id
from tasks.caption import CAPTION
from tasks.download.stage import DOWNLOAD
from tasks.embed.stage import embed_schema, read_embeds
from tasks.embed.vectors import query_embeds, unit_rows
from tasks.index.stage import build_index
from tasks.index.vector_index import VectorIndex, open_index
from tasks.retrieve.candidates import Batch, find_candidates
from tasks.retrieve.pair_scores import measure_pairs
from tasks.retrieve.stage import RetrieveConfig, retrieve_shard

DIM = 768
"""Numbers of an embedding of CLIP ViT-L/14, the paper's."""
NUM_QUERIES = 1_024
"""Sources of the shard that is searched for: one batch."""
_LAYOUT_DIM = 256
_PLANTED = "0123456789abcdef"

Float16s = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class RetrievalWork:
    """Our stage and faiss alone on the same queries."""

    ours: Work
    baseline: Work
    parts: Callable[[], Sequence[tuple[str, float]]]
    """Part of our stage -> seconds."""


@contextmanager
def retrieval_work(folder: Path, config: DataConfig, *, num_vectors: int) -> Iterator[RetrievalWork]:
    """Plant a corpus, index it exactly, and give both works.

    ``baseline`` asks for as many results as our stage asks of faiss.
    """
    store, retrieve = ShardStore.at(folder), config.retrieve
    shards = [(0, NUM_QUERIES), (NUM_QUERIES, num_vectors)]
    reports = [_commit(store, number, *shard) for number, shard in enumerate(shards)]
    embeds, downloads, captions = zip(*reports, strict=True)
    exact = replace(config.index, exact_max_rows=num_vectors)  # as sd14 up to a million
    built = build_index(embeds, downloads=downloads, captions=captions, config=exact, store=store)
    with open_index(built, store, config.index.search) as index:
        rows = read_embeds(store, embeds[0], "image_embeds", "text_embeds")
        queries = query_embeds(rows.held("image_embeds"), rows.held("text_embeds"), retrieve.query, index.means)
        floats, fetch = queries.astype(np.float32), retrieve.top_k + retrieve.margin + 1
        yield RetrievalWork(
            ours=lambda: retrieve_shard(embeds[0], retrieve, store, index),
            baseline=lambda: index.neighbours.index.search(floats, fetch),
            parts=lambda: _parts(store, embeds[0], retrieve, index),
        )


def _parts(
    store: ShardStore, embeds: ShardReport, config: RetrieveConfig, index: VectorIndex
) -> list[tuple[str, float]]:
    """Return how long each part of our stage takes, one after another, the last one measured as what is left."""
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    rows = read_embeds(store, embeds, "image_embeds", "text_embeds", "caption_embeds")
    images = unit_rows(rows.held("image_embeds"))
    queries = query_embeds(images, rows.held("text_embeds"), config.query, index.means)
    sources = np.searchsorted(index.ids, rows.ids).astype(np.int64)
    reading = lap()
    index.neighbours.search(queries, config.top_k + config.margin + 1)
    search = lap()
    batch = Batch(queries=queries, sources=sources, images=images)
    found = find_candidates(index, batch, top_k=config.top_k, margin=config.margin, exclude=config.exclude)
    candidates = lap() - search
    measure_pairs(index, rows, queries=queries, sources=sources, positions=found.positions)
    scores = lap()
    retrieve_shard(embeds, config, store, index)
    rest = lap() - reading - search - candidates - scores
    return [
        ("faiss search", search),
        ("reading embeddings, making queries", reading),
        ("exact scores of all that was fetched, exclusions", candidates),
        ("five scores of each candidate kept", scores),
        ("ranking, gates, table, commit", rest),
    ]


def _commit(store: ShardStore, number: int, start: int, end: int) -> tuple[ShardReport, ShardReport, ShardReport]:
    """Commit rows of the corpus as a shard of the stages embed, download and caption."""
    import pyarrow as pa

    order = sorted(range(start, end), key=lambda row: sample_id(_url(row)))
    ids, rng = [sample_id(_url(row)) for row in order], np.random.default_rng(number)
    vectors = {name: _unit_rows(rng, len(ids), DIM) for name in ("image_embeds", "text_embeds", "caption_embeds")}
    vectors["layout_embeds"] = _unit_rows(rng, len(ids), _LAYOUT_DIM)
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]) for name, rows in vectors.items()
    }
    tables = {
        "embed": pa.table({"sample_id": pa.array(ids), **lists}),
        "download": DOWNLOAD.table(
            {
                "sample_id": one,
                "url": _url(row),
                "status": "ok",
                "sha256": f"{row:064x}",
                "phash": int(rng.integers(2**62)),
            }
            for one, row in zip(ids, order, strict=True)
        ),
        "caption": CAPTION.table(
            {"sample_id": one, "caption": f"thing {row}", "caption_source": "model"}
            for one, row in zip(ids, order, strict=True)
        ),
    }
    schemas = {"embed": embed_schema(DIM, layout_dim=_LAYOUT_DIM), "download": DOWNLOAD, "caption": CAPTION}
    embed, download, caption = (
        store.target(stage, f"{number:05d}", _PLANTED).commit(
            num_in=len(ids), seconds=0, table=table, schema=schemas[stage]
        )
        for stage, table in tables.items()
    )
    return embed, download, caption


def _url(row: int) -> str:
    return f"http://pictures.example/{row}.jpg"


def _unit_rows(rng: np.random.Generator, count: int, dim: int) -> Float16s:
    rows = rng.standard_normal((count, dim), dtype=np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
