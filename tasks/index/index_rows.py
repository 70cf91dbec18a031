"""Embeddings of all shards in the order of the sample ids, written to files so that they need not fit into memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from storage import Dropped, ShardReport, ShardStore
from tasks.corpus import Ids, packed_ids
from tasks.embed.stage import EmbedTableError, Float16s, read_embeds
from tasks.embed.vectors import FLAWS, Int64s, MeanAccumulator, ModalityMeans, find_flaws
from tasks.errors import TaskError

_BLOCK_ROWS: Final = 65_536


class EmptyIndexError(TaskError):
    """There is no usable embedding at all."""

    stops_run = True


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which images go into the index, and which do not."""

    ids: Ids
    """Sorted."""
    dropped: tuple[Dropped, ...]
    dim: int
    """Numbers of an image embedding."""
    layout_dim: int | None
    """Numbers of a layout descriptor, or None if the embed stage stored none."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What the second reading of the shards brought."""

    vectors: Float16s
    """Image embeddings (rows, d), mapped from the file that they were written to."""
    means: ModalityMeans
    sampled_texts: Float16s
    """Edit prompts (n, d) of the sampled images; zeros where there is none that can be used."""


def list_images(embeds: Sequence[ShardReport], store: ShardStore) -> Listing:
    """Read the image embeddings of every shard once and tell which can be used.

    Raises:
        EmptyIndexError: none can.
        EmbedTableError: a sample is in two shards, or the shards differ in columns or dimensions.
    """
    kept, dropped, shapes = [packed_ids(())], [], set[tuple[int, int | None]]()
    for report in embeds:
        rows = read_embeds(store, report, "image_embeds", "layout_embeds")
        images = rows.held("image_embeds")
        shapes.add((images.shape[1], None if rows.layout_embeds is None else rows.layout_embeds.shape[1]))
        flaws = find_flaws(images)
        kept.append(rows.ids[flaws == 0])
        dropped += [
            Dropped(sample_id=name.decode(), reason=FLAWS[flaw], detail="image_embeds")
            for name, flaw in zip(rows.ids[flaws > 0].tolist(), flaws[flaws > 0].tolist(), strict=True)
        ]
    ids = np.sort(np.concatenate(kept))
    if not len(ids):
        raise EmptyIndexError(
            f"none of {len(dropped)} images in {len(embeds)} shards has an embedding that can be used"
        )
    if len(shapes) != 1:
        raise EmbedTableError(
            f"the shards differ in the sizes of image_embeds and layout_embeds: {sorted(shapes, key=str)}"
        )
    if (twice := np.flatnonzero(ids[:-1] == ids[1:])).size:
        raise EmbedTableError(f"the sample {bytes(ids[twice[0]]).decode()} is in two shards of the embed stage")
    [(dim, layout_dim)] = shapes
    return Listing(ids=ids, dropped=tuple(dropped), dim=dim, layout_dim=layout_dim)


def gather(
    listing: Listing,
    embeds: Sequence[ShardReport],
    store: ShardStore,
    *,
    vectors: Path,
    layouts: Path,
    sample: Int64s,
) -> Gathered:
    """Read every shard again and write its embeddings to their places; one shard is in memory at a time.

    Args:
        listing: from ``list_images``.
        embeds: the same reports.
        store: where they lie.
        vectors: file to write the image embeddings to, as .npy.
        layouts: file to write the layout descriptors to, if there are any.
        sample: sorted positions of images whose edit prompts are wanted.
    """
    shape = (len(listing.ids), listing.dim)
    image_rows = _mapped(vectors, shape)
    layout_rows = None
    if listing.layout_dim is not None:
        shape = (len(listing.ids), listing.layout_dim)
        layout_rows = _mapped(layouts, shape)
    image_mean, text_mean = MeanAccumulator(listing.dim), MeanAccumulator(listing.dim)
    sampled_texts = np.zeros((len(sample), listing.dim), np.float16)
    for report in embeds:
        rows = read_embeds(store, report, "image_embeds", "text_embeds", "layout_embeds")
        images, texts = rows.held("image_embeds"), rows.held("text_embeds")
        if texts.shape[1] != listing.dim:
            raise EmbedTableError(f"text_embeds of {report.name} have {texts.shape[1]} numbers, images {listing.dim}")
        at = np.minimum(np.searchsorted(listing.ids, rows.ids), len(listing.ids) - 1)
        mine = np.flatnonzero(listing.ids[at] == rows.ids)
        image_rows[at[mine]] = images[mine]
        image_mean.add(images[mine])
        if layout_rows is not None and rows.layout_embeds is not None:
            layout_rows[at[mine]] = _finite(rows.layout_embeds[mine], report)
        readable = find_flaws(texts) == 0
        text_mean.add(texts[readable])
        _, in_sample, of_shard = np.intersect1d(sample, np.where(readable, at, -1)[mine], return_indices=True)
        sampled_texts[in_sample] = texts[mine][of_shard]
    for written in (image_rows, *([] if layout_rows is None else [layout_rows])):
        written.flush()
    means = ModalityMeans(image=image_mean.mean(), text=text_mean.mean())
    return Gathered(vectors=np.asarray(image_rows), means=means, sampled_texts=sampled_texts)


def id_table(ids: Ids) -> Any:
    """Return the pyarrow table of ids and positions without making a Python string of each."""
    import pyarrow as pa

    width = ids.dtype.itemsize
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * width
    strings = pa.LargeStringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(ids.tobytes()))
    chunks = [strings.slice(start, _BLOCK_ROWS).cast(pa.string()) for start in range(0, len(ids), _BLOCK_ROWS)]
    positions = pa.array(np.arange(len(ids)))
    return pa.table({"sample_id": pa.chunked_array(chunks, pa.string()), "position": positions})


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array as .npy to a file of any name."""
    # Into a stream that is also read numpy writes through Python, whose errors say why; "wb" loses the reason.
    with path.open("w+b") as stream:
        np.lib.format.write_array(stream, values, allow_pickle=False)


def _mapped(path: Path, shape: tuple[int, int]) -> Any:
    """Return a new .npy file mapped into memory, its room taken: else a full disk would end the process by SIGBUS."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return rows


def _finite(layouts: Float16s, report: ShardReport) -> Float16s:
    if not np.isfinite(layouts).all():
        raise EmbedTableError(f"layout_embeds of {report.name} hold numbers that are not finite")
    return layouts
