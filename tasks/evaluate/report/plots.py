"""Drawings of a report as inline SVG: means with intervals, the trade-off over strength, and the trend of a history."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 360
_ROW = 26
_LEFT, _RIGHT, _TOP, _BOTTOM = 118, 14, 8, 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A value with its interval, under a label."""

    label: str
    value: float
    low: float
    high: float
    is_reference: bool = False
    """Drawn paler: no method of the comparison."""


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


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def dot_plot(title: str, dots: Sequence[Dot], *, unit: str = "") -> str:
    """Return a plot with a row a method: a dot and its interval."""
    drawn = [dot for dot in dots if math.isfinite(dot.value)]
    numbers = [number for dot in drawn for number in (dot.value, dot.low, dot.high) if math.isfinite(number)]
    height = _TOP + _ROW * len(dots) + _BOTTOM
    scale = _scale(numbers, start=_LEFT, end=_WIDTH - _RIGHT)
    parts = [_grid(scale, height - _BOTTOM), _axis_title(unit, height)]
    for index, dot in enumerate(dots):
        y = _TOP + _ROW * (index + 0.5)
        pale = " pale" if dot.is_reference else ""
        parts.append(f'<text class="name{pale}" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_cut(dot.label)}</text>')
        if not math.isfinite(dot.value):
            parts.append(f'<text class="pale" x="{_LEFT + 4}" y="{y + 4}">undefined</text>')
            continue
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            parts.append(_whisker(scale.at(dot.low), scale.at(dot.high), y, pale))
        parts.append(f'<circle class="dot{pale}" cx="{scale.at(dot.value)}" cy="{y}" r="4.5"/>')
    return _svg(title, height, parts)


def curve_plot(title: str, curves: Sequence[Curve], *, x_title: str, y_title: str) -> str:
    """Return the trade-off: a line a method through its points, each with the strength beside it and its intervals."""
    points = [point for curve in curves for point in curve.points]
    height, left = 300, 46
    across = _scale([v for p in points for v in (p.x, *p.x_ends) if math.isfinite(v)], start=left, end=_WIDTH - _RIGHT)
    up = _scale([v for p in points for v in (p.y, *p.y_ends) if math.isfinite(v)], start=height - 42, end=30)
    parts = [_grid(across, height - 42, top=26), _side_grid(up, left)]
    for number, curve in enumerate(curves):
        colour = f"c{number % 6}"
        line = " ".join(f"{across.at(p.x)},{up.at(p.y)}" for p in curve.points if math.isfinite(p.x + p.y))
        parts.append(f'<polyline class="line {colour}" points="{line}"/>')
        for point in curve.points:
            if not math.isfinite(point.x + point.y):
                continue
            x, y = across.at(point.x), up.at(point.y)
            ends = [v if math.isfinite(v) else point.x for v in point.x_ends]
            heights = [v if math.isfinite(v) else point.y for v in point.y_ends]
            parts.append(
                f'<path class="span {colour}" d="M{across.at(ends[0])} {y}H{across.at(ends[1])}'
                f'M{x} {up.at(heights[0])}V{up.at(heights[1])}"/>'
                f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="4"/>'
                f'<text class="tiny" x="{x + 6}" y="{y - 6}">{escape(point.label)}</text>'
            )
        parts.append(
            f'<circle class="dot {colour}" cx="{left + 8 + 104 * (number % 3)}" cy="{8 + 13 * (number // 3)}" r="4"/>'
            f'<text class="tiny" x="{left + 16 + 104 * (number % 3)}" y="{12 + 13 * (number // 3)}">'
            f"{_cut(curve.label)}</text>"
        )
    parts.append(f'<text class="unit" x="{(left + _WIDTH) / 2}" y="{height - 6}">{escape(x_title)}</text>')
    parts.append(
        f'<text class="unit" x="12" y="{height / 2}" transform="rotate(-90 12 {height / 2})">{escape(y_title)}</text>'
    )
    return _svg(title, height, parts)


