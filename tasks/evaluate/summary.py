"""What the rows say: means with intervals, differences from the baselines, win rates, set distances, rankings.

Intervals come from one bootstrap over source images, the same resamples for every method of a set; where there are
several training seeds, those are resampled too. FID, KID and CMMD state their reference and their number of images, and
take the jackknife over source images. Each seed (and training seed) gives one set of edited images of the size that the
paper would have; the number is the mean over them. Pooling the seeds would lower FID by its floor alone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from iedit_model.configuration import configuration
from iedit_model.metrics.bootstrap import (
    BootstrapConfig,
    Difference,
    Interval,
    Ordering,
    Resamples,
    difference_interval,
    jackknife_interval,
    mean_interval,
    ordering,
    sample_resamples,
    win_rate,
)
from iedit_model.metrics.catalogue import distances_of, metric_info
from iedit_model.metrics.registry import SetNetwork
from storage import ShardReport, ShardStore
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.paper_tables import REPORTED_RANKINGS, ReportedRanking
from tasks.evaluate.results import ALL_SETS, Aligned, Floats, MethodScores, Results, SetFeatures, align, read_features

Rows = npt.NDArray[np.int64]
_Distance = Callable[[Floats, Floats], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMetric:
    """A distance between a method's edited images and the reference set."""

    method: str
    name: str
    """With its network: ``fid@mini-vgg``."""
    value: float
    low: float
    high: float
    reference_set: str
    """Which images the reference is, in words."""
    num_reference: int
    num_edited: int
    """Edited images of one set."""
    num_sets: int
    """Sets of edited images over which the number is a mean."""
    rank_deficient: bool
    """Whether a set has too few images for its covariance (FID alone): most of the value is floor then."""


