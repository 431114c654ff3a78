"""Charts of lines and of bars, drawn with matplotlib as SVG in the colors of a page, or into the axes of a figure."""

import dataclasses
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import markupsafe
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from r2l_jax.drift.statistics import points

Style = Literal["solid", "dashed"]

# The size of a chart in its own units, and the height of a bar. Charts are small, so that their texts can be read on a
# phone, where they are as wide as the screen.
_WIDTH, _HEIGHT, _BAR = 360, 220, 7

# The colors of lines. In the SVG, each color stands for a variable of the page's style sheet.
COLORS = ("#0a5fb4", "#c4541a", "#1a7f52", "#8a3ea8", "#8c6d00", "#0a8a99", "#b3265e", "#5a6675", "#1b2430")
_MUTED, _RULE, _PAPER = COLORS[7], "#dce1e7", "#ffffff"
_VARIABLES = {_RULE: "rule", _PAPER: "paper", **{color: f"c{number}" for number, color in enumerate(COLORS)}}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "lines.linewidth": 1.75,
    "lines.markersize": 3.5,
    "lines.dashed_pattern": (3, 2.5),
}

# Longer lines have no marks, and an alternative text names at most this many lines.
_MOST_MARKS, _MOST_NAMED = 40, 8


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart. Points that are not finite, or not positive on a logarithmic axis, are left out.

    Attributes:
        name: its name in the legend, where lines of one name and look appear once.
        xs: the horizontal places.
        ys: the values.
        color: the number of its color; numbers beyond the last color begin again with the first.
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
        chance: the score of a guess, at which there is a dashed line; None without one.
        in_points: whether the values are scores, which the axis has in points.
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
    chance: float | None = None
    in_points: bool = False

    @property
    def unit(self) -> float:
        """The value of one unit of the vertical axis."""
        return 0.01 if self.in_points else 1.0

    @property
    def y_label(self) -> str:
        """The label of the vertical axis with its unit."""
        return f"{self.y}, points" if self.in_points else self.y

    @property
    def alternative(self) -> str:
        """The text in place of the chart: its axes, and the first and last value of each line."""
        named = [(line.name, self.points(line)[1] / self.unit) for line in self.lines[:_MOST_NAMED]]
        parts = [f"{name} from {ys[0]:.3g} to {ys[-1]:.3g}" for name, ys in named if len(ys)]
        if (more := len(self.lines) - _MOST_NAMED) > 0:
            parts.append(f"{more} more lines")
        if self.chance is not None:
            parts.append(f"a guess scores {self.chance / self.unit:.3g}")
        return f"{self.title}: {self.y_label} by {self.x}. {'; '.join(parts)}."

    @property
    def legend(self) -> list[Line]:
        """The lines of the legend; a single line needs none."""
        found = {(line.name, line.color, line.style): line for line in self.lines}
        return list(found.values()) if len(found) > 1 else []

    def points(self, line: Line) -> np.ndarray:
        """Returns the points of a line that can be drawn: places, values and half widths of the band, (3, points)."""
        spread = [0.0] * len(line.xs) if line.spread is None else line.spread
        valid = [
            point
            for point in zip(line.xs, line.ys, spread, strict=True)
            if _is_drawable(point[0], self.log_x) and _is_drawable(point[1], self.log_y)
        ]
        return np.array(valid, float).reshape(-1, 3).T


@dataclasses.dataclass(frozen=True)
class BarChart:
    """A chart of scores as horizontal bars: for each name a bar of each run.

    Attributes:
        title: the title.
        x: the name of the score.
        scores: for each run its scores by name; a run may lack some.
        levels: for each run the score at which there is a dotted line.
        chance: the score of a guess, at which there is a dashed line; None without one.
    """

    title: str
    x: str
    scores: Mapping[str, Mapping[str, float]]
    levels: Mapping[str, float]
    chance: float | None = None

    @property
    def names(self) -> list[str]:
        """The names of all bars, from the top."""
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    @property
    def alternative(self) -> str:
        """The text in place of the chart: the lowest score of each name."""
        lowest = {name: min(each[name] for each in self.scores.values() if name in each) for name in self.names}
        which = "" if len(self.scores) == 1 else f" of the lowest of {len(self.scores)} runs"
        parts = "; ".join(f"{name} {points(score)}" for name, score in lowest.items())
        return f"{self.title}: {self.x}, points{which}. {parts}."

    @property
    def legend(self) -> list[Line]:
        """The runs of the legend; a single run needs none."""
        return [Line(name, (), (), color) for color, name in enumerate(self.scores)] if len(self.scores) > 1 else []


