"""Pictures of targets and predictions, as arrays `(rows, cols, 3)` with values in [0, 1]."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def drawn(figure: Figure) -> np.ndarray:
    """Draws a matplotlib figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws a confusion matrix: targets in rows, predictions in columns, counts written in."""
    side = 2 + 0.5 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="target")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    for (row, col), count in np.ndenumerate(matrix.astype(int)):
        if count:
            dark = count > 0.5 * matrix[row].sum()
            axes.text(col, row, str(count), ha="center", va="center", color="white" if dark else "black")
    return drawn(figure)


def predictions(images: np.ndarray, logits: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws images `(N, H, W, 3)` in a row, each titled with its target and the most probable class."""
    figure = Figure(figsize=(2 * len(images), 2.6), layout="constrained")
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    for axes, image, probability, target in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images, probabilities, targets, strict=True
    ):
        axes.imshow(np.clip(image, 0, 1))
        axes.set_axis_off()
        predicted = int(probability.argmax())
        axes.set_title(
            f"target {classes[target]}\n{classes[predicted]} {probability[predicted]:.0%}",
            fontsize="small",
            color="darkgreen" if predicted == target else "darkred",
        )
    return drawn(figure)


def masks(images: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Draws images `(N, H, W, 3)` in a row, below them their masks `(N, H, W)`, and below these the predicted ones."""
    rows = (images, *(np.repeat(mask[..., None], 3, -1) for mask in (targets, logits[..., 0] > 0)))
    return np.concatenate([row_of(row) for row in rows])


def row_of(images: np.ndarray) -> np.ndarray:
    """Joins images `(N, H, W, ...)`, clipped to [0, 1], in a row."""
    return np.concatenate(list(np.clip(images, 0, 1)), axis=1)
