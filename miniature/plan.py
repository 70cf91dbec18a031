"""The plan of a web site: which URL is of which kind, which one copies which, and which are marked in the metadata.

Shares are met exactly: the marked URLs are counted first and then spread by a seeded shuffle.
"""

from dataclasses import dataclass, fields

import numpy as np

from miniature.errors import SiteConfigError
from miniature.faults import FaultShares

_KINDS_STREAM, _COPIES_STREAM, _REPEATS_STREAM, _MARKS_STREAM = 101, 102, 103, 104
_COPYING = ("copy", "near_copy")


@dataclass(frozen=True, kw_only=True)
class MetadataShares:
    """How many URLs have what a filter on the metadata looks for, 0 to 1; the marks are independent of each other."""

    unsafe: float = 0.04
    """``punsafe`` of 0.6 or more."""
    watermarked: float = 0.06
    """``pwatermark`` of 0.85 or more."""
    small: float = 0.05
    """A picture with a side under 64 pixels."""
    foreign: float = 0.08
    """An alt text in another language than English."""
    unscored: float = 0.01
    """No ``punsafe``, ``pwatermark`` and ``AESTHETIC_SCORE``, as some of LAION's rows."""
    repeated: float = 0.02
    """URLs that stand in the metadata twice, half of them with another alt text."""

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise SiteConfigError(f"share of {field.name} is {share}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is planted where; every index is a URL's number."""

    kinds: tuple[str, ...]
    """The kind of each URL, a key of ``KINDS``."""
    copy_of: dict[int, int]
    """The original of each ``copy`` and ``near_copy``: an unmarked ``fine`` URL."""
    marks: dict[str, frozenset[int]]
    """The URLs of each mark: ``unsafe``, ``watermarked``, ``small``, ``unscored`` and ``foreign``."""
    rows: tuple[tuple[int, int], ...]
    """The rows of the metadata: (URL, which mention of it, from 0)."""


def draw_plan(seed: int, num_urls: int, *, faults: FaultShares, metadata: MetadataShares) -> Plan:
    """Spread kinds, copies, marks and repeated rows over ``num_urls`` URLs.

    Raises:
        SiteConfigError: copies are asked for, but no fine and unmarked URL is left that they could copy.
    """
    names = [name for name, count in faults.counts(num_urls).items() for _ in range(count)]
    order = np.random.default_rng((seed, _KINDS_STREAM)).permutation(num_urls)
    kinds = tuple(names[position] for position in order)
    marks = _draw_marks(seed, kinds, metadata)
    return Plan(
        kinds=kinds,
        copy_of=_draw_copies(seed, kinds, marks),
        marks=marks,
        rows=_draw_rows(seed, num_urls, metadata.repeated),
    )


def _draw_marks(seed: int, kinds: tuple[str, ...], shares: MetadataShares) -> dict[str, frozenset[int]]:
    # A copy takes what is said about a picture from its original, so marks of pictures fall on originals only.
    originals = [index for index, kind in enumerate(kinds) if kind not in _COPYING]
    pools = {
        "unsafe": originals,
        "watermarked": originals,
        "small": originals,
        "unscored": originals,
        "foreign": range(len(kinds)),
    }
    marks = {}
    for position, (name, pool) in enumerate(pools.items()):
        rng = np.random.default_rng((seed, _MARKS_STREAM, position + 1))
        count = min(len(pool), _rounded(getattr(shares, name) * len(kinds)))
        marks[name] = frozenset(int(index) for index in rng.permutation(np.asarray(pool, np.int64))[:count])
    return marks


def _draw_copies(seed: int, kinds: tuple[str, ...], marks: dict[str, frozenset[int]]) -> dict[int, int]:
    copies = [index for index, kind in enumerate(kinds) if kind in _COPYING]
    if not copies:
        return {}
    marked = marks["unsafe"] | marks["watermarked"] | marks["small"] | marks["unscored"]
    sources = [index for index, kind in enumerate(kinds) if kind == "fine" and index not in marked]
    if not sources:
        raise SiteConfigError(f"{len(copies)} copies are asked for, but no fine and unmarked URL is left to copy")
    rng = np.random.default_rng((seed, _COPIES_STREAM))
    return {index: sources[int(rng.integers(len(sources)))] for index in copies}


def _draw_rows(seed: int, num_urls: int, share: float) -> tuple[tuple[int, int], ...]:
    rng = np.random.default_rng((seed, _REPEATS_STREAM))
    repeated = rng.permutation(num_urls)[: _rounded(share * num_urls)]
    places = rng.integers(0, num_urls + 1, len(repeated))
    extras: dict[int, list[int]] = {}
    for index, place in zip(repeated, places, strict=True):
        extras.setdefault(max(int(place), int(index) + 1), []).append(int(index))
    rows = []
    for place in range(num_urls + 1):
        rows += [(index, 1) for index in extras.get(place, ())]
        if place < num_urls:
            rows.append((place, 0))
    return tuple(rows)


def _rounded(count: float) -> int:
    return int(count + 0.5 + 1e-9)
