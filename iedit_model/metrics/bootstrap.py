"""Confidence intervals: a paired bootstrap over source images for means, a jackknife for distances between sets.

Several edits of one source image are not independent, so whole source images are resampled with replacement (cluster
bootstrap), with all edits of each. Where results come from several training seeds, seeds may be resampled too,
independently (Owen and Eckles 2012, "Bootstrapping data arrays of arbitrary order"). All methods are compared on the
same resamples, which makes differences and orderings sharp. A mean stays what it is: sums over the resample, then one
division. NaN marks an undefined value; it takes no part and is counted.

A distance between sets (FID, KID, CMMD) takes copies of an image for similarity, so the delete-one jackknife over
source images (Efron and Stein 1981) stands in. It tells how far the number would move with other images; it does not
take away the floor of FID at small N.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.metrics.errors import MetricInputError, TooFewSamplesError

Floats = NDArray[np.float64]
MAX_COUNTS = 2**26
"""Largest number of resamples times source images (512 MB of counts)."""


@configuration
class BootstrapConfig:
    """How many resamples, what confidence, from which seed."""

    num_resamples: Annotated[int, Field(ge=2)] = 10_000
    """Resamples of the whole set."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the resamples inside of an interval, between its two percentiles."""
    seed: int = 0
    """Two reports with one seed use the same resamples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resamples:
    """How often each source image (and training seed) occurs in each resample."""

    source_index: NDArray[np.int64]
    """Number of the source image of each value, (n,)."""
    source_counts: Floats
    """Times a source image was sampled, (resamples, source images)."""
    replicate_index: NDArray[np.int64]
    """Number of the training seed of each value, (n,)."""
    replicate_counts: Floats
    """Times a training seed was sampled, (resamples, training seeds); ones where seeds are not resampled."""
    config: BootstrapConfig

    def means(self, values: Floats) -> Floats:
        """Return the mean of the defined values in every resample, (resamples,); NaN where it has none."""
        defined = ~np.isnan(values)
        totals = self._sums(np.where(defined, values, 0.0))
        counts = self._sums(defined.astype(np.float64))
        return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)

    def _sums(self, values: Floats) -> Floats:
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
    """Resamples without a defined value; the percentiles leave them out."""


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


def sample_resamples(
    source_ids: Sequence[str],
    *,
    replicate_ids: Sequence[int] | None = None,
    config: BootstrapConfig | None = None,
) -> Resamples:
    """Return the resamples that every interval of a table shares.

    They depend on the sorted distinct ids and the config alone, not on the order of the rows.

    Args:
        source_ids: the source image of each value, in the order of all value arrays to come.
        replicate_ids: the training seed of each value; left out, seeds are not resampled.
        config: resamples, confidence and seed; the defaults of ``BootstrapConfig`` when left out.

    Raises:
        MetricInputError: the ids differ in number, or the counts would not fit into memory.
        TooFewSamplesError: there are fewer than two source images (or training seeds, where they are resampled).
    """
    config = config or BootstrapConfig()
    sources, source_index = np.unique(np.asarray(source_ids, dtype=str), return_inverse=True)
    if len(sources) < 2:
        raise TooFewSamplesError(f"{len(sources)} source images: a bootstrap over source images needs at least 2")
    if config.num_resamples * len(sources) > MAX_COUNTS:
        raise MetricInputError(
            f"{config.num_resamples} resamples of {len(sources)} source images exceed {MAX_COUNTS} counts: "
            f"take at most {MAX_COUNTS // len(sources)} resamples"
        )
    rng = np.random.default_rng(config.seed)
    source_counts = _sample_counts(rng, len(sources), config.num_resamples)
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
        values: one value per edit, NaN where undefined, in the order of the ids given to ``sample_resamples``.
        resamples: the shared resamples.

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
    resampled = resamples.means(differences)
    kept = resampled[~np.isnan(resampled)]
    probability = float((np.mean(kept > 0) + np.mean(kept >= 0)) / 2) if len(kept) else math.nan
    return Difference(interval=_interval(differences, resampled, resamples), probability_greater=probability)


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
        values: one array per method; others than those reported are not read.
        methods: the ranking, best first.
        resamples: the shared resamples.
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
    resampled = np.stack([resamples.means(row) for row in table])
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    means = np.array([_mean(row) for row in table])
    return Ordering(
        methods=tuple(methods),
        means=tuple(means.tolist()),
        holds=bool(_in_order(means[:, None], higher_is_better=higher_is_better)[0]),
        probability=_share(_in_order(resampled, higher_is_better=higher_is_better)),
        num_values=int((~undefined).sum()),
        num_undefined=int(undefined.sum()),
    )


def _sample_counts(rng: np.random.Generator, num_units: int, num_resamples: int) -> Floats:
    # Sampling num_units of them with replacement and counting is one multinomial sample.
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
        raise TooFewSamplesError(f"{len(replicates)} training seeds: resampling them needs at least 2; leave them out")
    return index, _sample_counts(rng, len(replicates), num_resamples)


def _checked(values: Sequence[float] | Floats, resamples: Resamples) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != resamples.source_index.shape:
        raise MetricInputError(f"values are {array.shape}, the resamples are for {resamples.source_index.shape}")
    if np.isinf(array).any():
        raise MetricInputError(f"{int(np.isinf(array).sum())} values are infinite and have no mean: bound them first")
    return array


def _interval(values: Floats, resampled: Floats, resamples: Resamples) -> Interval:
    defined, empty = ~np.isnan(values), np.isnan(resampled)
    tail = (1 - resamples.config.confidence) / 2
    low, high = np.quantile(resampled[~empty], (tail, 1 - tail)) if not empty.all() else (math.nan, math.nan)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class JackknifeInterval:
    """A statistic of the whole set with a normal interval from the jackknife's standard error."""

    value: float
    """The statistic of the whole set."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    standard_error: float
    """Square root of (K - 1) / K times the sum of squared deviations of the K leave-one-out values."""
    num_sources: int
    """Source images, each left out once, K."""


def jackknife_interval(
    statistic: Callable[[NDArray[np.int64]], float], source_ids: Sequence[str], *, confidence: float = 0.95
) -> JackknifeInterval:
    """Return a set's statistic with its interval.

    Args:
        statistic: maps the numbers of the rows kept to the statistic of those rows.
        source_ids: the source image of each row.
        confidence: share of a normal distribution inside of the interval, in (0, 1).

    Raises:
        MetricInputError: the confidence lies outside (0, 1).
        TooFewSamplesError: there are fewer than three source images.
    """
    if not 0 < confidence < 1:
        raise MetricInputError(f"confidence is {confidence}, expected a share in (0, 1)")
    sources, index = np.unique(np.asarray(source_ids, dtype=str), return_inverse=True)
    count = len(sources)
    if count < 3:
        raise TooFewSamplesError(f"{count} source images: leaving one out needs at least 3")
    value = statistic(np.arange(len(index)))
    left_out = np.array([statistic(np.flatnonzero(index != source)) for source in range(count)])
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return JackknifeInterval(
        value=value, low=value - reach, high=value + reach, standard_error=error, num_sources=count
    )
