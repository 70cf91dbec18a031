"""Slow reference implementations of the splits: groups by following links, close hashes by comparing all with all."""

from collections.abc import Hashable, Iterable, Sequence


def crossings(splits: Sequence[str | int | None], things: Sequence[Iterable[Hashable]]) -> set[Hashable]:
    """Return the things that samples of more than one split have; None stands for a dropped sample."""
    sides: dict[Hashable, set] = {}
    for split, own in zip(splits, things, strict=True):
        if split is not None:
            for thing in own:
                sides.setdefault(thing, set()).add(split)
    return {thing for thing, found in sides.items() if len(found) > 1}


def groups(num: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Return for each of ``num`` things the smallest one that can be reached over links."""
    neighbours: dict[int, set[int]] = {i: {i} for i in range(num)}
    for one, other in links:
        neighbours[one].add(other)
        neighbours[other].add(one)
    found = [-1] * num
    for start in range(num):
        waiting = [start] if found[start] < 0 else []
        while waiting:
            thing = waiting.pop()
            if found[thing] < 0:
                found[thing] = start
                waiting.extend(neighbours[thing])
    return found


def close_pairs(hashes: Sequence[int], max_distance: int) -> list[tuple[int, int]]:
    """Return all pairs of places whose 64-bit hashes differ in at most so many bits."""
    mask = 2**64 - 1
    return [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if f"{(hashes[i] & mask) ^ (hashes[j] & mask):b}".count("1") <= max_distance
    ]
