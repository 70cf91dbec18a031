"""How methods, metrics and numbers are written, and which of them a table or plot shows in which order."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from iedit_model.editing.methods import METHODS, method_info
from iedit_model.metrics.bootstrap import Interval
from iedit_model.metrics.catalogue import metric_info, metric_infos
from tasks.evaluate.record import Evaluation

_TRAININGS: Final = {
    "global_paired_caption": "L_global + L_pairs, caption data",
    "global_paired_edit": "L_global + L_pairs, edit data",
    "global_ldm_loc": "L_global + L_LDM + L_loc",
    "global_ldm_loc_perc": "L_global + L_LDM + L_loc + L_perc",
}
"""Other trainings, rows of Table 2 -> what a table calls them."""
_SHORT: Final = {
    "global_paired_caption": "pairs, captions",
    "global_paired_edit": "pairs, edits",
    "global_ldm_loc": "LDM + loc",
    "global_ldm_loc_perc": "LDM + loc + perc",
}
"""Rows of Table 2 in a plot, where there is room for 18 characters: all have L_global."""
_TWO_DIGITS: Final = ("%", "dB")
DASH: Final = "\N{EN DASH}"


def method_title(method: str) -> str:
    """Return what a table calls a method or training; others stand under their own names."""
    return method_info(method).title if method in METHODS else _TRAININGS.get(method, method)


def is_reference(method: str) -> bool:
    """Return whether a row frames a comparison and is no method."""
    return method in METHODS and method_info(method).is_reference


def method_label(method: str) -> str:
    """Return what a plot calls a method: short enough that two trainings can be told apart."""
    return _SHORT.get(method, method_title(method))


def in_order(methods: Iterable[str]) -> list[str]:
    """Return methods in the order of the paper's tables, then ours, then the reference rows."""
    order = [*METHODS, *_TRAININGS]

    def position(method: str) -> tuple[bool, int, str]:
        return is_reference(method), order.index(method) if method in order else len(order), method

    return sorted(methods, key=position)


def metric_title(metric: str) -> str:
    """Return the head of a column: the metric, and behind it the network in brackets."""
    network = metric.partition("@")[2]
    return metric_info(metric).title + (f" [{network}]" if network else "")


def metric_unit(metric: str) -> str:
    """Return the unit with its arrow: "% ↑"."""
    info = metric_info(metric)
    arrow = {"higher": "↑", "lower": "↓", "neither": ""}[info.better]
    return " ".join(part for part in (info.unit, arrow) if part)


def shown(metric: str, value: float | None, *, beside: float | None = None) -> str:
    """Return a value in the metric's unit, with as many digits as can mean something.

    Args:
        metric: its name.
        value: as it is stored.
        beside: a larger number with as many digits: the ends of an interval look alike.
    """
    if value is None or not math.isfinite(value):
        return DASH
    info = metric_info(metric)
    number = value * info.display_factor
    size = abs(number if beside is None else max(abs(value), abs(beside)) * info.display_factor)
    digits = 2 if info.unit in _TWO_DIGITS else 1 if size >= 100 else 2 if size >= 1 else 3
    text = f"{number:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def shown_difference(metric: str, value: float) -> str:
    """Return a difference like ``shown``, with its sign where it is above 0."""
    return ("+" if value > 0 else "") + shown(metric, value)


def shown_interval(metric: str, interval: Interval) -> str:
    """Return the ends of an interval: "[61.2, 64.9]"."""
    return shown_ends(metric, interval.low, interval.high)


def shown_ends(metric: str, low: float, high: float) -> str:
    """Return the ends of an interval, or nothing where it has none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{shown(metric, low, beside=high)}, {shown(metric, high, beside=low)}]"


def percent(share: float) -> str:
    """Return a probability in percent, never rounded to certainty."""
    if not math.isfinite(share):
        return DASH
    if 0 < share < 0.005:
        return "< 1 %"
    if 0.995 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def methods_on(evaluation: Evaluation, evalset: str) -> list[str]:
    """Return the methods with numbers on a set, in the order of the tables."""
    return in_order({cell.method for cell in evaluation.summary.cells if cell.evalset == evalset})


def metrics_on(evaluation: Evaluation, evalset: str, *, first: str = "") -> list[str]:
    """Return the full names of the metrics on a set, distances between sets included, as ``catalogue_order`` says."""
    distances = [metric.name for metric in evaluation.summary.set_metrics.get(evalset, ())]
    return catalogue_order([*evaluation.results.metrics, *dict.fromkeys(distances)], first=first)


def catalogue_order(metrics: Iterable[str], *, first: str = "") -> list[str]:
    """Return metrics in the catalogue's order, those of several networks by name, but ``first`` before its like."""
    place = {name: position for position, name in enumerate(metric_infos())}
    return sorted(metrics, key=lambda name: (place[name.partition("@")[0]], name != first, name))


def of_all_networks(evaluation: Evaluation, wanted: Sequence[str]) -> list[str]:
    """Return the measured metrics of some names, in that order, each with every network it was measured with."""
    return [name for bare in wanted for name in evaluation.results.metrics if name.partition("@")[0] == bare]
