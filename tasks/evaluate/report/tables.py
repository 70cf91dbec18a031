"""The tables of a report as plain rows: what HTML, JSON and LaTeX all say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from iedit_model.editing.methods import METHODS, method_info
from iedit_model.metrics.bootstrap import BootstrapConfig, Interval, mean_interval, sample_resamples
from iedit_model.metrics.catalogue import metric_info, shown_in
from iedit_model.metrics.errors import TooFewSamplesError
from tasks.evaluate.diagnosis import MASK_BORDERS, Keep, equals, part_of, within
from tasks.evaluate.paper_tables import PAPER_METRICS, PAPER_TABLES, PaperTable
from tasks.evaluate.plan import FULL_METHOD
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.names import (
    in_order,
    is_reference,
    method_title,
    methods_on,
    metric_title,
    metric_unit,
    metrics_on,
    of_all_networks,
    percent,
    shown,
    shown_difference,
    shown_ends,
    shown_interval,
)
from tasks.evaluate.results import ALL_SETS, Results, align
from tasks.evaluate.summary import SetMetric


@dataclass(frozen=True, kw_only=True, slots=True)
class TableCell:
    """One cell."""

    text: str
    interval: str = ""
    aside: str = ""
    """What stands below: the paper's number, or how sure a difference is."""
    rank: int = 0
    """1 for the best, 2 for the second best, 0 for others and for columns without a better way."""
    note: str = ""
    """What a reader has to know about the number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row: a method."""

    method: str
    title: str
    is_reference: bool
    cells: tuple[TableCell, ...]
    trained: str = ""
    """What its weights were trained on, where the table's title for it may say something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table."""

    name: str
    title: str
    caption: str
    heads: tuple[str, ...]
    units: tuple[str, ...]
    definitions: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def trainings(self) -> list[str]:
        """Return a sentence for each row whose weights were trained here: on what."""
        return [f"Trained here for {row.title}: {row.trained}." for row in self.rows if row.trained]


def paper_tables(evaluation: Evaluation) -> list[Table]:
    """Return the paper's tables with our numbers and its own beside them, as far as their sets were evaluated."""
    tables = []
    for paper in PAPER_TABLES:
        for evalset in _sets_of(evaluation, paper):
            methods = [row.method for row in paper.rows]
            if paper.sets != "both":
                methods = [name for name in methods if name in evaluation.results.methods] or methods
            if any(evaluation.summary.cell(evalset, method, _clip(evaluation)) for method in methods):
                tables.append(_paper_table(evaluation, paper, evalset))
    return tables


def metric_tables(evaluation: Evaluation) -> list[Table]:
    """Return one table per set with every metric and method, distances between sets included."""
    return [_metric_table(evaluation, evalset) for evalset in evaluation.summary.num_pairs]


def comparison_table(evaluation: Evaluation, evalset: str, baseline: str) -> Table:
    """Return differences, win rates and confidence of every method against one baseline."""
    found = [c for c in evaluation.summary.comparisons if (c.evalset, c.baseline) == (evalset, baseline)]
    metrics = of_all_networks(evaluation, shown_in("comparisons"))
    by_key = {(c.method, c.metric): c for c in found}
    rows = []
    for method in in_order({c.method for c in found}):
        cells = []
        for metric in metrics:
            if (comparison := by_key.get((method, metric))) is None:
                cells.append(TableCell(text=shown(metric, None)))
                continue
            interval = comparison.difference.interval
            cells.append(
                TableCell(
                    text=shown_difference(metric, interval.value),
                    interval=shown_interval(metric, interval),
                    aside=""
                    if math.isnan(interval.value)
                    else f"above {percent(comparison.difference.probability_greater)}, "
                    f"wins {percent(comparison.win_rate.value)}",
                )
            )
        rows.append(_row(method, cells))
    return Table(
        name=f"against_{baseline}_{evalset}",
        title=f"Against {method_title(baseline)}",
        caption="Difference of the means on the same edits, its interval, how often it is above 0 in resamples of the "
        "source images, and the share of edits won.",
        heads=tuple(metric_title(metric) for metric in metrics),
        units=tuple(metric_unit(metric) for metric in metrics),
        definitions=tuple(metric_info(metric).definition for metric in metrics),
        rows=tuple(rows),
    )


