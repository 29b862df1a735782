"""A control chart as a picture: pure, points in and SVG out, readable without colour.

The picture is loaded as an image, so nothing in it can run and nothing is fetched.
"""

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.control_chart import ControlChart, Place

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 130, 12, 44
_INK, _FAINT, _LINE = "#1d2b33", "#d5dee3", "#51636e"
_STEPS = (1.0, 2.0, 5.0)
# Shape and colour say the same; both tell the groups apart for everyone (Okabe and Ito).
MARKS: dict[str, tuple[str, str, str]] = {
    "baseline": ("●", "#7b8b94", "sets the limits"),
    "inside": ("◆", "#0072b2", "within the limits"),
    "above": ("▲", "#c2410c", "above the limits"),
    "below": ("▼", "#c2410c", "below the limits"),
    "undefined": ("✕", "#7c2d92", "no figure"),
}


@dataclass(frozen=True)
class Point:
    """One point, in order.

    Attributes:
        value: NaN where there is no figure: drawn at the top.
        baseline: it is one of those that set the limits; such a point is judged too.
    """

    value: float
    baseline: bool


def mark_of(point: Point, place: Place) -> str:
    """Return which of the `MARKS` a point gets."""
    if place in ("above", "below", "undefined"):
        return place
    return "baseline" if point.baseline else "inside"


def draw(
    chart: ControlChart, points: Sequence[Point], *, unit: str, logarithmic: bool = False
) -> str:
    """Return the chart as SVG.

    Args:
        chart: centre and limits; drawn where they can be judged by.
        points: in order, from left to right.
        unit: of the values, written at the axis.
        logarithmic: for positive values over orders of magnitude.
    """
    axis = _axis(chart, points, logarithmic=logarithmic)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="{_INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *(_gridline(tick, axis.y(tick)) for tick in axis.ticks),
        *_limits(chart, axis),
        *(
            _mark(mark_of(point, chart.place(point.value)), _x(i, len(points)), axis.y(point.value))
            for i, point in enumerate(points)
        ),
        *_numbers(len(points)),
        f'<text x="{_LEFT}" y="{HEIGHT - 4}" fill="{_LINE}">{html.escape(unit)}, in order of time'
        "</text></svg>",
    ]
    return "".join(parts)


def as_image(svg: str, alt: str) -> str:
    """Return an SVG as an image element with a text for those who do not see it."""
    data = base64.b64encode(svg.encode()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img class="fedgtv-chart" src="{source}" alt="{html.escape(alt, quote=True)}">'


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def y(self, value: float) -> float:
        if math.isnan(value):
            return _TOP
        bounds = (self.low, min(max(value, self.low), self.high), self.high)
        low, at, high = (math.log(v) for v in bounds) if self.logarithmic else bounds
        share = (at - low) / (high - low)
        return _TOP + (1 - share) * (HEIGHT - _TOP - _BOTTOM)


def _axis(chart: ControlChart, points: Sequence[Point], *, logarithmic: bool) -> _Axis:
    shown = [point.value for point in points if not math.isnan(point.value)]
    shown += [chart.centre, chart.upper, chart.lower] if chart.judges else []
    if logarithmic:
        shown = [value for value in shown if value > 0] or [1.0]
        low, high = min(shown) / 1.5, max(shown) * 1.5
        return _Axis(low, high, True, logarithmic_ticks(low, high))
    high = max([*shown, 0.0]) * 1.08 or 1.0
    return _Axis(0.0, high, False, linear_ticks(high))


def linear_ticks(high: float) -> tuple[float, ...]:
    """Return round values from 0 to `high`, four to ten of them.

    >>> linear_ticks(37.0)
    (0.0, 10.0, 20.0, 30.0)
    """
    scale = 10.0 ** math.floor(math.log10(high))
    steps = [scale / 10 * step for step in (*_STEPS, 10.0)]
    step = next((s for s in steps if high / s < 6), scale)
    return tuple(step * n for n in range(int(high / step) + 1))


def logarithmic_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return round values within `low` and `high`: 1, 2, 5, 10, ... or powers of ten if many.

    >>> logarithmic_ticks(0.8, 12.0)
    (1.0, 2.0, 5.0, 10.0)
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**n for n in decades for step in _STEPS if low <= step * 10.0**n <= high]
    if len(ticks) <= 8:
        return tuple(ticks)
    powers = [10.0**n for n in decades if low <= 10.0**n <= high]
    return tuple(powers[:: max(1, -(-len(powers) // 6))])


def figure(value: float) -> str:
    """Write a value of a chart.

    >>> figure(0.000123), figure(12.34), figure(1234.0)
    ('0.00012', '12.3', '1234')
    """
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _gridline(tick: float, y: float) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_LINE}">{figure(tick)}'
        "</text>"
    )


def _limits(chart: ControlChart, axis: _Axis) -> list[str]:
    if not chart.judges:
        return []
    lines = [("upper limit", chart.upper, "7 5"), ("centre", chart.centre, "")]
    if chart.lower > 0:
        lines.append(("lower limit", chart.lower, "7 5"))
    drawn, lowest = [], -math.inf
    for name, value, dash in lines:
        y = axis.y(value)
        text_y = max(y + 4, lowest + 14)  # words of lines that are close stand below each other
        lowest = text_y
        drawn.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{_LINE}" stroke-width="1.5" stroke-dasharray="{dash}"/>'
            f'<text x="{WIDTH - _RIGHT + 8}" y="{text_y:.1f}">{name} {figure(value)}</text>'
        )
    return drawn


def _x(index: int, count: int) -> float:
    room = WIDTH - _LEFT - _RIGHT - 24
    return _LEFT + 12 + (room * index / (count - 1) if count > 1 else room / 2)


def _mark(mark: str, x: float, y: float) -> str:
    colour = MARKS[mark][1]
    if mark == "baseline":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    paths = {
        "inside": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z",
        "above": f"M{x:.1f} {y - 7:.1f}l7 12h-14z",
        "below": f"M{x:.1f} {y + 7:.1f}l7 -12h-14z",
        "undefined": f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10",
    }
    drawn = f'd="{paths[mark]}" stroke="{colour}"'
    return f'<path {drawn} stroke-width="2.5" fill="{"none" if mark == "undefined" else colour}"/>'


def _numbers(count: int) -> list[str]:
    every = max(1, -(-count // 20))
    return [
        f'<text x="{_x(i, count):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle" '
        f'font-size="11" fill="{_LINE}">{i + 1}</text>'
        for i in range(0, count, every)
    ]
