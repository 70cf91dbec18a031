"""What the page of a report shows, worked out from an evaluation: plots, gallery, worst cases, rows of all edits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from iedit_model.configuration import configuration
from iedit_model.metrics.bootstrap import BootstrapConfig, mean_interval, sample_resamples
from iedit_model.metrics.catalogue import metric_info, shown_in
from tasks.evaluate.diagnosis import diagnose, weakest_step
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.names import (
    catalogue_order,
    in_order,
    is_reference,
    method_label,
    method_title,
    methods_on,
    metric_title,
    metric_unit,
    metrics_on,
    of_all_networks,
    percent,
    shown_difference,
    shown_interval,
)
from tasks.evaluate.report.plots import Curve, CurvePoint, Dot, TrendPoint, curve_plot, dot_plot, trend_plot
from tasks.evaluate.report.tables import distance_of
from tasks.evaluate.results import SweepPoint, align
from tasks.evaluate.summary import RankingResult


@dataclass(frozen=True, kw_only=True, slots=True)
class PairKey:
    """One seed of one pair."""

    evalset: str
    pair_id: str
    seed: int


@configuration
class ReportConfig:
    """What a report shows beside the numbers."""

    title: str = "Evaluation"
    gallery_pairs: Annotated[int, Field(ge=0, le=500)] = 24
    """Pairs of the gallery, spread evenly over the sets."""
    worst_cases: Annotated[int, Field(ge=0, le=50)] = 6
    """Worst edits per metric."""
    focus: tuple[str, ...] = ("iedit_m", "iedit", "sdedit")
    """Whose worst cases: the first of these that was evaluated, else the first method."""


@dataclass(frozen=True, kw_only=True)
class FunnelRow:
    """One stage of the dataset that the model was trained on."""

    stage: str
    num_in: int
    num_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstCases:
    """The worst edits of a metric."""

    metric: str
    title: str
    method: str
    keys: tuple[PairKey, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingView:
    """One reported ranking as the page shows it."""

    text: str
    place: str
    evalset: str
    verdict: str
    """holds, does not hold, or not measured where no edit was scored with all of its methods."""
    confidence: str
    numbers: str
    paper: str
    broken_at: str
    """The step that breaks; empty for a ranking that holds."""
    parts: tuple[tuple[str, str, str, int], ...]
    """What is compared, difference, interval and number of edits on every part, for a ranking that does not hold."""


def ranking_views(evaluation: Evaluation) -> list[RankingView]:
    """Return every ranking with our numbers."""
    found = []
    for result in evaluation.summary.rankings:
        is_measured = result.ordering.num_values > 0
        fails = is_measured and not result.ordering.holds
        factor = metric_info(result.metric).display_factor
        means = zip(result.ordering.methods, result.ordering.means, strict=True)
        numbers = ", ".join(f"{method_title(method)} {mean * factor:.2f}" for method, mean in means)
        found.append(
            RankingView(
                text=result.ranking.text,
                place=result.ranking.place,
                evalset=result.evalset,
                verdict="does not hold" if fails else "holds" if is_measured else "not measured",
                confidence=percent(result.ordering.probability) if is_measured else "-",
                numbers=numbers if is_measured else "no edit was scored with all of these methods",
                paper="holds" if result.paper_holds else "does not hold",
                broken_at=" above ".join(map(method_title, weakest_step(result))) if fails else "",
                parts=_parts(evaluation, result) if fails else (),
            )
        )
    return found


def _parts(evaluation: Evaluation, ranking: RankingResult) -> tuple[tuple[str, str, str, int], ...]:
    return tuple(
        (
            found.part,
            shown_difference(found.metric, found.difference.value),
            shown_interval(found.metric, found.difference),
            found.num_edits,
        )
        for found in diagnose(evaluation, ranking)
    )


def metric_plots(evaluation: Evaluation) -> dict[str, list[str]]:
    """Return for each set one chart per metric: means with intervals."""
    return {
        evalset: [
            _metric_plot(evaluation, evalset, name) for name in metrics_on(evaluation, evalset) if name != "mask_area"
        ]
        for evalset in evaluation.summary.num_pairs
    }


def trade_off(points: Sequence[SweepPoint], *, clip: str, resamples: int = 2000) -> str | None:
    """Return the curve over strength: CLIPScore against what is left of the background; None without points.

    Args:
        points: results at several strengths.
        clip: full name of the CLIPScore.
        resamples: number of resamples of the intervals.
    """
    by_method: dict[str, list[CurvePoint]] = {}
    for point in sorted(points, key=lambda point: (point.method, point.strength)):
        x, y = (_mean(point, metric, resamples) for metric in (clip, "ssim_zero_fill_outside"))
        by_method.setdefault(point.method, []).append(
            CurvePoint(label=f"{point.strength:g}", x=x[0], y=y[0], x_ends=(x[1], x[2]), y_ends=(y[1], y[2]))
        )
    if not by_method:
        return None
    curves = [Curve(label=method_label(name), points=tuple(by_method[name])) for name in in_order(by_method)]
    return curve_plot(
        "Trade-off over strength", curves, x_title=f"{metric_title(clip)}, %", y_title="SSIM-notM (zero-fill), %"
    )


def trend_plots(
    rows: Sequence[Mapping[str, Any]], *, baseline: str | None, metrics: Sequence[str], methods: Sequence[str]
) -> list[str]:
    """Return the trend of every watched metric of a history, none before there are two evaluations.

    Args:
        rows: ``tasks.evaluate.history.read_history``.
        baseline: the pinned evaluation, if any.
        metrics: names in the catalogue.
        methods: whose trend; the baselines of a comparison do not change.
    """
    series: dict[tuple[str, str, str], list[TrendPoint]] = {}
    for row in rows:
        bare = row["metric"].partition("@")[0]
        if bare not in metrics or row["method"] not in methods or row["value"] is None:
            continue
        factor = metric_info(bare).display_factor
        low, high = (row[end] * factor if row[end] is not None else math.nan for end in ("low", "high"))
        series.setdefault((row["evalset"], row["metric"], row["method"]), []).append(
            TrendPoint(
                when=row["created"],
                value=row["value"] * factor,
                low=low,
                high=high,
                is_baseline=row["evaluation"] == baseline,
            )
        )
    return [
        trend_plot(f"{metric_title(metric)} of {method_title(method)} on {evalset}", points, unit=metric_unit(metric))
        for (evalset, metric, method), points in sorted(series.items())
        if len(points) > 1
    ]


def gallery_keys(evaluation: Evaluation, config: ReportConfig) -> list[PairKey]:
    """Return the pairs of the gallery: evenly spread over every set, with the first seed."""
    sets = evaluation.results.evalsets
    share = -(-config.gallery_pairs // len(sets)) if config.gallery_pairs else 0
    keys = []
    for evalset in sets:
        seen = {
            (pair_id, seed)
            for name, pair_id, seed in evaluation.results.rows_of("evalset", "pair_id", "seed")
            if name == evalset
        }
        first = min(seed for _, seed in seen)
        pairs = sorted({pair_id for pair_id, _ in seen})
        count = min(share, len(pairs))
        chosen = [pairs[index * len(pairs) // count] for index in range(count)]
        keys += [PairKey(evalset=evalset, pair_id=pair_id, seed=first) for pair_id in chosen]
    return keys


def worst_cases(evaluation: Evaluation, config: ReportConfig) -> list[WorstCases]:
    """Return the worst edits of the focused method in every metric with a direction."""
    results = evaluation.results
    method = next((name for name in config.focus if name in results.methods), in_order(results.methods)[0])
    found = []
    for metric in catalogue_order(results.metrics):
        info = metric_info(metric)
        if info.better == "neither" or not config.worst_cases or info.same_order_as:
            continue
        values: dict[PairKey, float] = {}
        # Of several training seeds the first counts: it is the one whose images are shown.
        first = results.train_seeds(method)[0]
        for evalset, name, seed, pair_id, edit_seed, value in results.rows_of(
            "evalset", "method", "train_seed", "pair_id", "seed", metric
        ):
            if name == method and seed == first and value is not None:
                values[PairKey(evalset=evalset, pair_id=pair_id, seed=edit_seed)] = value
        ranked = sorted(values, key=lambda key: values[key], reverse=info.better == "lower")[: config.worst_cases]
        found.append(
            WorstCases(
                metric=metric,
                title=f"{metric_title(metric)} of {method_title(method)}",
                method=method,
                keys=tuple(ranked),
                values=tuple(values[key] for key in ranked),
            )
        )
    return [worst for worst in found if worst.keys]


def edit_rows(evaluation: Evaluation) -> dict[str, Any]:
    """Return all edits as columns for the sortable table: short keys and numbers in the unit they are printed in."""
    results = evaluation.results
    metrics = of_all_networks(evaluation, shown_in("edits"))
    heads = [{"name": "pair", "kind": "text"}, {"name": "method", "kind": "text"}, {"name": "seed", "kind": "number"}]
    heads += [{"name": metric_title(metric), "kind": "number", "unit": metric_unit(metric)} for metric in metrics]
    heads += [{"name": "UNet", "kind": "number", "unit": "calls"}, {"name": "time", "kind": "number", "unit": "s"}]
    rows = []
    columns = ("evalset", "method", "train_seed", "pair_id", "seed", "failure", "num_unet_evaluations", "seconds")
    for evalset, method, train_seed, pair_id, seed, failure, calls, seconds, *values in results.rows_of(
        *columns, *metrics
    ):
        name = method_title(method) + (f" (seed {train_seed})" if len(results.train_seeds(method)) > 1 else "")
        numbers = [
            None if value is None else float(f"{value * metric_info(metric).display_factor:.5g}")
            for metric, value in zip(metrics, values, strict=True)
        ]
        time = None if seconds is None else float(f"{seconds:.3g}")
        rows.append([f"{evalset}/{pair_id}", f"{name}: {failure}" if failure else name, seed, *numbers, calls, time])
    return {"heads": heads, "rows": rows}


def _metric_plot(evaluation: Evaluation, evalset: str, metric: str) -> str:
    info = metric_info(metric)
    dots = []
    for method in methods_on(evaluation, evalset):
        distance = distance_of(evaluation, evalset, method, metric)
        cell = evaluation.summary.cell(evalset, method, metric)
        if distance is not None:
            numbers = distance.value, distance.low, distance.high
        elif cell is not None:
            numbers = cell.value, cell.low, cell.high
        else:
            continue
        value, low, high = (number * info.display_factor for number in numbers)
        dots.append(
            Dot(
                label=method_label(method),
                value=value,
                low=low,
                high=high,
                is_reference=is_reference(method),
            )
        )
    return dot_plot(metric_title(metric), dots, unit=metric_unit(metric))


def _mean(point: SweepPoint, metric: str, resamples: int) -> tuple[float, float, float]:
    aligned = align(point.results, metric, [point.method], point.results.evalsets)
    shared = sample_resamples(aligned.source_ids, config=BootstrapConfig(num_resamples=resamples))
    interval, factor = mean_interval(aligned.by_method[point.method], shared), metric_info(metric).display_factor
    return interval.value * factor, interval.low * factor, interval.high * factor