def _paper_table(evaluation: Evaluation, paper: PaperTable, evalset: str) -> Table:
    names = [_named(evaluation, evalset, metric) or metric for metric in PAPER_METRICS]
    extra = _extra_rows(evaluation, paper)
    rows = []
    for method in [row.method for row in paper.rows] + extra:
        cells = []
        printed = paper.row(method)
        for position, name in enumerate(names):
            theirs = f"paper {shown_paper(printed.values[position])}" if printed is not None else ""
            cells.append(replace(_cell(evaluation, evalset, method, name), aside=theirs))
        trained = _trained(evaluation, method) if paper.sets == "both" else ""
        rows.append(_row(method, cells, title=printed.title if printed is not None else None, trained=trained))
    summary = evaluation.summary
    return Table(
        name=f"{paper.name}_{evalset}" if len(_sets_of(evaluation, paper)) > 1 else paper.name,
        title=f"{paper.title} ({paper.place})",
        caption=f"Ours on {evalset}: {summary.num_pairs[evalset]} pairs of {summary.num_sources[evalset]} images; the "
        f"paper's on its own {paper.num_pairs} pairs of {paper.num_images} images. Other models and other images: "
        "compare the order of the rows, not the numbers.",
        heads=tuple(metric_title(name) for name in names),
        units=tuple(metric_unit(metric) for metric in PAPER_METRICS),
        definitions=tuple(metric_info(metric).definition for metric in PAPER_METRICS),
        rows=_ranked(evaluation, evalset, rows, names),
    )


def shown_paper(value: float) -> str:
    """Return a number of the paper as it prints it: FID whole, the others with two digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _metric_table(evaluation: Evaluation, evalset: str) -> Table:
    summary = evaluation.summary
    metrics = metrics_on(evaluation, evalset, first=_clip(evaluation))
    rows = [
        _row(method, [_cell(evaluation, evalset, method, metric) for metric in metrics])
        for method in methods_on(evaluation, evalset)
    ]
    return Table(
        name=f"metrics_{evalset}",
        title=f"All metrics on {evalset}" if evalset != ALL_SETS else "All metrics on all sets together",
        caption=f"{summary.num_pairs[evalset]} pairs of {summary.num_sources[evalset]} images. Below each mean stands "
        f"its interval ({evaluation.config.bootstrap.confidence:.0%}), from a bootstrap over source images.",
        heads=tuple(metric_title(metric) for metric in metrics),
        units=tuple(metric_unit(metric) for metric in metrics),
        definitions=tuple(metric_info(metric).definition for metric in metrics),
        rows=_ranked(evaluation, evalset, rows, metrics),
    )


def _cell(evaluation: Evaluation, evalset: str, method: str, metric: str) -> TableCell:
    found = distance_of(evaluation, evalset, method, metric)
    if found is not None:
        note = f"{found.num_edited} edited against {found.reference_set}"
        if found.num_sets > 1:
            note += f", mean of {found.num_sets} seeds"
        if found.rank_deficient:
            note += "; fewer images than features: most of the value is floor, compare it only within this table"
        return TableCell(text=shown(metric, found.value), interval=shown_ends(metric, found.low, found.high), note=note)
    interval = evaluation.summary.cell(evalset, method, metric)
    if interval is None:
        return TableCell(text=shown(metric, None), note="not measured")
    note = f"{interval.num_undefined} of {interval.num_values + interval.num_undefined} undefined"
    return TableCell(
        text=shown(metric, interval.value),
        interval=shown_interval(metric, interval),
        note=note if interval.num_undefined else "",
    )


def distance_of(evaluation: Evaluation, evalset: str, method: str, metric: str) -> SetMetric | None:
    """Return a distance between sets of images, or None where the metric is none or was not measured."""
    for found in evaluation.summary.set_metrics.get(evalset, ()):
        if found.method == method and metric in {found.name, found.name.partition("@")[0]}:
            return found
    return None


def value_of(evaluation: Evaluation, evalset: str, method: str, metric: str) -> float:
    """Return the number of a cell, NaN where there is none."""
    if (distance := distance_of(evaluation, evalset, method, metric)) is not None:
        return distance.value
    interval = evaluation.summary.cell(evalset, method, metric)
    return math.nan if interval is None else interval.value


def _ranked(
    evaluation: Evaluation, evalset: str, rows: Sequence[TableRow], metrics: Sequence[str]
) -> tuple[TableRow, ...]:
    """Mark the best and the second best of every column; reference rows are no competitors."""
    ranks: dict[tuple[str, int], int] = {}
    for column, metric in enumerate(metrics):
        better = metric_info(metric).better
        values = [
            (value_of(evaluation, evalset, row.method, metric), row.method) for row in rows if not row.is_reference
        ]
        known = sorted((entry for entry in values if math.isfinite(entry[0])), reverse=better == "higher")
        if better != "neither" and len(known) > 1:
            ranks |= {(method, column): place for place, (_, method) in enumerate(known[:2], start=1)}
    return tuple(
        replace(
            row,
            cells=tuple(
                replace(cell, rank=ranks.get((row.method, column), 0)) for column, cell in enumerate(row.cells)
            ),
        )
        for row in rows
    )


def _row(method: str, cells: Sequence[TableCell], *, title: str | None = None, trained: str = "") -> TableRow:
    return TableRow(
        method=method,
        title=title or method_title(method),
        is_reference=is_reference(method),
        cells=tuple(cells),
        trained=trained,
    )


def _trained(evaluation: Evaluation, method: str) -> str:
    """Return what was trained for a row; the weights of the full method serve all methods that need a training."""
    is_tuned = method in METHODS and method_info(method).weights == "tuned"
    return evaluation.provenance.trainings.get(FULL_METHOD if is_tuned else method, "")


def _extra_rows(evaluation: Evaluation, paper: PaperTable) -> list[str]:
    """Return what we add to a table: to Table 1 other methods, to Table 2 other trainings."""
    results = evaluation.results
    printed = {row.method for row in paper.rows}
    ablations = {name for name in results.methods if name not in METHODS}
    wanted = ablations if paper.sets == "both" else set(results.methods) - ablations
    return in_order(wanted - printed)


def _sets_of(evaluation: Evaluation, paper: PaperTable) -> list[str]:
    if paper.sets == "both":
        return [ALL_SETS] if ALL_SETS in evaluation.summary.num_pairs else list(evaluation.summary.num_pairs)
    return [name for name, info in evaluation.infos.items() if info.origin == paper.sets]


def _named(evaluation: Evaluation, evalset: str, metric: str) -> str | None:
    """Return the full name of a metric: CLIPScore's with the encoder of the training loss."""
    if metric.startswith("clip_"):
        return f"{metric}@{evaluation.config.training_clip}"
    known = [*evaluation.results.metrics, *(m.name for m in evaluation.summary.set_metrics.get(evalset, ()))]
    return next((name for name in known if name.partition("@")[0] == metric), None)


