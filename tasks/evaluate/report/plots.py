"""Charts of a report as inline SVG: means with intervals, the trade-off over strength, and the trend of a history."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tasks.charts import COLOURS, INK, SOFT, chart, chart_svg

_WIDTH_PX: Final = 500
_ROW_PX: Final = 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A value with its interval, under a label."""

    label: str
    value: float
    low: float
    high: float
    is_reference: bool = False
    """Shown paler: not a method of the comparison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """A point of the trade-off: two values with their intervals."""

    label: str
    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The points of one method, in order."""

    label: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendPoint:
    """A value of a history with its interval."""

    when: str
    value: float
    low: float
    high: float
    is_baseline: bool = False


def dot_plot(title: str, dots: Sequence[Dot], *, unit: str = "") -> str:
    """Return a plot with one row per method: a dot and its interval."""
    with chart(_WIDTH_PX, 60 + _ROW_PX * len(dots)) as (figure, axes):
        axes.set_xlabel(unit)
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.set_yticks(range(len(dots)), [dot.label for dot in dots], color=INK)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=6)
        for row, dot in enumerate(dots):
            colour = SOFT if dot.is_reference else COLOURS[0]
            if not math.isfinite(dot.value):
                axes.text(0.02, row, "undefined", color=SOFT, va="center", transform=axes.get_yaxis_transform())
                continue
            axes.errorbar(
                [dot.value], [row], xerr=_error(dot.value, dot.low, dot.high), fmt="o", color=colour, capsize=3
            )
        return chart_svg(figure, title)


def curve_plot(title: str, curves: Sequence[Curve], *, x_title: str, y_title: str) -> str:
    """Return the trade-off: one line per method through its points, each with its strength and intervals."""
    with chart(_WIDTH_PX, 380) as (figure, axes):
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        for number, curve in enumerate(curves):
            colour = COLOURS[number % len(COLOURS)]
            points = [point for point in curve.points if math.isfinite(point.x + point.y)]
            for point in points:
                axes.errorbar(
                    [point.x],
                    [point.y],
                    xerr=_error(point.x, *point.x_ends),
                    yerr=_error(point.y, *point.y_ends),
                    color=colour,
                    linewidth=0.9,
                )
                axes.annotate(
                    point.label, (point.x, point.y), xytext=(4, 4), textcoords="offset points", color=SOFT, fontsize=8.5
                )
            axes.plot([p.x for p in points], [p.y for p in points], "o-", color=colour, label=curve.label)
        if curves:
            figure.legend(loc="outside upper left", ncols=3)
        return chart_svg(figure, title)


def trend_plot(title: str, points: Sequence[TrendPoint], *, unit: str = "") -> str:
    """Return the history of one metric: a band of intervals, one dot per evaluation, the baseline as a level."""
    known = [point for point in points if math.isfinite(point.value)]
    with chart(_WIDTH_PX, 260) as (figure, axes):
        axes.set_ylabel(unit)
        positions = range(len(known))
        shown = sorted({*positions[:1], *positions[-1:]})
        axes.set_xticks(shown, [known[position].when[:10] for position in shown])
        lows = [point.low if math.isfinite(point.low) else point.value for point in known]
        highs = [point.high if math.isfinite(point.high) else point.value for point in known]
        axes.fill_between(positions, lows, highs, color=COLOURS[0], alpha=0.18, linewidth=0)
        axes.plot(positions, [point.value for point in known], "o-", color=COLOURS[0])
        for point in known:
            if point.is_baseline:
                axes.axhline(point.value, color=SOFT, linestyle="--", linewidth=1)
                axes.text(
                    1,
                    point.value,
                    "baseline",
                    color=SOFT,
                    ha="right",
                    va="bottom",
                    transform=axes.get_yaxis_transform(),
                )
        return chart_svg(figure, title)


def _error(value: float, low: float, high: float) -> list[list[float]] | None:
    """Return how far an interval reaches down and up, as matplotlib takes it; None for no interval."""
    if not math.isfinite(low) or not math.isfinite(high):
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
