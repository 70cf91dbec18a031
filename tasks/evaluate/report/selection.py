"""Which methods and metrics of an evaluation a table or a plot shows, and in which order."""

from collections.abc import Iterable, Sequence

from iedit_model.metrics.catalogue import metric_infos
from tasks.evaluate.record import Evaluation
from tasks.evaluate.report.names import in_order


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
