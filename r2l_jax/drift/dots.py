"""The figure of several models: a row for each number, with a dot for each model and a bar for the interval."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2l_jax.results.result import INK, Figure, Interval, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Symmetric logarithmic axes are linear up to here.
LINEAR = 0.02

# The most entries of the legend side by side.
_COLUMNS = 3


class Row(NamedTuple):
    """A row of the figure: its title, the number of each model, and the interval of their mean."""

    title: str
    each: Sequence[float]
    interval: Interval


def dots(
    groups: Mapping[str, Sequence[Row]], label: str, caption: str = "", scale: str = "linear", factor: float = 100.0
) -> Figure:
    """Makes the figure of the rows of each group of seeds, from the top; groups differ in color.

    A row that a group lacks stays empty.

    Args:
        groups: the rows of each group.
        label: the label of the axis of the numbers.
        caption: the caption.
        scale: the scale of the axis, as matplotlib takes it.
        factor: the factor of the numbers; 100 shows them in points.
    """
    fullest = max(groups.values(), key=len)
    titles = list(dict.fromkeys(row.title for rows in (fullest, *groups.values()) for row in rows))
    share = 1 / len(groups)

    def draw(axes: "Axes") -> None:
        # Otherwise the axis would begin with the bar that begins first, which would look cut off.
        axes.use_sticky_edges = False
        axes.set_xscale(scale, **({"linthresh": LINEAR} if scale == "symlog" else {}))
        if scale != "log":
            axes.axvline(0, color=INK, alpha=0.5, linewidth=1)
        for number, (name, rows) in enumerate(groups.items()):
            color = f"C{number}"
            for earlier, (title, each, (estimate, low, high)) in enumerate(rows):
                place = titles.index(title) + (number + 0.5) * share - 0.5
                axes.barh(place, factor * (high - low), 0.5 * share, factor * low, color=color, alpha=0.25, linewidth=0)
                axes.plot([factor * estimate] * 2, [place - 0.32 * share, place + 0.32 * share], color=INK, linewidth=2)
                # Models are offset within a row, so that equal numbers do not overlap.
                places = place + share * np.linspace(-0.2, 0.2, len(each)) if len(each) > 1 else [place]
                style = {"alpha": 0.8, "markersize": 6, "markeredgewidth": 0, "clip_on": False}
                axes.plot(factor * np.asarray(each), places, "o", color=color, label=None if earlier else name, **style)
                beside = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
                text = points(estimate) if factor == 100 else f"{factor * estimate:.3g}"
                axes.annotate(text, (1.015, place), color=INK if share == 1 else color, **beside)
        axes.set_yticks(range(len(titles)), titles)
        axes.set(ylim=(len(titles) - 0.5, -0.5), axisbelow=True, xlabel=label)
        axes.grid(axis="x", color=INK, alpha=0.15)
        for between in range(1, len(titles)):
            axes.axhline(between - 0.5, color=INK, alpha=0.15, linewidth=0.8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(groups) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=min(len(groups), _COLUMNS), frameon=False)

    height = 1 + 0.33 * len(titles) * (1 + len(groups)) / 2
    return Figure(draw, (5, height + 0.3 * (len(groups) > 1) * math.ceil(len(groups) / _COLUMNS)), caption)
