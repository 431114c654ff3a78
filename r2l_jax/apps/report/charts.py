"""Charts of lines as shapes to draw: coordinates, ticks and texts. The colors are the page's."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Style = Literal["solid", "dashed", "dotted"]

# The size of a chart in its own units, and the room for its axes. Charts are small, so that their texts can be read on
# a phone, where they are as wide as the screen.
WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 38

# The number of colors of the page; further lines begin anew with the first.
COLORS = 9

# Lines with more points have no marks.
_MOST_MARKS = 40

# The most lines that an alternative text names.
_MOST_NAMED = 8


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart. Points that are not finite, or not positive on a logarithmic axis, are left out.

    Attributes:
        name: its name in the legend, where lines of one name and look appear once.
        xs: the horizontal places.
        ys: the values.
        color: the number of its color.
        style: how the line is drawn.
        spread: for each point the half width of a band around the line; None draws no band.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 0
    style: Style = "solid"
    spread: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A chart of lines.

    Attributes:
        title: the title.
        x: the label of the horizontal axis.
        y: the label of the vertical axis.
        lines: the lines.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        levels: values at which horizontal lines are drawn, and the numbers of their colors.
        places: horizontal places at which vertical lines are drawn.
        y_range: the least range of the vertical axis; None fits the lines.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    levels: Sequence[tuple[float, int]] = ()
    places: Sequence[float] = ()
    y_range: tuple[float, float] | None = None

    @property
    def alternative(self) -> str:
        """The text in place of the chart: its axes, and the first and last value of each line."""
        parts = []
        for line in self.lines[:_MOST_NAMED]:
            points = _points(self, line)
            if points:
                parts.append(f"{line.name} from {points[0].y:.4g} to {points[-1].y:.4g}")
        more = len(self.lines) - len(parts)
        parts += [f"{more} more lines"] if len(self.lines) > _MOST_NAMED else []
        return f"{self.title}: {self.y} by {self.x}. {'; '.join(parts)}."

    @property
    def legend(self) -> list[Line]:
        """The lines of the legend; a single line needs none."""
        found = {(line.name, line.color, line.style): line for line in self.lines}
        return list(found.values()) if len(found) > 1 else []


class Point(NamedTuple):
    """A point of a line in its own units, and its half width of the band."""

    x: float
    y: float
    spread: float


class Mark(NamedTuple):
    """A point of a drawn line, and the text that appears above it."""

    x: float
    y: float
    text: str


class DrawnLine(NamedTuple):
    """A line in the chart's units.

    Attributes:
        color: the number of its color.
        style: how it is drawn.
        path: the line, as SVG's `points`.
        band: the outline of its band; empty without one.
        marks: its points; none if there are many.
        name: its name.
    """

    color: int
    style: Style
    path: str
    band: str
    marks: list[Mark]
    name: str


class Tick(NamedTuple):
    """A tick of an axis: its place in the chart's units, and its text."""

    place: float
    text: str


class Drawing(NamedTuple):
    """A chart in its own units; `left`, `right`, `top` and `bottom` bound the lines."""

    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[DrawnLine]
    levels: list[tuple[float, int]]
    places: list[float]


class _Axis(NamedTuple):
    """An axis from one value to another, drawn from `start` to `end`."""

    low: float
    high: float
    logarithmic: bool
    start: float
    end: float

    def place(self, value: float) -> float:
        low, high, value = (
            (math.log(each) for each in (self.low, self.high, value))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)


def drawn(chart: LineChart) -> Drawing | None:
    """Computes the shapes of a chart; None if no point can be drawn."""
    lines = [(line, points) for line in chart.lines if (points := _points(chart, line))]
    if not lines:
        return None
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    xs = [point.x for _, points in lines for point in points] + list(_valid(chart.places, chart.log_x))
    ys = [each for _, points in lines for point in points for each in _band(point, chart.log_y)]
    levels = [(level, color) for level, color in chart.levels if _is_valid(level, chart.log_y)]
    ys += [level for level, _ in levels] + list(chart.y_range or ())
    x_axis = _Axis(min(xs), max(xs), chart.log_x, _LEFT, right)
    y_axis = _widened(_Axis(min(ys), max(ys), chart.log_y, bottom, _TOP))
    return Drawing(
        *(_LEFT, right, _TOP, bottom),
        x_ticks=_ticks(x_axis, 7, whole=all(float(x).is_integer() for x in xs)),
        y_ticks=_ticks(y_axis, 6),
        lines=[_drawn_line(chart, line, points, x_axis, y_axis) for line, points in lines],
        levels=[(y_axis.place(level), color % COLORS) for level, color in levels],
        places=[x_axis.place(place) for place in _valid(chart.places, chart.log_x)],
    )