def trend_plot(title: str, points: Sequence[TrendPoint], *, unit: str = "") -> str:
    """Return the history of one metric: a band of intervals, a dot an evaluation, the baseline as a level."""
    known = [point for point in points if math.isfinite(point.value)]
    height, left = 190, 46
    up = _scale([v for p in known for v in (p.value, p.low, p.high) if math.isfinite(v)], start=height - 34, end=12)
    across = _Scale(0, max(1, len(known) - 1), left + 10, _WIDTH - _RIGHT - 6)
    places = [(across.at(index), point) for index, point in enumerate(known)]
    parts = [_side_grid(up, left)]
    upper = [f"{x},{up.at(p.high if math.isfinite(p.high) else p.value)}" for x, p in places]
    lower = [f"{x},{up.at(p.low if math.isfinite(p.low) else p.value)}" for x, p in reversed(places)]
    parts.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
    for x, point in places:
        if point.is_baseline:
            y = up.at(point.value)
            parts.append(f'<path class="level" d="M{left} {y}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text class="tiny" x="{x + 6}" y="{y - 6}">baseline</text>')
    parts.append(f'<polyline class="line c0" points="{" ".join(f"{x},{up.at(p.value)}" for x, p in places)}"/>')
    parts += [
        f'<circle class="dot" cx="{x}" cy="{up.at(p.value)}" r="4"><title>{escape(p.when)}</title></circle>'
        for x, p in places
    ]
    if places:
        first, last = places[0][1].when[:10], places[-1][1].when[:10]
        parts.append(f'<text class="tiny" x="{left}" y="{height - 8}">{escape(first)}</text>')
        parts.append(
            f'<text class="tiny" x="{_WIDTH - _RIGHT}" y="{height - 8}" text-anchor="end">{escape(last)}</text>'
        )
    parts.append(f'<text class="tiny" x="{left}" y="9">{escape(unit)}</text>')
    return _svg(title, height, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {round(height)}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _scale(numbers: Sequence[float], *, start: float, end: float) -> _Scale:
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    room = (high - low) * 0.06 or abs(low) * 0.05 or 1.0
    return _Scale(low - room, high + room, start, end)


def _ticks(scale: _Scale, count: int = 4) -> list[float]:
    step = 10 ** math.floor(math.log10((scale.high - scale.low) / count))
    step *= min((1, 2, 2.5, 5, 10), key=lambda factor: abs((scale.high - scale.low) / (step * factor) - count))
    first = math.ceil(scale.low / step)
    return [index * step for index in range(first, math.floor(scale.high / step) + 1)]


def _grid(scale: _Scale, bottom: float, *, top: float = _TOP) -> str:
    return "".join(
        f'<path class="grid" d="M{x} {top}V{bottom}"/>'
        f'<text class="tick" x="{x}" y="{bottom + 13}">{_number(tick)}</text>'
        for tick in _ticks(scale)
        for x in [scale.at(tick)]
    )


def _side_grid(scale: _Scale, left: float) -> str:
    return "".join(
        f'<path class="grid" d="M{left} {y}H{_WIDTH - _RIGHT}"/>'
        f'<text class="tick side" x="{left - 5}" y="{y + 4}">{_number(tick)}</text>'
        for tick in _ticks(scale)
        for y in [scale.at(tick)]
    )


def _whisker(low: float, high: float, y: float, pale: str) -> str:
    return f'<path class="span{pale}" d="M{low} {y}H{high}M{low} {y - 4}V{y + 4}M{high} {y - 4}V{y + 4}"/>'


def _axis_title(unit: str, height: float) -> str:
    return f'<text class="unit" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{height - 3}">{escape(unit)}</text>'


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _cut(label: str, limit: int = 18) -> str:
    return escape(label if len(label) <= limit else label[: limit - 1] + "…")
