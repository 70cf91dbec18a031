"""Corpora with embeddings that a test plants, committed as the stages before the index would have."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from storage import ShardReport, ShardStore, TableSchema, sample_id
from tasks.caption import CAPTION
from tasks.download.stage import DOWNLOAD
from tasks.embed.stage import embed_schema
from tests.references.brute_force import CorpusImage

FP = "0123456789abcdef"


@dataclass(frozen=True, kw_only=True)
class Reports:
    embeds: list[ShardReport]
    downloads: list[ShardReport]
    captions: list[ShardReport]


def half(rows: np.ndarray) -> np.ndarray:
    """Return unit rows in half precision."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float16)


def clusters(num_rows: int, dim: int, *, seed: int = 0, num_clusters: int = 40, spread: float = 0.5) -> np.ndarray:
    """Return unit rows (num_rows, dim), float16, around random centres."""
    rng = np.random.default_rng(seed)
    centres = half(rng.normal(size=(num_clusters, dim))).astype(np.float64)
    noise = rng.normal(size=(num_rows, dim)) * spread / np.sqrt(dim)
    return half(centres[rng.integers(num_clusters, size=num_rows)] + noise)


def corpus_image(number: int, image: np.ndarray, text: np.ndarray | None = None) -> CorpusImage:
    """Return an image that shares nothing but perhaps its embedding with any other."""
    other = image if text is None else text
    return CorpusImage(
        url=f"http://pictures.example/{number}.jpg",
        image=image.tolist(),
        text=other.tolist(),
        caption_text=image.tolist(),
        layout=image.tolist(),
        caption=f"thing {number}",
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
    )


def by_id(images: Sequence[CorpusImage]) -> dict[str, CorpusImage]:
    return {sample_id(entry.url): entry for entry in images}


def embed_table_schema(dim: int, *, captions: bool = True, layouts: int | None = None) -> TableSchema:
    """Return the embed stage's table, if asked without the two columns that only some gates and weights need."""
    schema = embed_schema(dim, layout_dim=layouts or 1)
    left_out = {name for name, kept in (("caption_embeds", captions), ("layout_embeds", layouts)) if not kept}
    return replace(schema, columns=tuple(column for column in schema.columns if column.name not in left_out))


def commit_corpus(
    store: ShardStore,
    images: Mapping[str, CorpusImage],
    *,
    shard_size: int,
    captions: bool = True,
    layouts: bool = True,
    order: Sequence[str] | None = None,
) -> Reports:
    """Commit the images in shards of ``shard_size``, cut in the given order of ids."""
    names = list(order if order is not None else images)
    reports = Reports(embeds=[], downloads=[], captions=[])
    for number, start in enumerate(range(0, len(names), shard_size)):
        shard = f"{number:05d}"
        part = {name: images[name] for name in sorted(names[start : start + shard_size])}
        reports.embeds.append(_commit_embeds(store, shard, part, captions=captions, layouts=layouts))
        tables = {"download": DOWNLOAD.table(_downloads(part)), "caption": CAPTION.table(_captions(part))}
        for stage, table in tables.items():
            report = store.target(stage, shard, FP).commit(table=table, num_in=len(part), seconds=0)
            (reports.downloads if stage == "download" else reports.captions).append(report)
    return reports


def _commit_embeds(
    store: ShardStore, shard: str, part: Mapping[str, CorpusImage], *, captions: bool, layouts: bool
) -> ShardReport:
    rows = list(part.values())
    columns = {"image_embeds": [row.image for row in rows], "text_embeds": [row.text for row in rows]}
    if captions:
        columns["caption_embeds"] = [row.caption_text for row in rows]
    if layouts:
        columns["layout_embeds"] = [row.layout for row in rows]
    arrays = {name: _vectors(np.array(values, np.float16)) for name, values in columns.items()}
    table = pa.table({"sample_id": pa.array(list(part)), **arrays})
    schema = embed_table_schema(len(rows[0].image), captions=captions, layouts=len(rows[0].layout) if layouts else None)
    return store.target("embed", shard, FP).commit(table=table, schema=schema, num_in=len(part), seconds=0)


def _vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _downloads(part: Mapping[str, CorpusImage]) -> list[dict[str, object]]:
    return [
        {
            "sample_id": name,
            "url": row.url,
            "status": "ok",
            "sha256": row.sha256 or None,
            "phash": row.phash,
        }
        for name, row in part.items()
    ]


def _captions(part: Mapping[str, CorpusImage]) -> list[dict[str, object]]:
    return [{"sample_id": name, "caption": row.caption, "caption_source": "model"} for name, row in part.items()]