def _points(chart: LineChart, line: Line) -> list[Point]:
    """Returns the points that can be drawn."""
    spread = line.spread or [0.0] * len(line.xs)
    return [
        Point(x, y, half)
        for x, y, half in zip(line.xs, line.ys, spread, strict=True)
        if _is_valid(x, chart.log_x) and _is_valid(y, chart.log_y)
    ]


def _valid(values: Iterable[float], logarithmic: bool) -> Iterable[float]:
    return (value for value in values if _is_valid(value, logarithmic))


def _is_valid(value: float, logarithmic: bool) -> bool:
    # Beyond this, differences of two values are not finite.
    return math.isfinite(value) and abs(value) < 1e300 and (value > 0 or not logarithmic)


def _band(point: Point, logarithmic: bool) -> list[float]:
    return [each for each in (point.y - point.spread, point.y, point.y + point.spread) if _is_valid(each, logarithmic)]


def _widened(axis: _Axis) -> _Axis:
    """Leaves some room above and below the values."""
    if axis.logarithmic:
        factor = (axis.high / axis.low) ** 0.04 if axis.high > axis.low else 1.5
        return axis._replace(low=axis.low / factor, high=axis.high * factor)
    room = 0.04 * (axis.high - axis.low) or 0.05 * abs(axis.high) or 0.5
    return axis._replace(low=axis.low - room, high=axis.high + room)


def _drawn_line(chart: LineChart, line: Line, points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> DrawnLine:
    def path(corners: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{x_axis.place(x):g},{y_axis.place(y):g}" for x, y in corners)

    band = ""
    if line.spread is not None and any(point.spread for point in points):
        upper = [(point.x, point.y + point.spread) for point in points]
        lowest = y_axis.low
        lower = [(point.x, max(point.y - point.spread, lowest)) for point in reversed(points)]
        band = path([*upper, *lower])
    marks = [
        Mark(
            x_axis.place(point.x),
            y_axis.place(point.y),
            f"{line.name}: {chart.y} {point.y:.6g} at {chart.x} {point.x:g}",
        )
        for point in points
    ]
    return DrawnLine(
        line.color % COLORS,
        line.style,
        path((point.x, point.y) for point in points),
        band,
        marks if len(marks) <= _MOST_MARKS else [],
        line.name,
    )


def _ticks(axis: _Axis, count: int, whole: bool = False) -> list[Tick]:
    """Returns at most about `count` ticks at round values."""
    if axis.high == axis.low:
        values = [axis.low]
    elif axis.logarithmic:
        values = _logarithmic_values(axis, count)
    else:
        step = _step((axis.high - axis.low) / count)
        step = max(step, 1.0) if whole else step
        first = math.ceil(axis.low / step - 1e-9)
        values = [number * step for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]
    return [Tick(axis.place(value), _tick_text(value)) for value in values]


def _logarithmic_values(axis: _Axis, count: int) -> list[float]:
    """Returns powers of ten, or also twice and five times these, or round values if the axis spans less than that."""
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    candidates: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5)):
        inside = [digit * 10.0**power for power in decades for digit in digits]
        candidates = [value for value in inside if axis.low * (1 - 1e-9) <= value <= axis.high * (1 + 1e-9)]
        if len(candidates) > 2:
            break
    if len(candidates) < 2:
        return [axis.low, axis.high]
    every = -(-len(candidates) // (count + 1))
    return candidates[::every]


def _step(least: float) -> float:
    """Returns the least of 1, 2, 5 and their multiples by powers of ten that is at least this."""
    least = max(least, 1e-300)  # Powers of ten that are still less would not be exact.
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def _tick_text(value: float) -> str:
    return f"{round(value, 12) + 0.0:.4g}".replace("-", "\N{MINUS SIGN}")


class Range(NamedTuple):
    """A bar of an interval around a middle, with whiskers, for a cell of a table. All places are from 0 to 1.

    Attributes:
        low: the left end.
        high: the right end.
        whiskers: pairs of places.
        middle: the place of the default.
        text: the alternative text.
    """

    low: float
    high: float
    whiskers: list[tuple[float, float]]
    middle: float
    text: str


def range_bar(
    low: float, high: float, whiskers: Iterable[Sequence[float]], reach: float, linear: float, text: str
) -> Range:
    """Makes a bar of an interval on an axis from -reach to reach, linear near 0 and logarithmic beyond.

    Args:
        low: the left end of the interval.
        high: its right end.
        whiskers: pairs of values.
        reach: the end of the axis.
        linear: up to where the axis is about linear.
        text: the alternative text.
    """

    def place(value: float) -> float:
        share = math.asinh(value / linear) / math.asinh(reach / linear) if math.isfinite(value) else 0.0
        return round(0.5 + min(max(share, -1.0), 1.0) / 2, 4)

    return Range(place(low), place(high), [(place(left), place(right)) for left, right in whiskers], 0.5, text)
