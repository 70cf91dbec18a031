"""Where an ordering of the paper breaks: its weakest step compared on every part of the edits that may matter.

By set, kind of edit, size of the mask, training seed, seed and encoder: that tells where a difference comes from, so
that the reason can be found instead of guessed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from iedit_model.metrics.bootstrap import BootstrapConfig, Interval, difference_interval, sample_resamples
from iedit_model.metrics.errors import TooFewSamplesError
from tasks.evaluate.record import Evaluation
from tasks.evaluate.results import ALL_SETS, NOT_TRAINED, Results, align, results_of
from tasks.evaluate.summary import RankingResult

MASK_BORDERS: Final = (0.1, 0.25)
"""Borders of small, middle and large masks, share of the frame."""

Keep = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The weakest step of a ranking on a part of the edits."""

    part: str
    """Which part, in words: ``kind = colour``."""
    difference: Interval
    """The method that is reported to be better minus the next one, in the metric's stored unit."""
    metric: str
    num_edits: int


def diagnose(evaluation: Evaluation, ranking: RankingResult, *, resamples: int = 2000) -> list[Diagnosis]:
    """Take a ranking apart: the two neighbours of its order that stand worst against it, on every part of the edits.

    Args:
        evaluation: the numbers.
        ranking: one of ``evaluation.summary.rankings``.
        resamples: number of resamples of the intervals.

    Returns:
        One entry per part with at least two source images.
    """
    results = evaluation.results
    sets = results.evalsets if ranking.evalset == ALL_SETS else [ranking.evalset]
    first, second = weakest_step(ranking)
    parts = _parts(results, ranking, sets, (first, second))
    found = [_compared(results, part, metric, keep, (first, second), sets, resamples) for part, metric, keep in parts]
    return [diagnosis for diagnosis in found if diagnosis is not None]


def _parts(
    results: Results, ranking: RankingResult, sets: Sequence[str], methods: tuple[str, str]
) -> list[tuple[str, str, Keep]]:
    """Return (words, metric, which rows) of every part."""
    bare = ranking.metric.partition("@")[0]
    parts: list[tuple[str, str, Keep]] = [("all edits", ranking.metric, _everything)]
    parts += [(f"metric {other}", other, _everything) for other in results.metrics if _is_other(other, bare, ranking)]
    if len(sets) > 1:
        parts += [(f"set {name}", ranking.metric, equals("evalset", name)) for name in sets]
    for column in ("kind", "seed"):
        values = sorted({value for value in results.values(column) if value is not None})
        parts += [(f"{column} = {value}", ranking.metric, equals(column, value)) for value in values if len(values) > 1]
    trained = sorted({seed for method in methods for seed in results.train_seeds(method)} - {NOT_TRAINED})
    parts += [(f"training seed {seed}", ranking.metric, _trained_with(seed)) for seed in trained if len(trained) > 1]
    if "mask_area" in results.metrics:
        low, high = MASK_BORDERS
        parts += [
            (f"mask below {low:.0%} of the frame", ranking.metric, within("mask_area", 0, low)),
            (f"mask of {low:.0%} to {high:.0%}", ranking.metric, within("mask_area", low, high)),
            (f"mask above {high:.0%}", ranking.metric, within("mask_area", high, math.inf)),
        ]
    return parts


def weakest_step(ranking: RankingResult) -> tuple[str, str]:
    """Return the neighbours of a reported order that stand worst against it: where it breaks, if it does."""
    ordering = ranking.ordering
    gaps = [before - after for before, after in pairwise(ordering.means)]
    return list(pairwise(ordering.methods))[int(np.argmin(gaps))]


def _is_other(metric: str, bare: str, ranking: RankingResult) -> bool:
    """Return whether a metric says the same thing in another way: another encoder, another definition."""
    name = metric.partition("@")[0]
    same_kind = name == bare or (bare.startswith("ssim_") and name.startswith("ssim_") and name.endswith("_outside"))
    return same_kind and metric != ranking.metric


def _everything(_: dict[str, Any]) -> bool:
    return True


def equals(column: str, value: object) -> Keep:
    """Return the filter of the rows whose column has a value."""
    return lambda row: row[column] == value


def _trained_with(seed: int) -> Keep:
    return lambda row: row["train_seed"] in {seed, NOT_TRAINED}


def within(column: str, low: float, high: float) -> Keep:
    """Return the filter of the rows whose column lies in [low, high)."""
    return lambda row: row[column] is not None and low <= row[column] < high


def part_of(results: Results, keep: Keep) -> Results:
    """Return the results of some edits: those whose set, kind, seeds and area of the mask a filter keeps."""
    import pyarrow as pa

    columns = ["evalset", "kind", "seed", "train_seed", *({"mask_area"} & set(results.metrics))]
    rows = results.table.select(columns).to_pylist()
    return results_of(results.table.filter(pa.array([keep(row) for row in rows], pa.bool_())))


def _compared(
    results: Results,
    part: str,
    metric: str,
    keep: Keep,
    methods: tuple[str, str],
    sets: Sequence[str],
    resamples: int,
) -> Diagnosis | None:
    kept = part_of(results, keep)
    if set(methods) - set(kept.methods):
        return None
    aligned = align(kept, metric, methods, sets)
    first, second = (aligned.by_method[method] for method in methods)
    try:
        shared = sample_resamples(aligned.source_ids, config=BootstrapConfig(num_resamples=resamples))
    except TooFewSamplesError:
        return None
    return Diagnosis(
        part=part,
        metric=metric,
        difference=difference_interval(first, second, shared).interval,
        num_edits=int(np.count_nonzero(~np.isnan(first - second))),
    )