def _is_drawable(value: float, logarithmic: bool) -> bool:
    """Tells whether a value has a place on an axis."""
    # Beyond this, the difference of two values may not be finite.
    return math.isfinite(value) and abs(value) < 1e300 and (value > 0 or not logarithmic)


def draw(axes: Axes, chart: LineChart) -> None:
    """Draws the lines, ticks and labels of a chart, but not its title, into the axes of a figure."""
    axes.set(xscale="log" if chart.log_x else "linear", yscale="log" if chart.log_y else "linear")
    axes.set(xlabel=chart.x, ylabel=chart.y_label, axisbelow=True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_parse_math(False)
    axes.margins(x=0, y=0.04)
    for line in chart.lines:
        xs, ys, spread = chart.points(line)
        color, marks = COLORS[line.color % len(COLORS)], "o" if len(xs) <= _MOST_MARKS else ""
        fill = color if line.style == "solid" else _PAPER
        axes.plot(xs, ys, color=color, linestyle=line.style, marker=marks, markerfacecolor=fill, label=line.name)
        if spread.any():
            axes.fill_between(xs, ys - spread, ys + spread, color=color, alpha=0.15, linewidth=0)
    for level, color in chart.levels:
        if _is_drawable(level, chart.log_y):
            axes.axhline(level, color=COLORS[color % len(COLORS)], linestyle="dotted", linewidth=1)
    if chart.chance is not None:
        axes.axhline(chart.chance, color=_MUTED, linestyle="dashed", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
        axes.annotate("chance", (1, chart.chance), **place, color=_MUTED, ha="right", va="bottom", fontsize="small")
    for place in chart.places:
        if _is_drawable(place, chart.log_x):
            axes.axvline(place, color=_MUTED, linewidth=1)
    if chart.y_range:
        axes.update_datalim([(0, end) for end in chart.y_range], updatex=False)
    whole = all(float(x).is_integer() for line in chart.lines for x in line.xs)
    _set_ticks(axes.xaxis, 7, chart.log_x, whole)
    if not chart.log_y:
        _tell_apart(axes)
    _set_ticks(axes.yaxis, 5, chart.log_y, unit=chart.unit)


def draw_bars(axes: Axes, chart: BarChart) -> None:
    """Draws the bars of a chart, but not its title, into the axes of a figure."""
    names, share = chart.names, 0.8 / len(chart.scores)
    for number, (run, scores) in enumerate(chart.scores.items()):
        color = COLORS[number % len(COLORS)]
        places = [names.index(name) + (number + 0.5) * share - 0.4 for name in scores]
        bars = axes.barh(places, [100 * score for score in scores.values()], share, color=color, alpha=0.65)
        if len(chart.scores) == 1:
            axes.bar_label(bars, [points(score) for score in scores.values()], padding=2, fontsize="small")
        axes.axvline(100 * chart.levels[run], color=color, linestyle="dotted", linewidth=1)
    if chart.chance is not None:
        axes.axvline(100 * chart.chance, color=_MUTED, linestyle="dashed", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel=f"{chart.x}, points", axisbelow=True)


def _third_digit(low: float, high: float) -> float:
    """Returns the unit of the third significant digit of the values on an axis; 0 without one."""
    most = max(abs(low), abs(high))
    return 10.0 ** (math.floor(math.log10(most)) - 2) if most and math.isfinite(high - low) else 0.0


def _tell_apart(axes: Axes) -> None:
    """Widens a vertical axis whose ends are equal in three significant digits until they differ there."""
    low, high = axes.get_ylim()
    unit = _third_digit(low, high)
    if unit and high - low < 2 * unit:
        axes.set_ylim(math.floor(low / unit) * unit, math.ceil(high / unit) * unit)


def _set_ticks(axis: Axis, count: int, logarithmic: bool, whole: bool = False, unit: float = 1.0) -> None:
    """Puts about `count` ticks at round values of an axis, whose texts are multiples of a unit."""
    low, high = axis.get_view_interval()
    if logarithmic:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,), numticks=count))
    else:
        # As few as three significant digits tell apart.
        least = _third_digit(low, high)
        count = min(count, max(round((high - low) / least), 1)) if least else count
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], integer=whole))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick_text(value / unit)))


