"""Means by kind of edit and by size of the mask: whether a method gains everywhere or in one corner."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from iedit_model.metrics.bootstrap import BootstrapConfig, Interval, draw_resamples, mean_interval
from iedit_model.metrics.catalogue import metric_info, shown_in
from iedit_model.metrics.errors import TooFewSamplesError
from tasks.evaluate.diagnosis import MASK_BORDERS
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.names import (
    in_order,
    is_reference,
    method_title,
    metric_title,
    metric_unit,
    shown,
    shown_interval,
)
from tasks.evaluate.report.selection import of_all_networks
from tasks.evaluate.report.tables import Table, TableCell, TableRow
from tasks.evaluate.results import Results, align, results_of

_RESAMPLES: Final = 2000

_Keep = Callable[[dict[str, Any]], bool]


def strata_tables(evaluation: Evaluation) -> list[Table]:
    """Return one table a headline metric, all sets together: methods down, strata across; none where there is one."""
    results = evaluation.results
    strata = [(words, part) for words, keep in _strata(results) if (part := _part(results, keep)).table.num_rows]
    if len(strata) < 2:
        return []
    metrics = of_all_networks(evaluation, shown_in("strata"))
    return [_table(metric, strata, results.methods) for metric in metrics]


def _strata(results: Results) -> list[tuple[str, _Keep]]:
    kinds = sorted({kind for kind in results.values("kind") if kind is not None})
    strata: list[tuple[str, _Keep]] = [(kind, _is_kind(kind)) for kind in kinds] if len(kinds) > 1 else []
    if "mask_area" in results.metrics:
        low, high = MASK_BORDERS
        strata += [
            (f"mask below {low:.0%}", _has_area(0.0, low)),
            (f"mask {low:.0%} to {high:.0%}", _has_area(low, high)),
            (f"mask above {high:.0%}", _has_area(high, math.inf)),
        ]
    return strata


def _table(metric: str, strata: Sequence[tuple[str, Results]], methods: Sequence[str]) -> Table:
    rows = [
        TableRow(
            method=method,
            title=method_title(method),
            is_reference=is_reference(method),
            cells=tuple(_cell(metric, part, method) for _, part in strata),
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


def _cell(metric: str, part: Results, method: str) -> TableCell:
    interval = _mean(metric, part, method)
    if interval is None or not interval.num_values:
        return TableCell(text=shown(metric, None))
    return TableCell(
        text=shown(metric, interval.value),
        interval=shown_interval(metric, interval),
        aside=f"{interval.num_sources} images",
    )


def _mean(metric: str, part: Results, method: str) -> Interval | None:
    """Return the mean of a method, None where it has no edit there or they show one image alone."""
    if method not in part.methods:
        return None
    aligned = align(part, metric, [method], part.evalsets)
    try:
        draws = draw_resamples(aligned.source_ids, config=BootstrapConfig(num_resamples=_RESAMPLES))
    except TooFewSamplesError:
        return None
    return mean_interval(aligned.by_method[method], draws)


def _part(results: Results, keep: _Keep) -> Results:
    import pyarrow as pa

    columns = ["kind", *({"mask_area"} & set(results.metrics))]
    rows = results.table.select(columns).to_pylist()
    return results_of(results.table.filter(pa.array([keep(row) for row in rows], type=pa.bool_())))


def _is_kind(kind: str) -> _Keep:
    return lambda row: row["kind"] == kind


def _has_area(low: float, high: float) -> _Keep:
    return lambda row: row["mask_area"] is not None and low <= row["mask_area"] < high
