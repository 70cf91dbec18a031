"""Registration of metrics: a metric's file declares what a table says about it, its network, version and function.

Imports no torch, so that a command can print the names without loading it; the functions import it when they run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from iedit_model.metrics.errors import MetricInputError

if TYPE_CHECKING:
    from torch import Tensor

    from iedit_model.metrics.lpips_network import Lpips

Better = Literal["higher", "lower", "neither"]
Table = Literal["comparisons", "strata", "edits"]
Floats = NDArray[np.float64]
ImageFunction = TypeVar("ImageFunction", bound=Callable[..., Any])
Distance = TypeVar("Distance", bound=Callable[[Floats, Floats], float])


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricInfo:
    """What a table has to say about a metric."""

    name: str
    """Name of the result, without the network behind "@"."""
    title: str
    """Head of a column."""
    unit: str = ""
    """Unit as it is printed; "" for none."""
    display_factor: float = 1.0
    """Factor from the stored value to the printed one."""
    better: Better
    """Which way is better; "neither" where the paper has no arrow either."""
    definition: str
    """One sentence for a legend."""
    needs_mask: bool = False
    """Whether the value is undefined for a pair without a mask."""
    shown_in: tuple[Table, ...] = ()
    """Tables that show it beside the table of all metrics: comparisons with the baselines, strata, every edit."""
    is_watched: bool = False
    """Whether a fall against the pinned baseline is a regression."""
    same_order_as: str = ""
    """Metric that orders edits in the same way, so that the worst edits are not shown twice."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipEmbeds:
    """Embeddings (b, d) of a batch of edits by one CLIP encoder."""

    source_images: "Tensor"
    edited_images: "Tensor"
    source_prompts: "Tensor"
    edit_prompts: "Tensor"


@dataclass(frozen=True, kw_only=True, eq=False)
class EditBatch:
    """A batch of edits as metrics see it, with what the networks at hand make of it."""

    source_images: "Tensor"
    """(b, 3, h, w) in [0, 1]."""
    edited_images: "Tensor"
    """The same shape."""
    masks: "Tensor"
    """(b, h, w) or (b, 1, h, w), bool or in [0, 1], 1 = edit here."""
    clip: "Mapping[str, ClipEmbeds]"
    """Encoder's name -> embeddings."""
    lpips: "Lpips | None" = None


ImageNetwork = Literal["none", "clip", "lpips"]
SetNetwork = Literal["features", "clip"]


@dataclass(frozen=True, kw_only=True)
class ImageMetric:
    """A metric with one value per edited image; related results are computed together."""

    infos: tuple[MetricInfo, ...]
    network: ImageNetwork
    version: int
    compute: Callable[..., "Mapping[str, Tensor]"]

    @property
    def module(self) -> str:
        """Module that registered it."""
        return self.compute.__module__


@dataclass(frozen=True, kw_only=True)
class DistanceMetric:
    """A distance between the edited images and a reference set, from features of one network."""

    infos: tuple[MetricInfo, ...]
    network: SetNetwork
    version: int
    distance: Callable[[Floats, Floats], float]
    """Takes features (n, d) of the reference and (m, d) of the edited images."""
    needs_full_rank: bool
    """Whether the value is mostly floor where a set has no more images than features."""

    @property
    def module(self) -> str:
        """Module that registered it."""
        return self.distance.__module__


_REGISTERED: list[ImageMetric | DistanceMetric] = []


def image_metric(
    *infos: MetricInfo, version: int, network: ImageNetwork = "none"
) -> Callable[[ImageFunction], ImageFunction]:
    """Register a function as a metric of edited images.

    Args:
        infos: its results: the function returns (b,) values, NaN where undefined, under exactly these names.
        version: raised by hand when the same images come to give other values; renews scheduled evaluations.
        network: ``none``: the function takes an ``EditBatch``; ``clip``: it takes the ``ClipEmbeds`` of one encoder
            and is called for each; ``lpips``: it takes an ``EditBatch`` and the ``Lpips`` network.

    Raises:
        MetricInputError: a name is taken.
    """

    def register(function: ImageFunction) -> ImageFunction:
        _add(ImageMetric(infos=infos, network=network, version=version, compute=function))
        return function

    return register


def set_metric(
    info: MetricInfo, *, version: int, network: SetNetwork = "features", needs_full_rank: bool = False
) -> Callable[[Distance], Distance]:
    """Register a function as a distance between sets of images; see ``image_metric`` and ``DistanceMetric``.

    Raises:
        MetricInputError: the name is taken.
    """

    def register(function: Distance) -> Distance:
        _add(
            DistanceMetric(
                infos=(info,), network=network, version=version, distance=function, needs_full_rank=needs_full_rank
            )
        )
        return function

    return register


def unregister(name: str) -> None:
    """Take a metric away again, with the results that are computed together with it."""
    _REGISTERED[:] = [metric for metric in _REGISTERED if name not in {info.name for info in metric.infos}]


def registered() -> tuple[ImageMetric | DistanceMetric, ...]:
    """Return the metrics registered so far; ``catalogue`` loads them all and puts them in order."""
    return tuple(_REGISTERED)


def masked_infos(
    name: str,
    title: str,
    *,
    definition: str,
    better: Better,
    unit: str = "",
    display_factor: float = 1.0,
    shown_inside: tuple[Table, ...] = (),
    shown_outside: tuple[Table, ...] = (),
    is_watched: bool = False,
    same_order_as: str = "",
) -> tuple[MetricInfo, MetricInfo]:
    """Return the entries of a metric inside of the mask, where no way is better, and outside of it.

    Args:
        name: name without the side.
        title: head of the column with {} for M or notM.
        definition: legend with {} for the side.
        better: which way is better outside.
        unit: of both.
        display_factor: of both.
        shown_inside: tables that show the value inside.
        shown_outside: tables that show the value outside.
        is_watched: of the value outside.
        same_order_as: of the value outside.
    """

    def info(side: str, label: str, direction: Better, shown_in: tuple[Table, ...]) -> MetricInfo:
        return MetricInfo(
            name=f"{name}_{side}",
            title=title.format(label),
            unit=unit,
            display_factor=display_factor,
            better=direction,
            definition=definition.format(f"{side} of the mask"),
            needs_mask=True,
            shown_in=shown_in,
            is_watched=is_watched and side == "outside",
            same_order_as=same_order_as if side == "outside" else "",
        )

    return info("inside", "M", "neither", shown_inside), info("outside", "notM", better, shown_outside)


def _add(metric: ImageMetric | DistanceMetric) -> None:
    taken = {info.name for known in _REGISTERED for info in known.infos}
    if doubled := sorted(taken & {info.name for info in metric.infos}):
        raise MetricInputError(f"a metric is called {doubled[0]!r} already: choose another name")
    _REGISTERED.append(metric)
