"""Draws tolerances: the interval of each knob, and the map of two knobs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from r2l_jax.drift.figures import heat_map
from r2l_jax.drift.results import Knob, KnobMap, Tolerances
from r2l_jax.drift.search.knobs import format_value

# The axis of natural ranges is linear up to here, and logarithmic beyond.
LINEAR = 0.02

_TICKS = (-10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10)


def intervals_figure(content: Tolerances) -> Figure:
    """Draws a bar for each knob in natural ranges, with bootstrap intervals as whiskers."""
    knobs = content.knobs
    figure = Figure(figsize=(11, 1.4 + 0.27 * len(knobs)), layout="constrained")
    axes = figure.subplots()
    for row, knob in enumerate(knobs.values()):
        _interval(axes, row, knob)
    axes.axvline(0, color="black", linewidth=0.8)
    titles = [f"{name} ({knob.quantity}) = {format_value(knob.value)}" for name, knob in knobs.items()]
    axes.set_yticks(range(len(knobs)), titles, fontsize="small")
    axes.set_ylim(len(knobs) - 0.4, -0.6)
    axes.set_xscale("symlog", linthresh=LINEAR)
    # The numbers beside the bars need this much room.
    reach = 8 * np.abs(axes.dataLim.intervalx).max()
    axes.set_xlim(-reach, reach)
    axes.set_xticks([tick for tick in _TICKS if abs(tick) < reach])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set(xlabel="natural ranges from the default; numbers are the ends in the parameter's unit")
    axes.set_title(
        f"where {content.score} is at most {100 * content.tolerance:g} points below {content.default:.3f}, "
        "one parameter at a time\n"
        f"whiskers: percentiles 5 and 95 of resamples of the {content.samples} samples",
        fontsize="medium",
    )
    return figure


def _interval(axes: Axes, row: int, knob: Knob) -> None:
    """Draws the interval of one knob."""
    # The low value of a negative gain lies to the right of the high value.
    left, right = sorted(knob.ends.values(), key=lambda end: knob.away(end.value))
    start, stop = knob.away(left.value), knob.away(right.value)
    axes.barh(row, stop - start, left=start, height=0.6, color="#9ecae1")
    for end, outmost, alignment, gap in ((left, min, "right", -4), (right, max, "left", 4)):
        whisker = [knob.away(value) for value in end.interval]
        axes.plot(whisker, [row, row], color="black", marker="|", linewidth=1, markersize=6)
        axes.annotate(
            format_value(end.value) + (" (limit)" if end.at_limit else ""),
            (outmost(*whisker, knob.away(end.value)), row),
            xytext=(gap, 0),
            textcoords="offset points",
            ha=alignment,
            va="center",
            fontsize="x-small",
        )


def map_figure(content: Tolerances, both: KnobMap) -> Figure:
    """Draws the scores while two knobs move, with an outline around the tolerated cells."""
    rows, columns = ([format_value(value) for value in each] for each in both.values)
    figure = heat_map(
        np.array(both.scores),
        rows,
        columns,
        title=f"outlined: at most {100 * content.tolerance:g} points below the default's (triangle)",
        label=content.score,
    )
    axes = figure.axes[0]
    ylabel, xlabel = (f"{name} ({content.knobs[name].quantity})" for name in both.knobs)
    axes.set(ylabel=ylabel, xlabel=xlabel)
    outline = _outline(np.array(both.tolerated))
    axes.add_collection(LineCollection(outline, colors="red", linewidths=2.5, zorder=3))
    row, column = (each.index(content.knobs[name].value) for name, each in zip(both.knobs, both.values, strict=True))
    axes.plot(column, row + 0.33, marker="^", color="red", markersize=5)
    return figure


def _outline(cells: np.ndarray) -> list[list[tuple[float, float]]]:
    """Returns the lines (x, y) between true cells and all others, including the outside of the map."""
    padded = np.pad(cells, 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    lines = [[(column - 0.5, row - 0.5), (column + 0.5, row - 0.5)] for row, column in across]
    return lines + [[(column - 0.5, row - 0.5), (column - 0.5, row + 0.5)] for row, column in down]
