"""The web site's metadata: parquet shards with LAION's columns, and the truth of every URL as one more table."""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miniature.alt_text import AltText
from miniature.errors import MetadataFolderError, SiteConfigError
from miniature.murmur import laion_hash
from miniature.site import Site, truth_columns

SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("similarity", pa.float64()),
        ("LANGUAGE", pa.string()),
        ("hash", pa.int64()),
        ("pwatermark", pa.float32()),
        ("punsafe", pa.float32()),
        ("AESTHETIC_SCORE", pa.float32()),
    ]
)
"""Columns and types of LAION's own shards (those of laion-art, with the score under its later name)."""

ROWS_PER_SHARD = 10_000
_SHARD_NAME = re.compile(r"\d{5}\.parquet")
_SCORES_STREAM, _SIMILARITY_STREAM = 21, 22


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataRow:
    """One row of the metadata, but for what depends on where the site runs."""

    index: int
    """Number of the URL."""
    mention: int
    """0 for the URL's first row, 1 for its second."""
    alt_text: AltText
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    similarity: float
    """Between picture and alt text; LAION kept 0.28 and more."""
    punsafe: float | None
    """0 to 1."""
    pwatermark: float | None
    """0 to 1."""
    aesthetic_score: float | None
    """About 1 to 10."""


def metadata_rows(site: Site) -> tuple[MetadataRow, ...]:
    """Return the rows of a site's metadata in their order."""
    return tuple(_row(site, index, mention) for index, mention in site.plan.rows)


def metadata_table(site: Site, *, base_url: str) -> pa.Table:
    """Return a site's metadata with LAION's columns, ``SCHEMA``.

    Args:
        site: the site.
        base_url: where it runs, "http://127.0.0.1:8765".
    """
    rows = metadata_rows(site)
    urls = [site.url(row.index, base_url) for row in rows]
    columns = {
        "URL": urls,
        "TEXT": [row.alt_text.text for row in rows],
        "WIDTH": [row.width for row in rows],
        "HEIGHT": [row.height for row in rows],
        "similarity": [row.similarity for row in rows],
        "LANGUAGE": [row.alt_text.language for row in rows],
        "hash": [laion_hash(url, row.alt_text.text) for url, row in zip(urls, rows, strict=True)],
        "pwatermark": [row.pwatermark for row in rows],
        "punsafe": [row.punsafe for row in rows],
        "AESTHETIC_SCORE": [row.aesthetic_score for row in rows],
    }
    return pa.table(columns, SCHEMA)


def truth_table(site: Site) -> pa.Table:
    """Return one row a URL with the fields of ``UrlTruth``."""
    return pa.table(truth_columns(site))


def parquet_bytes(table: pa.Table) -> bytes:
    """Return ``table`` as a parquet file; equal tables give equal bytes."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def write_metadata(
    folder: str | Path, *, site: Site, base_url: str, rows_per_shard: int = ROWS_PER_SHARD
) -> tuple[Path, ...]:
    """Write a site's metadata as ``00000.parquet``, ``00001.parquet`` and so on, each file whole or not at all.

    Args:
        folder: made when it is not there.
        site: the site.
        base_url: where it runs, "http://127.0.0.1:8765".
        rows_per_shard: rows of every file but the last.

    Returns:
        The files, in their order.

    Raises:
        MetadataFolderError: the folder holds shards of another, larger set, or cannot be written.
        SiteConfigError: ``rows_per_shard`` is less than 1, or the set has more than 100,000 shards.
    """
    if rows_per_shard < 1:
        raise SiteConfigError(f"rows_per_shard is {rows_per_shard}, expected 1 or more")
    num_shards = -(-len(site.plan.rows) // rows_per_shard)
    if num_shards > 100_000:
        raise SiteConfigError(f"rows_per_shard is {rows_per_shard}, which makes {num_shards} shards, over 100000")
    paths = tuple(Path(folder) / f"{number:05d}.parquet" for number in range(num_shards))
    table = metadata_table(site, base_url=base_url)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _refuse_other_shards(Path(folder), paths)
        for number, path in enumerate(paths):
            _replace_bytes(path, parquet_bytes(table.slice(number * rows_per_shard, rows_per_shard)))
    except OSError as error:
        raise MetadataFolderError(f"cannot write metadata to {folder}: {error.strerror or error}") from error
    return paths


def _row(site: Site, index: int, mention: int) -> MetadataRow:
    # A copy is scored as its original is: the scores look at the picture.
    rng = np.random.default_rng((site.seed, site.original(index), _SCORES_STREAM))
    calm_unsafe, calm_watermark, high_unsafe, high_watermark, aesthetic = (
        rng.beta(1, 12),
        rng.beta(2, 5),
        rng.uniform(0.6, 0.99),
        rng.uniform(0.85, 0.99),
        rng.normal(5.2, 0.7),
    )
    scored = not site.marked(index, "unscored")
    text, picture = site.alt_text(index, mention), site.picture(index)
    noise = np.random.default_rng((site.seed, index, _SIMILARITY_STREAM, 1 + mention)).random()
    return MetadataRow(
        index=index,
        mention=mention,
        alt_text=text,
        width=picture.width,
        height=picture.height,
        similarity=0.28 + noise * (0.2 if text.names_scene else 0.03),
        punsafe=(high_unsafe if site.marked(index, "unsafe") else min(calm_unsafe, 0.49)) if scored else None,
        pwatermark=(high_watermark if site.marked(index, "watermarked") else min(calm_watermark, 0.79))
        if scored
        else None,
        aesthetic_score=float(np.clip(aesthetic, 3, 8)) if scored else None,
    )


def _refuse_other_shards(folder: Path, ours: tuple[Path, ...]) -> None:
    names = {path.name for path in ours}
    others = sorted(path.name for path in folder.iterdir() if path.suffix == ".parquet" and path.name not in names)
    if others:
        kind = "a larger set" if all(_SHARD_NAME.fullmatch(name) for name in others) else "something else"
        raise MetadataFolderError(
            f"{folder} holds parquet files of {kind} ({others[0]} and {len(others) - 1} more), which a reader would "
            "mix with the new ones: choose an empty folder or remove them"
        )


def _replace_bytes(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
