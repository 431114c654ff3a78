"""Draws the tolerated interval of each knob."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from r2l_jax.drift.search.knobs import Knob, format_value
from r2l_jax.runtime.result import INK, Figure

if TYPE_CHECKING:
    from r2l_jax.drift.forensics.tolerance import End

# The axis of natural ranges is linear up to here, and logarithmic beyond.
LINEAR = 0.02

_TICKS = (-10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10)


def intervals_figure(knobs: Mapping[str, Knob], ends: "Mapping[str, tuple[End, End]]") -> Figure:
    """Draws a bar for each knob in natural ranges, with bootstrap intervals as whiskers."""

    def draw(axes: Axes) -> None:
        for row, (name, both) in enumerate(ends.items()):
            _draw_interval(axes, row, knobs[name], both)
        axes.axvline(0, color=INK, linewidth=0.8)
        titles = [f"{name} ({knob.quantity}) = {format_value(knob.default)}" for name, knob in knobs.items()]
        axes.set_yticks(range(len(knobs)), titles)
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
        axes.set(xlabel="natural ranges from the default")

    caption = (
        "where one knob alone may move; numbers: the ends in its unit; whiskers: percentiles 5 and 95 of resamples"
    )
    return Figure(draw, (11, 1 + 0.27 * len(knobs)), caption)


def _draw_interval(axes: Axes, row: int, knob: Knob, ends: "tuple[End, End]") -> None:
    # The low value of a negative gain lies to the right of the high value.
    left, right = sorted(ends, key=lambda end: end.position)
    axes.barh(row, right.position - left.position, left=left.position, height=0.6, color="C0", alpha=0.5)
    for end, outmost, alignment, gap in ((left, min, "right", -4), (right, max, "left", 4)):
        axes.plot(end.interval, [row, row], color=INK, marker="|", linewidth=1, markersize=6)
        axes.annotate(
            format_value(knob.value(end.position)) + (" (limit)" if end.at_limit else ""),
            (outmost(*end.interval, end.position), row),
            xytext=(gap, 0),
            textcoords="offset points",
            ha=alignment,
            va="center",
            fontsize="x-small",
        )
