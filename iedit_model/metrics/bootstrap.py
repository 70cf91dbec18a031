"""Confidence intervals by a paired bootstrap over source images.

Several edits of one source image are no independent witnesses, so whole source images are drawn with replacement
(cluster bootstrap), with all edits of each. Where results come from several training seeds, seeds may be drawn too,
independently (Owen and Eckles 2012, "Bootstrapping data arrays of arbitrary order"). All methods are judged on the same
draws, which is what makes differences and orderings sharp. A mean stays what it is: sums over the draw, then one
division. NaN marks an undefined value; it takes no part and is counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError

Floats = NDArray[np.float64]
MAX_DRAWN_COUNTS = 2**26
"""Largest number of resamples times source images (512 MB of counts)."""


@configuration
class BootstrapConfig:
    """How many resamples, how sure, from which seed."""

    num_resamples: Annotated[int, Field(ge=2)] = 10_000
    """Draws of the whole set."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the resamples inside of an interval, between its two percentiles."""
    seed: int = 0
    """Seed of the draws: two reports with one seed use the same draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resamples:
    """The draws: how often each source image (and training seed) occurs in each resample."""

    source_index: NDArray[np.int64]
    """Number of the source image of each value, (n,)."""
    source_counts: Floats
    """Times a source image was drawn, (resamples, source images)."""
    replicate_index: NDArray[np.int64]
    """Number of the training seed of each value, (n,)."""
    replicate_counts: Floats
    """Times a training seed was drawn, (resamples, training seeds); ones where seeds are not drawn."""
    config: BootstrapConfig

    def means(self, values: Floats) -> Floats:
        """Return the mean of the defined values in every resample, (resamples,); NaN where it has none."""
        defined = ~np.isnan(values)
        totals = self._drawn(np.where(defined, values, 0.0))
        counts = self._drawn(defined.astype(np.float64))
        return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)

    def _drawn(self, values: Floats) -> Floats:
        cells = np.zeros((self.source_counts.shape[1], self.replicate_counts.shape[1]))
        np.add.at(cells, (self.source_index, self.replicate_index), values)
        return ((self.source_counts @ cells) * self.replicate_counts).sum(axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with its percentile interval and what stands behind it."""

    value: float
    """Mean over the defined values; NaN where there are none."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    num_values: int
    """Defined values."""
    num_undefined: int
    """Values left out because they (or, in a comparison, their partners) are undefined."""
    num_sources: int
    """Source images with a defined value."""
    num_empty_resamples: int
    """Resamples that drew no defined value; the percentiles leave them out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much larger the first method's mean is, on the values that both define."""

    interval: Interval
    """Mean of first - second."""
    probability_greater: float
    """Share of the resamples in which the first mean is larger (a tie counts half)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordering:
    """Whether methods stand in a reported order."""

    methods: tuple[str, ...]
    """Best first, as reported."""
    means: tuple[float, ...]
    """Their means on the values that all define."""
    holds: bool
    """Whether the means stand strictly in the reported order."""
    probability: float
    """Share of the resamples in which they do."""
    num_values: int
    """Values that all methods define."""
    num_undefined: int
    """Values left out because a method does not define them."""


def draw_resamples(
    source_ids: Sequence[str],
    *,
    replicate_ids: Sequence[int] | None = None,
    config: BootstrapConfig | None = None,
) -> Resamples:
    """Draw the resamples that every interval of a table shares.

    The draws depend on the sorted distinct ids and the config alone, not on the order of the rows.

    Args:
        source_ids: the source image of each value, in the order of all value arrays to come.
        replicate_ids: the training seed of each value; left out, seeds are not drawn.
        config: resamples, confidence and seed; the defaults of ``BootstrapConfig`` when left out.

    Raises:
        MetricInputError: the ids differ in number, or the counts would not fit into memory.
        TooFewSamplesError: there are fewer than two source images (or training seeds, where they are drawn).
    """
    config = config or BootstrapConfig()
    sources, source_index = np.unique(np.asarray(source_ids, dtype=str), return_inverse=True)
    if len(sources) < 2:
        raise TooFewSamplesError(f"{len(sources)} source images: a bootstrap over source images needs at least 2")
    if config.num_resamples * len(sources) > MAX_DRAWN_COUNTS:
        raise MetricInputError(
            f"{config.num_resamples} resamples of {len(sources)} source images exceed {MAX_DRAWN_COUNTS} counts: "
            f"ask for at most {MAX_DRAWN_COUNTS // len(sources)} resamples"
        )
    rng = np.random.default_rng(config.seed)
    source_counts = _draw_counts(rng, len(sources), config.num_resamples)
    replicate_index, replicate_counts = _replicates(rng, replicate_ids, len(source_index), config.num_resamples)
    return Resamples(
        source_index=source_index,
        source_counts=source_counts,
        replicate_index=replicate_index,
        replicate_counts=replicate_counts,
        config=config,
    )


def mean_interval(values: Sequence[float] | Floats, resamples: Resamples) -> Interval:
    """Return the mean of ``values`` with its percentile interval.

    Args:
        values: one value an edit, NaN where undefined, in the order of the ids given to ``draw_resamples``.
        resamples: the shared draws.

    Raises:
        MetricInputError: another number of values than ids, or an infinite one.
    """
    checked = _checked(values, resamples)
    return _interval(checked, resamples.means(checked), resamples)


def difference_interval(
    first: Sequence[float] | Floats, second: Sequence[float] | Floats, resamples: Resamples
) -> Difference:
    """Return how much larger the first method's mean is, over edits that both define.

    Raises:
        MetricInputError: another number of values than ids, or an infinite one.
    """
    differences = _checked(first, resamples) - _checked(second, resamples)
    drawn = resamples.means(differences)
    kept = drawn[~np.isnan(drawn)]
    probability = float((np.mean(kept > 0) + np.mean(kept >= 0)) / 2) if len(kept) else math.nan
    return Difference(interval=_interval(differences, drawn, resamples), probability_greater=probability)


def win_rate(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    resamples: Resamples,
    *,
    higher_is_better: bool = True,
) -> Interval:
    """Return the share of edits on which the first method beats the second, a tie counting half, with its interval.

    An edit that either leaves undefined is left out and counted.

    Raises:
        MetricInputError: another number of values than ids, or an infinite one.
    """
    margin = (_checked(first, resamples) - _checked(second, resamples)) * (1 if higher_is_better else -1)
    return mean_interval(np.select([np.isnan(margin), margin > 0, margin < 0], [np.nan, 1.0, 0.0], 0.5), resamples)


def ordering(
    values: Mapping[str, Sequence[float] | Floats],
    methods: Sequence[str],
    resamples: Resamples,
    *,
    higher_is_better: bool = True,
) -> Ordering:
    """Return whether the methods' means stand strictly in the reported order, and in which share of the resamples.

    Args:
        values: one array a method; others than those reported are not read.
        methods: the ranking, best first.
        resamples: the shared draws.
        higher_is_better: whether the best method has the largest mean.

    Raises:
        MetricInputError: fewer than two methods, one without values, or values that do not fit the ids.
    """
    missing = [method for method in methods if method not in values]
    if missing or len(methods) < 2:
        raise MetricInputError(f"an ordering of {list(methods)} needs two methods with values; missing: {missing}")
    table = np.stack([_checked(values[method], resamples) for method in methods])
    undefined = np.isnan(table).any(axis=0)
    table[:, undefined] = np.nan
    drawn = np.stack([resamples.means(row) for row in table])
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    means = np.array([_mean(row) for row in table])
    return Ordering(
        methods=tuple(methods),
        means=tuple(means.tolist()),
        holds=bool(_in_order(means[:, None], higher_is_better=higher_is_better)[0]),
        probability=_share(_in_order(drawn, higher_is_better=higher_is_better)),
        num_values=int((~undefined).sum()),
        num_undefined=int(undefined.sum()),
    )


def _draw_counts(rng: np.random.Generator, num_units: int, num_resamples: int) -> Floats:
    # Drawing num_units of them with replacement and counting is one multinomial draw.
    return rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_resamples).astype(np.float64)


def _replicates(
    rng: np.random.Generator, replicate_ids: Sequence[int] | None, num_values: int, num_resamples: int
) -> tuple[NDArray[np.int64], Floats]:
    if replicate_ids is None:
        return np.zeros(num_values, np.int64), np.ones((num_resamples, 1))
    if len(replicate_ids) != num_values:
        raise MetricInputError(f"{len(replicate_ids)} replicate_ids do not fit {num_values} source_ids")
    replicates, index = np.unique(np.asarray(replicate_ids), return_inverse=True)
    if len(replicates) < 2:
        raise TooFewSamplesError(f"{len(replicates)} training seeds: drawing them needs at least 2; leave them out")
    return index, _draw_counts(rng, len(replicates), num_resamples)


def _checked(values: Sequence[float] | Floats, resamples: Resamples) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != resamples.source_index.shape:
        raise MetricInputError(f"values are {array.shape}, the resamples were drawn for {resamples.source_index.shape}")
    if np.isinf(array).any():
        raise MetricInputError(f"{int(np.isinf(array).sum())} values are infinite and have no mean: bound them first")
    return array


def _interval(values: Floats, drawn: Floats, resamples: Resamples) -> Interval:
    defined, empty = ~np.isnan(values), np.isnan(drawn)
    tail = (1 - resamples.config.confidence) / 2
    low, high = np.quantile(drawn[~empty], (tail, 1 - tail)) if not empty.all() else (math.nan, math.nan)
    return Interval(
        value=_mean(values),
        low=float(low),
        high=float(high),
        num_values=int(defined.sum()),
        num_undefined=int((~defined).sum()),
        num_sources=len(np.unique(resamples.source_index[defined])),
        num_empty_resamples=int(empty.sum()),
    )


def _mean(values: Floats) -> float:
    kept = values[~np.isnan(values)]
    return math.fsum(kept) / len(kept) if len(kept) else math.nan


def _in_order(means: Floats, *, higher_is_better: bool) -> NDArray[np.bool_]:
    steps = np.diff(means, axis=0)
    return np.all(steps < 0 if higher_is_better else steps > 0, axis=0)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan
