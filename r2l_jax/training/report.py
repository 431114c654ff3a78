"""What a run leaves for people and programs to read: metrics.json, tables, figures."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.config import TrainConfig
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.tables import table


def reproduction(config: TrainConfig) -> dict:
    """Collects what a repetition needs: flags, the file of the user's pipeline, git commit, versions, devices."""
    source = config.named_pipeline and config.named_pipeline.source
    pipeline = {"pipeline": dataclasses.asdict(source)} if source else {}
    return {"flags": dataclasses.asdict(config), **pipeline, **environment()}


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