def _clip(evaluation: Evaluation) -> str:
    return f"clip_score@{evaluation.config.training_clip}"


_RESAMPLES: Final = 2000


def strata_tables(evaluation: Evaluation) -> list[Table]:
    """Return one table per headline metric, all sets together: methods down, strata across; none where there is one."""
    results = evaluation.results
    strata = [(words, part) for words, keep in _strata(results) if (part := part_of(results, keep)).table.num_rows]
    if len(strata) < 2:
        return []
    metrics = of_all_networks(evaluation, shown_in("strata"))
    return [_stratum_table(metric, strata, results.methods) for metric in metrics]


def _strata(results: Results) -> list[tuple[str, Keep]]:
    kinds = sorted({kind for kind in results.values("kind") if kind is not None})
    strata: list[tuple[str, Keep]] = [(kind, equals("kind", kind)) for kind in kinds] if len(kinds) > 1 else []
    if "mask_area" in results.metrics:
        low, high = MASK_BORDERS
        strata += [
            (f"mask below {low:.0%}", within("mask_area", 0.0, low)),
            (f"mask {low:.0%} to {high:.0%}", within("mask_area", low, high)),
            (f"mask above {high:.0%}", within("mask_area", high, math.inf)),
        ]
    return strata


def _stratum_table(metric: str, strata: Sequence[tuple[str, Results]], methods: Sequence[str]) -> Table:
    rows = [
        TableRow(
            method=method,
            title=method_title(method),
            is_reference=is_reference(method),
            cells=tuple(_stratum_cell(metric, part, method) for _, part in strata),
        )
        for method in in_order(methods)
    ]
    info = metric_info(metric)
    return Table(
        name=f"strata_{metric.replace('@', '_')}",
        title=f"{metric_title(metric)} by kind of edit and size of the mask",
        caption="All sets together; the size of a mask is its share of the frame.",
        heads=tuple(words for words, _ in strata),
        units=(metric_unit(metric),) * len(strata),
        definitions=(info.definition,) * len(strata),
        rows=tuple(rows),
    )


def _stratum_cell(metric: str, part: Results, method: str) -> TableCell:
    interval = _stratum_mean(metric, part, method)
    if interval is None or not interval.num_values:
        return TableCell(text=shown(metric, None))
    return TableCell(
        text=shown(metric, interval.value),
        interval=shown_interval(metric, interval),
        aside=f"{interval.num_sources} images",
    )


def _stratum_mean(metric: str, part: Results, method: str) -> Interval | None:
    """Return the mean of a method, None where it has no edit there or they show one image alone."""
    if method not in part.methods:
        return None
    aligned = align(part, metric, [method], part.evalsets)
    try:
        shared = sample_resamples(aligned.source_ids, config=BootstrapConfig(num_resamples=_RESAMPLES))
    except TooFewSamplesError:
        return None
    return mean_interval(aligned.by_method[method], shared)
