"""Draws what drift costs a model, and what prevents or undoes it, from the tables in docs/results.

python docs/ext/drift.py writes docs/images/drift.png.
"""

import pathlib
import re

import matplotlib.pyplot as plt

DOCS = pathlib.Path(__file__).parents[1]
PICTURE = DOCS / "images/drift.png"

# The drifts of each band, by their names in the tables.
COSTS = (
    "half the light",
    "red 0.7 stops brighter, blue 0.7 darker",
    "lamp 110 mired warmer",
    "black level 160 of 4095 higher",
    "defocus of 2.5 pixels",
    "twelve other pipelines",
)
PREVENTED = ("half the light", "a twentieth of the light", "lamp 110 mired warmer", "black level 160 of 4095 higher")
ADAPTED = ("half the light", "a twentieth of the light", "red 0.7 stops brighter, blue 0.7 darker")

_CLEAN, _BEFORE, _AFTER = "#44617f", "#c2410c", "#15803d"


def main() -> None:
    """Draws the picture."""
    metering, adaptation = (_table(DOCS / f"results/{name}.md") for name in ("metering", "adaptation"))
    by_drift = {row[0].strip("*"): [_interval(cell) for cell in row[1:]] for row in metering}
    clean = by_drift["clean"][0][0]
    seeds = {row[1]: row for row in adaptation if row[0] == "six"}
    bands = {
        "Drift synthesis: what does a drift cost?": [(name, _left(by_drift[name][0], clean), None) for name in COSTS],
        "Drift forensics: the gains break it; metering sets them": [
            (name, _left(by_drift[name][0], clean), _left(by_drift[name][2], by_drift["clean"][2][0]))
            for name in PREVENTED
        ],
        "Drift adjustment: adapting without labels": [
            (name, _interval(seeds[name][3]), _interval(seeds[name][5])) for name in ADAPTED
        ],
    }
    heights = [len(rows) for rows in bands.values()]
    style = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    with plt.rc_context(style):
        figure, panels = plt.subplots(
            len(bands), sharex=True, figsize=(9, 0.34 * sum(heights) + 2.2), height_ratios=heights, layout="constrained"
        )
        for axes, (title, rows) in zip(panels, bands.items(), strict=True):
            axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
            axes.axvline(clean, color=_CLEAN, linewidth=1)
            axes.axvline(20, color=_CLEAN, linewidth=1, linestyle=":")
            for place, (_, before, after) in enumerate(rows):
                _dot(axes, place, before, _BEFORE)
                if after is not None:
                    _dot(axes, place, after, _AFTER)
                    ends = {"xy": (after[0], place), "xytext": (before[0], place)}
                    axes.annotate(
                        "", **ends, arrowprops={"arrowstyle": "->", "color": "#9aa7b4", "shrinkA": 8, "shrinkB": 8}
                    )
            axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
            axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.6))
            axes.tick_params(length=0)
        panels[-1].set_xlabel("accuracy in points (solid line: clean images, dotted line: chance)")
        figure.savefig(PICTURE, dpi=150)


def _dot(axes: plt.Axes, place: float, found: tuple[float, float, float], color: str) -> None:
    middle, low, high = found
    axes.plot([low, high], [place, place], color=color, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
    axes.plot(middle, place, "o", color=color, markersize=7, zorder=3)


def _left(drop: tuple[float, float, float], clean: float) -> tuple[float, float, float]:
    """Returns the accuracy that a drop leaves."""
    middle, low, high = drop
    return clean - middle, clean - high, clean - low


def _interval(cell: str) -> tuple[float, float, float]:
    """Reads "64.8 (55.8 to 73.7)"; an empty cell is not a number."""
    middle, low, high = [*map(float, re.findall(r"-?\d+\.?\d*", cell)), *[float("nan")] * 3][:3]
    return middle, low, high


def _table(file: pathlib.Path) -> list[list[str]]:
    """Returns the rows of the first table of a page, without its heading."""
    lines = next(line for line in file.read_text().split("\n\n") if line.startswith("|")).strip().split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


if __name__ == "__main__":
    main()
