"""Slow reference implementations of the kernel distances: a Python loop over pairs of images."""

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]


def cubic(x: Row, y: Row) -> float:
    return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def gaussian(x: Row, y: Row) -> float:
    return math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * 10.0**2))


def unit(x: Row) -> list[float]:
    norm = math.sqrt(sum(a * a for a in x))
    return [a / norm for a in x]


def mmd(xs: Sequence[Row], ys: Sequence[Row], kernel: Callable[[Row, Row], float], *, unbiased: bool) -> float:
    def within(rows: Sequence[Row]) -> float:
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if not unbiased or i != j]
        return math.fsum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    across = math.fsum(kernel(x, y) for x in xs for y in ys) / (len(xs) * len(ys))
    return within(xs) + within(ys) - 2 * across
