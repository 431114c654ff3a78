"""Plots the cost of drift, and how metering and adaptation reduce it, from the tables in docs/results.

python docs/ext/drift.py writes docs/images/drift.png.
"""

import pathlib

import matplotlib.pyplot as plt
import measurements

PICTURE = pathlib.Path(__file__).parents[1] / "images/drift.png"

# The drifts of each band, by their names in the tables.
COSTS = (
    "half the light",
    "red 0.7 stops brighter, blue 0.7 darker",
    "lamp 110 mired warmer",
    "black level 160 of 4095 higher",
    "defocus of 2.5 pixels",
    "twelve other pipelines",
)
PREVENTED = ("half the light", "a twentieth of the light", "lamp 60 mired warmer", "black level 160 of 4095 higher")
ADAPTED = ("half the light", "a twentieth of the light", "red 0.7 stops brighter, blue 0.7 darker")

_CLEAN, _BEFORE, _AFTER = "#44617f", "#c2410c", "#15803d"


def main() -> None:
    """Draws the picture."""
    by_drift, adapted = {}, {}
    for row in measurements.read("metering"):
        by_drift[row["training"], row["drift"]] = _numbers(row, "low", "high")
    for row in measurements.read("adaptation"):
        if row["run"] == "six":
            adapted[row["drift"], row["method"]] = _numbers(row, "lowest", "highest")
    clean, metered = by_drift["six", "clean"][0], by_drift["metered", "clean"][0]
    bands = {
        "Drift synthesis: what does a drift cost?": [
            (name, _left(by_drift["six", name], clean), None) for name in COSTS
        ],
        "Drift forensics: light breaks it, metering corrects": [
            (name, _left(by_drift["six", name], clean), _left(by_drift["metered", name], metered)) for name in PREVENTED
        ],
        "Drift adjustment: adapting without labels": [
            (name, adapted[name, "nothing"], adapted[name, "adapted"]) for name in ADAPTED
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
    """Returns the accuracy after a drop."""
    middle, low, high = drop
    return clean - middle, clean - high, clean - low


def _numbers(row: dict[str, str], low: str, high: str) -> tuple[float, float, float]:
    return float(row["points"]), float(row[low]), float(row[high])


if __name__ == "__main__":
    main()
