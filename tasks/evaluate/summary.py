"""What the rows say: means with intervals, differences against the baselines, win rates, and the paper's orderings.

All intervals come from one bootstrap over source images, the same draws for every method of a set; where there are
several training seeds, those are drawn too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from iedit_model.configuration import configuration
from iedit_model.metrics.bootstrap import (
    BootstrapConfig,
    Difference,
    Interval,
    Ordering,
    Resamples,
    difference_interval,
    draw_resamples,
    mean_interval,
    ordering,
    win_rate,
)
from iedit_model.metrics.catalogue import metric_info
from tasks.evaluate.errors import MissingScoresError
from tasks.evaluate.paper_tables import REPORTED_RANKINGS, ReportedRanking
from tasks.evaluate.results import ALL_SETS, Aligned, Results, align
from tasks.evaluate.set_metrics import SetMetric

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
    """Whether an ordering that the paper rankings holds here."""

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
        draws: _Draws = _Draws(config.bootstrap)
        for metric in results.metrics:
            aligned = align(results, metric, methods, members)
            pairs[name], sources[name] = len(set(aligned.pair_ids)), len(set(aligned.source_ids))
            cells += _cells(name, metric, aligned, draws)
            if metric_info(metric).better != "neither":
                comparisons += _comparisons(name, metric, aligned, draws, config.baselines)
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


class _Draws:
    """One set of resamples for all metrics of a group, so that they are drawn once."""

    def __init__(self, config: BootstrapConfig) -> None:
        self._config = config
        self._kept: dict[tuple[Any, ...], Resamples] = {}

    def of(self, aligned: Aligned) -> Resamples:
        key = (aligned.source_ids, aligned.replicate_ids)
        if key not in self._kept:
            replicates = aligned.replicate_ids if aligned.num_replicates > 1 else None
            self._kept[key] = draw_resamples(aligned.source_ids, replicate_ids=replicates, config=self._config)
        return self._kept[key]


def _methods_of(results: Results, members: Sequence[str]) -> list[str]:
    wanted = set(members)
    there = zip(results.values("evalset"), results.values("method"), strict=True)
    return sorted({method for evalset, method in there if evalset in wanted})


def _cells(evalset: str, metric: str, aligned: Aligned, draws: _Draws) -> list[Cell]:
    resamples = draws.of(aligned)
    return [
        Cell(evalset=evalset, method=method, metric=metric, interval=mean_interval(values, resamples))
        for method, values in aligned.by_method.items()
    ]


def _comparisons(
    evalset: str, metric: str, aligned: Aligned, draws: _Draws, baselines: Sequence[str]
) -> list[Comparison]:
    resamples, better = draws.of(aligned), metric_info(metric).better
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
            resamples = _Draws(config.bootstrap).of(aligned)
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
