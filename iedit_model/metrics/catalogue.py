"""All metrics: the list of their files, and what is registered there by name. Imports no torch."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

from iedit_model.metrics.errors import MetricInputError
from iedit_model.metrics.registry import (
    DistanceMetric,
    EditBatch,
    ImageMetric,
    MetricInfo,
    SetNetwork,
    Table,
    registered,
)

if TYPE_CHECKING:
    from torch import Tensor

METRIC_FILES: Final = ("clip_score", "ssim", "psnr", "lpips", "fid", "mmd", "sides")
"""Files of this package that register metrics, in the order of the tables' columns: a new metric adds its line."""
_MODULES: Final = [f"iedit_model.metrics.{file}" for file in METRIC_FILES]
for _module in _MODULES:
    import_module(_module)


def all_metrics() -> list[ImageMetric | DistanceMetric]:
    """Return every metric in the order of the list of files, whichever was imported first; others stand last."""
    place = {module: position for position, module in enumerate(_MODULES)}
    return sorted(registered(), key=lambda metric: place.get(metric.module, len(place)))


def metric_infos() -> dict[str, MetricInfo]:
    """Return every metric by the name of its result, without the network behind "@"."""
    return {info.name: info for metric in all_metrics() for info in metric.infos}


def metric_info(name: str) -> MetricInfo:
    """Return the entry of a result's name, with or without its network: ``clip_score@vit-b-32``.

    Raises:
        MetricInputError: no such metric.
    """
    infos, bare = metric_infos(), name.partition("@")[0]
    if bare not in infos:
        raise MetricInputError(f"no metric is called {bare!r}; known: {', '.join(infos)}")
    return infos[bare]


def shown_in(table: Table) -> list[str]:
    """Return the names of the metrics that a table shows."""
    return [name for name, info in metric_infos().items() if table in info.shown_in]


def distances_of(network: SetNetwork) -> list[DistanceMetric]:
    """Return the distances between sets that take the features of this kind of network."""
    return [metric for metric in all_metrics() if isinstance(metric, DistanceMetric) and metric.network == network]


def metric_versions() -> dict[str, int]:
    """Return result -> declared version: part of the code version of an evaluation."""
    return {info.name: metric.version for metric in all_metrics() for info in metric.infos}


def score_edits(edits: EditBatch) -> "dict[str, Tensor]":
    """Return every metric of a batch of edits that the networks at hand allow, each (b,) float64.

    Names carry their network: ``clip_score@vit-b-32``, ``lpips@vgg``. NaN marks an undefined value.

    Raises:
        MetricInputError: shapes, types or ranges do not fit, or a metric returned other results than it registered.
    """
    found: dict[str, Tensor] = {}
    for metric in all_metrics():
        if not isinstance(metric, ImageMetric):
            continue
        if metric.network == "none":
            found |= _checked(metric, metric.compute(edits))
        elif metric.network == "lpips" and edits.lpips is not None:
            found |= _checked(metric, metric.compute(edits, edits.lpips), edits.lpips.trunk)
        elif metric.network == "clip":
            for encoder, embeds in edits.clip.items():
                found |= _checked(metric, metric.compute(embeds), encoder)
    return found


def _checked(metric: ImageMetric, values: "Mapping[str, Tensor]", network: str = "") -> "dict[str, Tensor]":
    expected = {info.name for info in metric.infos}
    if set(values) != expected:
        raise MetricInputError(f"a metric returned {sorted(values)}, registered are {sorted(expected)}")
    return {f"{name}@{network}" if network else name: value for name, value in values.items()}
