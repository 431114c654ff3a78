"""Shows a comparison of learned processing with fixed in tables and a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isp.parameter import MOST_ELEMENTS
from r2l_jax.runtime.tables import table


def comparison_table(content: Mapping[str, Any]) -> str:
    """Formats the scores of each run and the time to the target, and the small parameters that were learned."""
    target = f"{content['target']:g}"
    rows = [["", f"val {content['score']}", "deviation", "best", f"epochs to {target}", f"seconds to {target}"]]
    for name, of_run in content["runs"].items():
        folds = of_run["folds"]
        last = [fold["scores"][-1] for fold in folds]
        best = np.mean([max(fold["scores"]) for fold in folds])
        numbers = (f"{number:.4f}" for number in (np.mean(last), np.std(last), best))
        reached = (_mean_reached([fold[f"{unit}_to_target"] for fold in folds]) for unit in ("epochs", "seconds"))
        rows.append([name, *numbers, *reached])
    text = table(rows)
    rows = [["parameter", "camera", "learned", "deviation"]]
    for values in content["parameters"].values():
        camera, folds = np.array(values["camera"]), np.array(values["folds"])
        if camera.size <= MOST_ELEMENTS:
            columns = (camera.ravel(), folds.mean(0).ravel(), folds.std(0).ravel())
            rows += [
                [title, *(f"{number:.4f}" for number in row)]
                for title, *row in zip(values["names"], *columns, strict=True)
            ]
    return f"{text}\n\n{table(rows)}"


def _mean_reached(values: Sequence[int | float | None]) -> str:
    """Formats the mean over the folds that reached the target, and their number unless all did."""
    reached = [value for value in values if value is not None]
    if not reached:
        return "-"
    return f"{np.mean(reached):.1f}" + (f" ({len(reached)} of {len(values)})" if len(reached) < len(values) else "")


def curves_figure(content: Mapping[str, Any]) -> Figure:
    """Draws the validation score over epochs and over seconds: the mean of the folds, and their standard deviation."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("epochs", "seconds"), strict=True):
        for number, (name, of_run) in enumerate(content["runs"].items()):
            folds = of_run["folds"]
            scores = np.array([fold["scores"] for fold in folds])
            places, mean, std = np.mean([fold[unit] for fold in folds], 0), scores.mean(0), scores.std(0)
            axes.plot(places, mean, color=f"C{number}", marker=".", label=f"{name} processing")
            axes.fill_between(places, mean - std, mean + std, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.axhline(content["target"], color="gray", linestyle=":", linewidth=1)
        axes.set_xlabel({"epochs": "epoch", "seconds": "seconds of training"}[unit])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"validation {content['score']}")
    figure.axes[0].legend()
    return figure