def _tick_text(value: float) -> str:
    text = f"{round(value, 12) + 0.0:.3g}"
    # A whole number, such as a step, has all of its digits.
    text = f"{value:.0f}" if "e+" in text and abs(value) < 1e6 else text
    return text.replace("-", "\N{MINUS SIGN}")


def svg(chart: LineChart | BarChart) -> markupsafe.Markup | None:
    """Draws a chart as an SVG element in the colors of the page, light or dark; None if no point can be drawn."""
    if isinstance(chart, LineChart) and not any(chart.points(line).size for line in chart.lines):
        return None
    height = _HEIGHT
    if isinstance(chart, BarChart):
        height = 60 + len(chart.names) * max(18, round(_BAR * len(chart.scores) / 0.8))
    stream = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": chart.alternative, "text.color": COLORS[8]}):
        # The layout makes room for the texts of the ticks.
        figure = Figure(figsize=(_WIDTH / 72, height / 72), frameon=False, layout="constrained")
        axes = figure.add_subplot(facecolor="none")
        if isinstance(chart, LineChart):
            draw(axes, chart)
            axes.grid(axis="y", color=_RULE)
            axes.tick_params(axis="y", length=0)
        else:
            draw_bars(axes, chart)
            axes.grid(axis="x", color=_RULE)
            axes.tick_params(length=0)
        axes.tick_params(color=_MUTED, labelcolor=_MUTED)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(_MUTED)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.spines["bottom"].set_color(_MUTED)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return element(stream.getvalue(), _WIDTH, height, chart.alternative)


def element(drawing: str, width: int, height: int, alternative: str) -> markupsafe.Markup:
    """Turns an SVG file of matplotlib, of a size in points, into an element of a page in the page's colors."""
    return markupsafe.Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, alternative, markupsafe.Markup(_of_page(drawing))
    )


def _of_page(drawing: str) -> str:
    """Returns the shapes of an SVG file for a page: in its colors and font, without clipping."""
    shapes = drawing[drawing.index('<g id="figure_1">') : drawing.rindex("<defs>")]
    shapes = re.sub(r' (?:clip-path="url\(#\w+\)"|transform="rotate\(-0 [^"]*\)")', "", shapes)
    shapes = re.sub(r'<g id="[\w.]+"', "<g", shapes)
    shapes = re.sub(r" font-family: [^;]*;", "", shapes)
    shapes = re.sub(r"\s*\n\s*", " ", shapes)
    return re.sub('#[0-9a-f]{6}(?=[;"])', lambda color: f"var(--{_VARIABLES.get(color[0], 'ink')})", shapes)


class Range(NamedTuple):
    """A bar of an interval around a middle, with whiskers, for a cell of a table. All places are from 0 to 1.

    Attributes:
        low: the left end.
        high: the right end.
        whiskers: pairs of places.
        text: the alternative text.
    """

    low: float
    high: float
    whiskers: list[tuple[float, float]]
    text: str


def range_bar(
    low: float, high: float, whiskers: Iterable[Sequence[float]], reach: float, linear: float, text: str
) -> Range:
    """Makes a bar of an interval on an axis from -reach to reach: about linear up to `linear`, then logarithmic."""

    def place(value: float) -> float:
        share = math.asinh(value / linear) / math.asinh(reach / linear) if math.isfinite(value) else 0.0
        return round(0.5 + min(max(share, -1.0), 1.0) / 2, 4)

    return Range(place(low), place(high), [(place(left), place(right)) for left, right in whiskers], text)
