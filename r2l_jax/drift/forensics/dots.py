"""Draws analyses of several trainings: a dot for each training, and a line at the median."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from r2l_jax.drift.forensics.tolerance import LINEAR
from r2l_jax.runtime.result import INK, Figure, Result


class _Plot(NamedTuple):
    """The tables and columns of a plot, its scale, the factor of its numbers, and its caption."""

    tables: tuple[str, ...]
    columns: tuple[str, ...]
    scale: str
    factor: float
    caption: str


_PLOTS = {
    "sensitivity": _Plot(
        ("parameters", "stages"), ("worst",), "log", 1, "rise of the task loss, values moved by 1% of their range"
    ),
    "tolerances": _Plot(("distances",), ("low", "high"), "symlog", 1, "ends of the tolerances, in natural ranges"),
    "worst_case": _Plot(("worst_case",), ("drop",), "linear", 100, "points lost in the worst case"),
}


def dots(name: str, results: Mapping[str, Result]) -> dict[str, Figure]:
    """Returns the figure `dots` of an analysis, if it has one."""
    if name not in _PLOTS:
        return {}
    plot, places = _PLOTS[name], dict[tuple[str, str], list[float]]()
    for result, table, column in itertools.product(results.values(), plot.tables, plot.columns):
        for title, number in result.tables[table].numbers(column).items():
            places.setdefault((title, column), []).append(plot.factor * number)
    titles = list(dict.fromkeys(title for title, _ in places))

    def draw(axes: Axes) -> None:
        for (title, _), values in places.items():
            row = titles.index(title)
            axes.plot(values, np.full(len(values), row), "o", color="C0", alpha=0.5, markersize=4)
            axes.plot(np.median(values), row, "|", color=INK, markersize=12)
        axes.set_xscale(plot.scale, **({"linthresh": LINEAR} if plot.scale == "symlog" else {}))
        axes.set_yticks(range(len(titles)), titles)
        axes.set_ylim(len(titles) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.3)

    return {"dots": Figure(draw, (7, 1 + 0.25 * len(titles)), plot.caption)}
