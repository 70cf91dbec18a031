"""The curves of a run as one image: the loss and its weighted parts over the steps, smoothed, on a log scale."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tasks.charts import COLOURS, INK, chart, chart_image

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = npt.NDArray[np.float64]

WIDTH_PX, HEIGHT_PX = 880, 460
_PART: Final = "part_"
_WINDOWS: Final = 60
_LEAST: Final = 1e-12
_DECADES: Final = 6
"""What lies further below the rest (a part that is nearly nothing) must not flatten the curves."""


def smoothed(values: Floats, window: int) -> Floats:
    """Return the mean of each value and those before it, at most ``window`` of them, (n,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> "Image":
    """Return the image of a log's rows (``train_log``), sorted by step; an empty log gives empty axes."""
    steps = np.array([row["step"] for row in rows], np.float64)
    series = _series(rows)
    window = max(1, len(rows) // _WINDOWS)
    with chart(WIDTH_PX, HEIGHT_PX) as (figure, axes):
        axes.set_title(f"Loss and its weighted parts (mean of {window} steps)", loc="left", color=INK)
        axes.set_xlabel("optimiser step")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        for number, (name, values) in enumerate(series):
            colour = INK if name == "loss" else COLOURS[(number - 1) % len(COLOURS)]
            style = "-" if number <= len(COLOURS) else "--"
            axes.plot(steps, smoothed(values, window), style, color=colour, label=name.replace("_", " "), zorder=3)
            if name == "loss":
                axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
        if series:
            highest = max(values.max() for _, values in series)
            axes.set_ylim(bottom=max(axes.get_ylim()[0], highest / 10**_DECADES))
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return chart_image(figure)


def _series(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Floats]]:
    """Return the loss and those of its parts that are there; gaps are filled with the value before."""
    found = []
    parts = dict.fromkeys(column for row in rows for column in row if column.startswith(_PART))
    for column in ("loss", *parts):
        values = [row.get(column) for row in rows]
        if any(value is not None and math.isfinite(value) and value > 0 for value in values):
            found.append((column.removeprefix(_PART), _filled(values)))
    return found


def _filled(values: Sequence[float | None]) -> Floats:
    last = next(value for value in values if value is not None and math.isfinite(value))
    filled = []
    for value in values:
        last = last if value is None or not math.isfinite(value) else value
        filled.append(last)
    return np.maximum(np.array(filled, np.float64), _LEAST)
