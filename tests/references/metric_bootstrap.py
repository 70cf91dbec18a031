"""Slow reference implementation of the bootstrap: writes every resample out as a list of values and averages it."""

import math
from collections.abc import Sequence


def resampled_means(
    values: Sequence[float],
    sources: Sequence[int],
    source_draws: Sequence[Sequence[int]],
    *,
    replicates: Sequence[int] | None = None,
    replicate_draws: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """Average the defined values of each resample; a draw says how often each source (and seed) occurs."""
    means = []
    for number, source_draw in enumerate(source_draws):
        drawn: list[float] = []
        for row, value in enumerate(values):
            times = source_draw[sources[row]]
            if replicates is not None and replicate_draws is not None:
                times *= replicate_draws[number][replicates[row]]
            if not math.isnan(value):
                drawn += [value] * int(times)
        means.append(math.fsum(drawn) / len(drawn) if drawn else math.nan)
    return means