def measure_distances(
    store: ShardStore, runs: Sequence[MethodScores], references: Mapping[str, ShardReport], *, encoders: Sequence[str]
) -> dict[str, list[SetMetric]]:
    """Return the distances of every method on every set, and on all sets together where there are several."""
    names = sorted({run.evalset.info.name for run in runs})
    sources = {name: read_features(store, [references[name]], evalset=name) for name in names}
    edited: defaultdict[str, defaultdict[int, dict[str, dict[str, SetFeatures]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for run in runs:
        name = run.evalset.info.name
        edited[run.method][run.train_seed][name] = read_features(store, run.scores, evalset=name)
    groups = {name: [name] for name in names} | ({ALL_SETS: names} if len(names) > 1 else {})
    found: dict[str, list[SetMetric]] = {}
    for group, members in groups.items():
        found[group] = []
        for network in next(iter(sources.values())):
            reference = _joined([sources[name][network] for name in members])
            words = f"the {len(reference.source_ids)} source images of {' and '.join(members)}, each once"
            for method, by_seed in sorted(edited.items()):
                # A method that could edit nothing of a set has no features there, and no distance.
                whole = [
                    by_set for by_set in by_seed.values() if all(network in by_set.get(name, {}) for name in members)
                ]
                images = [_joined([by_set[name][network] for name in members]) for by_set in whole]
                if not images:
                    continue
                kind: SetNetwork = "clip" if network in encoders else "features"
                found[group] += set_metrics(method, images, reference, reference_set=words, kind=kind)
    return found


def _joined(parts: Sequence[SetFeatures]) -> SetFeatures:
    return SetFeatures(
        network=parts[0].network,
        source_ids=tuple(source for part in parts for source in part.source_ids),
        seeds=tuple(seed for part in parts for seed in part.seeds),
        features=np.concatenate([part.features for part in parts]),
    )


def set_metrics(
    method: str,
    edited: Sequence[SetFeatures],
    reference: SetFeatures,
    *,
    reference_set: str,
    kind: SetNetwork,
    confidence: float = 0.95,
) -> list[SetMetric]:
    """Return the registered distances of one method that take the features of this kind of network.

    Args:
        method: its name.
        edited: features of its images through one network, one entry per training seed.
        reference: features of the source images, each image once.
        reference_set: what those are, in words.
        kind: which distances the network serves.
        confidence: of the intervals.

    Returns:
        One entry per metric; NaN where there are too few images, and NaN ends where there are too few source images.
    """
    sets = [_of_seed(features, seed) for features in edited for seed in sorted(set(features.seeds))]
    num_edited = min((len(one.source_ids) for one in sets), default=0)
    found = []
    for metric in distances_of(kind):
        value, low, high = _interval(sets, reference, metric.distance, confidence)
        found.append(
            SetMetric(
                method=method,
                name=f"{metric.infos[0].name}@{reference.network}",
                value=value,
                low=low,
                high=high,
                reference_set=reference_set,
                num_reference=len(reference.source_ids),
                num_edited=num_edited,
                num_sets=len(sets),
                rank_deficient=metric.needs_full_rank
                and min(num_edited, len(reference.features)) <= reference.features.shape[1],
            )
        )
    return found


def _of_seed(features: SetFeatures, seed: int) -> SetFeatures:
    kept = [index for index, own in enumerate(features.seeds) if own == seed]
    return SetFeatures(
        network=features.network,
        source_ids=tuple(features.source_ids[index] for index in kept),
        seeds=tuple(seed for _ in kept),
        features=features.features[kept],
    )


def _interval(
    sets: Sequence[SetFeatures], reference: SetFeatures, distance: _Distance, confidence: float
) -> tuple[float, float, float]:
    """Return the mean over sets with its jackknife interval over source images."""
    sources = np.array(reference.source_ids)

    def statistic(kept: Rows) -> float:
        left = set(sources[kept])
        values = []
        for one in sets:
            rows = [index for index, source in enumerate(one.source_ids) if source in left]
            if min(len(rows), len(kept)) < 2:
                return math.nan
            values.append(distance(reference.features[kept], one.features[rows]))
        return math.fsum(values) / len(values) if values else math.nan

    whole = statistic(np.arange(len(sources)))
    if len(sources) < 3 or math.isnan(whole):
        return whole, math.nan, math.nan
    found = jackknife_interval(statistic, reference.source_ids, confidence=confidence)
    return found.value, found.low, found.high


BASELINES: Final = ("sdedit", "instruct_pix2pix")
"""Methods against which differences and win rates are taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A method's mean of one metric on one set."""

    evalset: str
    method: str
    metric: str
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A method against a baseline, on the same edits."""

    evalset: str
    method: str
    baseline: str
    metric: str
    difference: Difference
    """Method minus baseline."""
    win_rate: Interval
    """Share of the edits won, a tie counting half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingResult:
    """Whether an ordering that the paper reports holds here."""

    ranking: ReportedRanking
    evalset: str
    metric: str
    """With the encoder."""
    ordering: Ordering
    paper_holds: bool
    """Whether the paper's own numbers stand in that order."""


@configuration
class SummaryConfig:
    """What is summarised."""

    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    baselines: tuple[str, ...] = BASELINES
    training_clip: str
    """Encoder whose CLIPScore stands for the paper's."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All numbers of a report."""

    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    rankings: tuple[RankingResult, ...]
    set_metrics: Mapping[str, tuple[SetMetric, ...]]
    """Set -> distances of its methods."""
    num_pairs: Mapping[str, int]
    num_sources: Mapping[str, int]
    train_seeds: tuple[int, ...]
    """Seeds of the training; empty where nothing was trained here."""

    def cell(self, evalset: str, method: str, metric: str) -> Interval | None:
        """Return one mean, or None where it was not measured."""
        for cell in self.cells:
            if (cell.evalset, cell.method, cell.metric) == (evalset, method, metric):
                return cell.interval
        return None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; what is undefined is null."""
        return _plain(asdict(self))


def summarise(
    results: Results,
    config: SummaryConfig,
    *,
    origins: Mapping[str, str],
    distances: Mapping[str, Sequence[SetMetric]] | None = None,
) -> Summary:
    """Return the summary of an evaluation.

    Args:
        results: the rows.
        config: what is summarised.
        origins: set -> ``real``, ``generated`` or ``imported``, which decides the paper's table beside it.
        distances: set -> its distances between sets of images.

    Raises:
        MissingScoresError: there is no row.
        TooFewSamplesError: there are fewer than two source images.
    """
    groups = {name: [name] for name in results.evalsets}
    if len(groups) > 1:
        groups[ALL_SETS] = list(results.evalsets)
    cells: list[Cell] = []
    comparisons: list[Comparison] = []
    pairs: dict[str, int] = {}
    sources: dict[str, int] = {}
    for name, members in groups.items():
        methods = _methods_of(results, members)
        resamples = _SharedResamples(config.bootstrap)
        for metric in results.metrics:
            aligned = align(results, metric, methods, members)
            pairs[name], sources[name] = len(set(aligned.pair_ids)), len(set(aligned.source_ids))
            cells += _cells(name, metric, aligned, resamples)
            if metric_info(metric).better != "neither":
                comparisons += _comparisons(name, metric, aligned, resamples, config.baselines)
    trained = {seed for method in results.methods for seed in results.train_seeds(method)} - {-1}
    return Summary(
        cells=tuple(cells),
        comparisons=tuple(comparisons),
        rankings=tuple(_rankings(results, config, groups, origins)),
        set_metrics={name: tuple(found) for name, found in (distances or {}).items()},
        num_pairs=pairs,
        num_sources=sources,
        train_seeds=tuple(sorted(trained)),
    )


class _SharedResamples:
    """One set of resamples for all metrics of a group, so that they are sampled once."""

    def __init__(self, config: BootstrapConfig) -> None:
        self._config = config
        self._kept: dict[tuple[Any, ...], Resamples] = {}

    def of(self, aligned: Aligned) -> Resamples:
        key = (aligned.source_ids, aligned.replicate_ids)
        if key not in self._kept:
            replicates = aligned.replicate_ids if aligned.num_replicates > 1 else None
            self._kept[key] = sample_resamples(aligned.source_ids, replicate_ids=replicates, config=self._config)
        return self._kept[key]


def _methods_of(results: Results, members: Sequence[str]) -> list[str]:
    wanted = set(members)
    there = zip(results.values("evalset"), results.values("method"), strict=True)
    return sorted({method for evalset, method in there if evalset in wanted})


def _cells(evalset: str, metric: str, aligned: Aligned, shared: _SharedResamples) -> list[Cell]:
    resamples = shared.of(aligned)
    return [
        Cell(evalset=evalset, method=method, metric=metric, interval=mean_interval(values, resamples))
        for method, values in aligned.by_method.items()
    ]


def _comparisons(
    evalset: str, metric: str, aligned: Aligned, shared: _SharedResamples, baselines: Sequence[str]
) -> list[Comparison]:
    resamples, better = shared.of(aligned), metric_info(metric).better
    found = []
    for baseline in (name for name in baselines if name in aligned.by_method):
        second = aligned.by_method[baseline]
        for method, first in aligned.by_method.items():
            if method == baseline:
                continue
            found.append(
                Comparison(
                    evalset=evalset,
                    method=method,
                    baseline=baseline,
                    metric=metric,
                    difference=difference_interval(first, second, resamples),
                    win_rate=win_rate(first, second, resamples, higher_is_better=better == "higher"),
                )
            )
    return found


def _rankings(
    results: Results, config: SummaryConfig, groups: Mapping[str, Sequence[str]], origins: Mapping[str, str]
) -> list[RankingResult]:
    """Check each ranking on every set of its table's kind, where its methods were scored."""
    wanted = {"table1a": "generated", "table1b": "real"}
    found = []
    for ranking in REPORTED_RANKINGS:
        for name, members in groups.items():
            origin = origins.get(name)
            fits = origin == wanted[ranking.table] if ranking.table in wanted else name == ALL_SETS or len(groups) == 1
            if not fits or set(ranking.methods) - set(_methods_of(results, members)):
                continue
            encoder = config.training_clip if ranking.metric.startswith("clip_") else None
            try:
                metric = results.find_metric(ranking.metric, encoder)
            except MissingScoresError:
                continue
            aligned = align(results, metric, ranking.methods, members)
            resamples = _SharedResamples(config.bootstrap).of(aligned)
            found.append(
                RankingResult(
                    ranking=ranking,
                    evalset=name,
                    metric=metric,
                    ordering=ordering(aligned.by_method, ranking.methods, resamples),
                    paper_holds=ranking.paper_holds,
                )
            )
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
