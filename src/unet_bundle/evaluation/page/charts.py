"""Charts as inline SVG: sharp on paper, coloured by the page's style sheet in light and dark, each dot with a name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 330.0, 220.0
"""Of a chart, in the units its drawing uses; the page scales it."""
LEFT, RIGHT, TOP, BOTTOM = 50.0, 10.0, 10.0, 40.0
"""What the plot leaves free at its edges for numbers and names."""
TICKS = 5
"""Numbers wanted along an axis."""
ROW = 36.0
"""Height of a row of `strips`."""
PALETTE = 8
"""Colours of the style sheet, used in turn."""
POOR = 0.3
"""A score from which on an axis may begin above 0."""
MARKED = 25
"""Points of a line that are marked one by one."""


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: of the kind.
        points: across and up.
        color: number of a colour of the style sheet, or a colour in CSS.
        names: of the points, shown where a mouse rests on one; none if they have none.
    """

    name: str
    points: Sequence[Point]
    color: int | str = 0
    names: Sequence[str] = ()

    @property
    def style(self) -> str:
        """The colour as CSS sets it for what lies inside."""
        color = f"var(--c{self.color % PALETTE})" if isinstance(self.color, int) else self.color
        return f"--c:{color}"


def line_chart(
    series: Sequence[Series],
    label: str,
    x_name: str,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over a common axis.

    Args:
        series: a line each, its points from left to right.
        label: what the chart shows, for those who do not see it.
        x_name: name of the axis.
        y_range: lowest and highest value of the chart; None: those of the points.
    """
    points = [point for each in series for point in each.points]
    plot = _Plot(_bounds(x for x, _ in points), y_range or _to_ticks(*_bounds(y for _, y in points)))
    drawn = []
    for each in series:
        path = " ".join(plot.at(point) for point in each.points)
        dots = ""
        if len(each.points) <= MARKED:
            dots = "".join(plot.dot(point, f"{each.name}: {point[1]:.4g}", 2.6) for point in each.points)
        drawn.append(f'<g style="{escape(each.style)}"><polyline class="line" points="{path}"/>{dots}</g>')
    return _svg(plot.axes(x_name, "") + "".join(drawn), label)


def scatter(series: Sequence[Series], label: str, x_name: str, y_name: str) -> str:
    """Points on two axes of one scale, with the line on which both are equal.

    Args:
        series: points each.
        label: what the chart shows, for those who do not see it.
        x_name: name of the axis along.
        y_name: name of the axis upwards.
    """
    values = [value for each in series for point in each.points for value in point]
    low, high = _to_ticks(*_bounds([0.0, *values]))
    plot = _Plot((low, high), (low, high), height=WIDTH - LEFT - RIGHT + TOP + BOTTOM)
    equal = f'<polyline class="guide" points="{plot.at((low, low))} {plot.at((high, high))}"/>'
    drawn = [
        f'<g style="{escape(each.style)}">'
        + "".join(
            plot.dot(point, name)
            for point, name in zip(each.points, each.names or [""] * len(each.points), strict=True)
        )
        + "</g>"
        for each in series
    ]
    return _svg(plot.axes(x_name, y_name) + equal + "".join(drawn), label, plot.height)


def strips(rows: Mapping[str, Series], label: str) -> str:
    """A row a class with a dot a case along a common axis up to 1, and a line at the median.

    Args:
        rows: by name of the class; of a point the first value counts.
        label: what the chart shows, for those who do not see it.
    """
    width, left = 3 * WIDTH, 120.0
    height = ROW * len(rows) + BOTTOM - 12
    x_range = score_range(x for each in rows.values() for x, _ in each.points)
    plot = _Plot(x_range, (0.0, 1.0), width=width, height=height, left=left, top=0.0, bottom=BOTTOM - 12)
    drawn = [plot.axis_along("")]
    for number, (name, each) in enumerate(rows.items()):
        middle = ROW * (number + 0.5)
        drawn.append(
            f'<text class="name" x="{left - 12:g}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
        drawn.append(f'<line class="rail" x1="{left:g}" x2="{width - RIGHT:g}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
        values = sorted(x for x, _ in each.points)
        dots = []
        for (x, _), case, turn in zip(each.points, each.names, range(len(each.points)), strict=True):
            # Dots of like values lie beside each other: three rows of them in turn.
            place = plot.x(x), middle + (turn % 3 - 1) * 5
            dots.append(_dot(*place, f"{case}: {x:.3f}", 3.6))
        if values:
            median = plot.x(
                values[len(values) // 2] if len(values) % 2 else sum(values[len(values) // 2 - 1 :][:2]) / 2
            )
            dots.append(f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{middle - 13:.1f}" '
                        f'y2="{middle + 13:.1f}"/>')  # fmt: skip
        drawn.append(f'<g style="{escape(each.style)}">{"".join(dots)}</g>')
    return _svg("".join(drawn), label, height, width)


@dataclass(frozen=True)
class _Plot:
    """From values to places on the drawing."""

    xs: tuple[float, float]
    ys: tuple[float, float]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    top: float = TOP
    bottom: float = BOTTOM

    def x(self, value: float) -> float:
        low, high = self.xs
        return self.left + (value - low) / (high - low) * (self.width - self.left - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def at(self, point: Point) -> str:
        return f"{self.x(point[0]):.1f},{self.y(point[1]):.1f}"

    def dot(self, point: Point, name: str, radius: float = 3.6) -> str:
        return _dot(self.x(point[0]), self.y(point[1]), name, radius)

    def axis_along(self, name: str) -> str:
        floor = self.height - self.bottom
        parts = []
        for value in ticks(*self.xs):
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top:g}" y2="{floor:g}"/>')
            parts.append(f'<text x="{x:.1f}" y="{floor + 16:g}" text-anchor="middle">{value:g}</text>')
        if name:
            middle = (self.left + self.width - RIGHT) / 2
            parts.append(f'<text x="{middle:g}" y="{self.height - 5:g}" text-anchor="middle">{escape(name)}</text>')
        return "".join(parts)

    def axes(self, x_name: str, y_name: str) -> str:
        parts = [self.axis_along(x_name)]
        for value in ticks(*self.ys):
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{self.left:g}" x2="{self.width - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(f'<text x="{self.left - 7:g}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        if y_name:
            middle = (self.top + self.height - self.bottom) / 2
            turned = f'transform="translate(12 {middle:g}) rotate(-90)"'
            parts.append(f'<text {turned} text-anchor="middle">{escape(y_name)}</text>')
        return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about `TICKS` of them."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def score_range(values: Iterable[float]) -> tuple[float, float]:
    """From a round number below the lowest score, or from 0 where one is poor, to 1."""
    lowest = min(values, default=0.0)
    return (math.floor(10 * lowest - 0.5) / 10 if lowest > POOR else 0.0), 1.0


def _to_ticks(low: float, high: float) -> tuple[float, float]:
    """The bounds widened to round numbers."""
    first, second = ticks(low, high)[:2]
    step = second - first
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    """Lowest and highest finite value; never the same."""
    finite = [float(value) for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _dot(x: float, y: float, name: str, radius: float) -> str:
    title = f"<title>{escape(name)}</title>" if name else ""
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{title}</circle>'


def _svg(content: str, label: str, height: float = HEIGHT, width: float = WIDTH) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{content}</svg>'
    )
