"""What a run leaves for people and programs to read: metrics.json, tables, figures."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from r2l_jax.config import TrainConfig

PACKAGES = ("r2l_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def reproduction(config: TrainConfig) -> dict:
    """Collects what a repetition needs: flags, the file of the user's pipeline, git commit, versions, devices."""
    source = config.named_pipeline and config.named_pipeline.source
    pipeline = {"pipeline": dataclasses.asdict(source)} if source else {}
    return {"flags": dataclasses.asdict(config), **pipeline, **environment()}


def environment() -> dict:
    """What computes here: git commit, versions, devices."""
    return {
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "devices": [device.device_kind for device in jax.devices()],
    }


def _git_commit() -> str | None:
    """The commit of this project's checkout, with "+changes" if files differ from it; None outside a checkout."""
    root = pathlib.Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # an installed copy, within somebody else's repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text; the first row is the heading, the first column is aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix as a picture: targets in rows, predictions in columns, counts written in."""
    side = 2 + 0.5 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(confusion / np.maximum(confusion.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="target")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    for (row, col), count in np.ndenumerate(confusion.astype(int)):
        if count:
            dark = count > 0.5 * confusion[row].sum()
            axes.text(col, row, str(count), ha="center", va="center", color="white" if dark else "black")
    return figure


def predictions_figure(images: np.ndarray, logits: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> Figure:
    """Pictures `(N, H, W, 3)` in a row, each titled with its target and the most probable class."""
    figure = Figure(figsize=(2 * len(images), 2.6), layout="constrained")
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    for axes, image, probability, target in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images, probabilities, targets, strict=True
    ):
        axes.imshow(np.clip(image, 0, 1))
        axes.set_axis_off()
        predicted = int(probability.argmax())
        color = "darkgreen" if predicted == target else "darkred"
        axes.set_title(
            f"target {classes[target]}\n{classes[predicted]} {probability[predicted]:.0%}",
            fontsize="small",
            color=color,
        )
    return figure


def run_table(results: Sequence[Mapping], summary: Mapping[str, Mapping]) -> str:
    """A run's final numbers: a row for each fold, and mean and standard deviation if there are several."""
    names = list(summary)
    score = names[0]  # of the validation
    rows = [["", *(name.replace("_", " ") for name in names), f"best {score.replace('_', ' ')}"]]
    for fold, result in enumerate(results):
        best = f"{result[f'best_{score}']:.4f} (epoch {result['best_epoch'] + 1})"
        rows.append([f"fold {fold}", *(f"{result[name]:.4f}" for name in names), best])
    if len(results) > 1:
        rows.append(["mean", *(f"{summary[name]['mean']:.4f}" for name in names), ""])
        rows.append(["standard deviation", *(f"{summary[name]['std']:.4f}" for name in names), ""])
    return table(rows)
