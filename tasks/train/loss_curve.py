"""The curves of a run as one picture: the loss and its weighted parts over the steps, smoothed, on a log scale."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Floats = npt.NDArray[np.float64]

WIDTH_PX, HEIGHT_PX = 880, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 30, 46
_PAPER: Final = (252, 252, 250)
_INK: Final = (40, 40, 46)
_GRID: Final = (222, 222, 218)
_PALE: Final = (198, 205, 222)
_LOSS_COLOUR: Final = (32, 74, 135)
_PART_COLOURS: Final = (
    *((204, 82, 0), (0, 128, 96), (148, 60, 160), (180, 30, 50), (110, 110, 0), (90, 90, 90)),
    *((0, 120, 190), (150, 90, 40)),
)
"""Of the parts, in the order in which the log names them; more parts than these begin anew."""
_PART: Final = "part_"
_WINDOWS: Final = 60
_LEAST: Final = 1e-12


def smoothed(values: Floats, window: int) -> Floats:
    """Return the mean of each value and those before it, at most ``window`` of them, (n,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> "Image":
    """Return the picture of a log's rows (``train_log``), sorted by step; an empty log gives empty axes."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    steps = np.array([row["step"] for row in rows], np.float64)
    series = _series(rows)
    scale = _Scale(steps, [values for _, values in series])
    scale.draw_axes(draw, font)
    window = max(1, len(rows) // _WINDOWS)
    if series:
        draw.line(scale.points(steps, series[0][1]), fill=_PALE, width=1)
    for index, (name, values) in enumerate(series):
        colour = _LOSS_COLOUR if name == "loss" else _PART_COLOURS[(index - 1) % len(_PART_COLOURS)]
        draw.line(scale.points(steps, smoothed(values, window)), fill=colour, width=2)
        top = _TOP + 20 * index
        draw.line([(WIDTH_PX - _RIGHT + 12, top + 8), (WIDTH_PX - _RIGHT + 30, top + 8)], fill=colour, width=3)
        draw.text((WIDTH_PX - _RIGHT + 36, top), name.replace("_", " "), fill=_INK, font=font)
    return image


def _series(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Floats]]:
    """Return the loss and those of its parts that are there, gaps filled with their neighbours."""
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


class _Scale:
    """Steps to the right, powers of ten upwards."""

    def __init__(self, steps: Floats, series: Sequence[Floats]) -> None:
        logs = np.log10(np.concatenate(series)) if series else np.array([-1.0, 0.0])
        # What lies far below the rest (a part that is nearly nothing) must not flatten the curve.
        self.low = math.floor(max(float(logs.min()), float(logs.max()) - 6))
        self.high = max(math.ceil(float(logs.max())), self.low + 1)
        self.last = max(1.0, float(steps[-1])) if len(steps) else 1.0

    def points(self, steps: Floats, values: Floats) -> list[tuple[float, float]]:
        """Return the places of a curve."""
        pairs = zip(steps.tolist(), values.tolist(), strict=True)
        return [(self._x(step), self._y(math.log10(value))) for step, value in pairs]

    def draw_axes(self, draw: "ImageDraw", font: Any) -> None:
        """Draw the grid with its numbers."""
        for power in range(self.low, self.high + 1):
            y = self._y(power)
            draw.line([(_LEFT, y), (WIDTH_PX - _RIGHT, y)], fill=_GRID)
            draw.text((_LEFT - 8, y), f"{10.0**power:g}", fill=_INK, font=font, anchor="rm")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = self._x(share * self.last)
            draw.line([(x, _TOP), (x, HEIGHT_PX - _BOTTOM)], fill=_GRID)
            draw.text((x, HEIGHT_PX - _BOTTOM + 6), f"{share * self.last:.0f}", fill=_INK, font=font, anchor="mt")
        draw.text((_LEFT, 8), "loss and its weighted parts", fill=_INK, font=font)
        draw.text((WIDTH_PX - _RIGHT, HEIGHT_PX - 18), "optimiser step", fill=_INK, font=font, anchor="rt")

    def _x(self, step: float) -> float:
        return _LEFT + (WIDTH_PX - _RIGHT - _LEFT) * step / self.last

    def _y(self, power: float) -> float:
        share = (min(max(power, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT_PX - _BOTTOM - (HEIGHT_PX - _BOTTOM - _TOP) * share
