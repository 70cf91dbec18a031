"""Which images show the same: groups joined by equal bytes, by found copies and by close perceptual hashes.

Close hashes are found without comparing all with all. Hashes that differ in at most d bits agree in at least m of d + m
bands of bits, so that only those are compared that agree in some choice of m bands; m is chosen so that the m bands
have 20 bits or more, which keeps the buckets small up to a million images.

Axis names in this file: n = images, u = different hashes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from iedit_model.configuration import Cosine, configuration
from tasks.embed.vectors import rounded_scores, row_cosines
from tasks.pack.splits import Int64s, components

Keys = npt.NDArray[np.uint64]

_BITS: Final = 64
_BUCKET_BITS: Final = 20
_MOST_BITS: Final = 6
_HASHES_AT_ONCE: Final = 1 << 18
_COSINES_AT_ONCE: Final = 1 << 12
_STEP: Final = 1e-4
"""Cosines are rounded to multiples of this before they are compared."""


@configuration
class DuplicateConfig:
    """When two images count as near-duplicates; equal bytes and copies that the retrieval met always do."""

    max_phash_distance: Annotated[int, Field(ge=0, le=_MOST_BITS)] | None = 4
    """Most bits, of 64, in which the hashes of near-duplicates differ, 0 to 6; None looks at no hash."""
    min_image_similarity: Cosine = 0.95
    """Least cosine of the two images' embeddings: a hash hardly sees what is small, and by itself it takes all plain
    images for one. -1 trusts the hash alone."""

    @property
    def needs_embeds(self) -> bool:
        """Whether embeddings must be given."""
        return self.max_phash_distance is not None and self.min_image_similarity > -1


@dataclass(frozen=True, kw_only=True)
class CorpusImages:
    """What is known of n images, each array in their order."""

    keys: tuple[Keys, ...]
    """Numbers that are equal for equal bytes, one array (n,) for each kind of bytes (as fetched, as stored)."""
    phashes: Int64s
    """Perceptual hashes."""
    embeds: npt.NDArray[np.float16] | None = None
    """Embeddings (n, d), unit norm; None when hashes are to be trusted alone."""


def duplicate_groups(images: CorpusImages, config: DuplicateConfig, *, copies: tuple[Int64s, Int64s]) -> Int64s:
    """Return for each image the first image of its group of near-duplicates, int64 (n,).

    Args:
        images: the images; their order decides only which one a group is called by.
        config: what counts as near.
        copies: links between images that are known to be copies, as two arrays of positions.
    """
    num = len(images.phashes)
    labels = components(num, *copies)
    for keys in images.keys:
        labels = components(num, *_equal_neighbours(keys), labels=labels)
    if config.max_phash_distance is None:
        return labels
    if images.embeds is None:
        for links in _hash_links(images.phashes, config.max_phash_distance):
            labels = components(num, *links, labels=labels)
        return labels
    for one, other in _hash_pairs(images.phashes, config.max_phash_distance):
        apart = np.flatnonzero(labels[one] != labels[other])
        alike = apart[_alike(images.embeds, one[apart], other[apart], config.min_image_similarity)]
        labels = components(num, one[alike], other[alike], labels=labels)
    return labels


def close_hashes(hashes: Int64s, max_distance: int) -> tuple[Int64s, Int64s]:
    """Return all pairs (i, j), i < j, of different hashes that differ in at most ``max_distance`` bits.

    Args:
        hashes: without repetition.
        max_distance: 0 to 6.
    """
    bits = hashes.view(np.uint64)
    found = [np.zeros(0, np.int64)]
    for mask in _masks(max_distance) if max_distance else ():
        order = np.argsort(bits & mask, kind="stable")
        _, starts, sizes = np.unique((bits & mask)[order], return_index=True, return_counts=True)
        starts, sizes = starts[sizes > 1], sizes[sizes > 1]
        for first, second in _products(starts, sizes, starts, sizes, at_once=_HASHES_AT_ONCE):
            one, other = order[first], order[second]
            close = (one < other) & (np.bitwise_count(bits[one] ^ bits[other]) <= max_distance)
            found.append(one[close] * len(bits) + other[close])
    pairs = np.unique(np.concatenate(found))
    return pairs // max(1, len(bits)), pairs % max(1, len(bits))


def _masks(max_distance: int) -> Iterator[np.uint64]:
    """Yield masks such that numbers which differ in at most ``max_distance`` bits agree under one of them."""
    agreeing = next(m for m in range(1, _BITS) if m * _BITS // (max_distance + m) >= _BUCKET_BITS)
    num_bands = max_distance + agreeing
    # Every num_bands-th bit: a band of neighbouring bits would be all zero for every grey image.
    bands = [sum(1 << bit for bit in range(band, _BITS, num_bands)) for band in range(num_bands)]
    for chosen in combinations(bands, agreeing):
        yield np.uint64(sum(chosen))


def _hash_links(phashes: Int64s, max_distance: int) -> Iterator[tuple[Int64s, Int64s]]:
    """Yield links that join all images with close hashes, no more of them than that takes."""
    order, starts, _, (one, other) = _grouped(phashes, max_distance)
    yield _equal_neighbours(phashes)
    yield order[starts[one]], order[starts[other]]


def _hash_pairs(phashes: Int64s, max_distance: int) -> Iterator[tuple[Int64s, Int64s]]:
    """Yield all pairs of images with close hashes, some at once."""
    order, starts, sizes, (one, other) = _grouped(phashes, max_distance)
    one, other = np.append(np.arange(len(starts)), one), np.append(np.arange(len(starts)), other)
    for first, second in _products(starts[one], sizes[one], starts[other], sizes[other], at_once=_COSINES_AT_ONCE):
        yield order[first], order[second]


def _grouped(phashes: Int64s, max_distance: int) -> tuple[Int64s, Int64s, Int64s, tuple[Int64s, Int64s]]:
    """Return an order of the images by hash, start and size of each hash's run in it, and the close hashes."""
    order = np.argsort(phashes, kind="stable")
    hashes, starts, sizes = np.unique(phashes[order], return_index=True, return_counts=True)
    return order, starts, sizes, close_hashes(hashes, max_distance)


def _products(
    starts: Int64s, sizes: Int64s, others: Int64s, other_sizes: Int64s, *, at_once: int
) -> Iterator[tuple[Int64s, Int64s]]:
    """Yield, some at once, all pairs of a number in [start, start + size) and one in [other, other + other_size)."""
    ends = np.cumsum(sizes * other_sizes)
    total = int(ends[-1]) if len(ends) else 0
    for begin in range(0, total, at_once):
        flat = np.arange(begin, min(begin + at_once, total))
        which = np.searchsorted(ends, flat, side="right")
        local = flat - (ends - sizes * other_sizes)[which]
        yield starts[which] + local // other_sizes[which], others[which] + local % other_sizes[which]


def _equal_neighbours(values: npt.NDArray[np.uint64] | Int64s) -> tuple[Int64s, Int64s]:
    """Return links that join all positions with equal values."""
    order = np.argsort(values, kind="stable")
    equal = np.flatnonzero(values[order][1:] == values[order][:-1])
    return order[equal], order[equal + 1]


def _alike(embeds: npt.NDArray[np.float16], one: Int64s, other: Int64s, least: float) -> npt.NDArray[np.bool_]:
    cosines = row_cosines(embeds[one].astype(np.float64), embeds[other].astype(np.float64))
    return rounded_scores(cosines, _STEP) >= round(least / _STEP)
