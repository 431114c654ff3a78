"""The training result of a fold: learning curves, scores by class, and pictures of the stages."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import isp
from r2l_jax.model.processors import Processor
from r2l_jax.model.tasks import Task
from r2l_jax.results import result
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import SCORE, Column, Figure, Result, Table
from r2l_jax.training.record import Fold, Record, training_id
from r2l_jax.training.tracking import START

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = Mapping[str, Any]

FOLDER = "training"

# The name of a line, its epochs, and its values.
Line = tuple[str, Sequence[int], np.ndarray]


def write_result(fold: Fold, content: Numbers, task: Task, processor: Processor) -> None:
    """Writes the result of a completed training to `fold_<k>/training/`.

    Args:
        fold: the fold, which has its events and pictures.
        content: the content of metrics.json.
        task: the task.
        processor: the processing, which may be abstract.
    """
    history = content["history"]
    tables = {"classes": _classes(content, task.class_metrics)} if task.classes else {}
    figures: dict[str, Figure | Image.Image] = {}
    if content["flags"]["epochs"]:
        tables["epochs"] = _epochs(history, task.score.name)
    if len(history) > 1:
        figures |= _curves(history, task) | _processing(fold.folder, processor)
    if task.has_labels:
        figures["confusion"] = _confusion(np.array(content["val_confusion_matrix"]), task.classes)
    pictures = _pictures(fold.folder / "results")
    figures |= {name: picture for name, (picture, _) in pictures.items()}
    metadata = {
        "title": "Training curves",
        "training": {f"fold_{fold.number}": training_id(Record.of(content, str(fold.folder)))},
    }
    captions = {name: caption for name, (_, caption) in pictures.items()}
    result.write(fold.folder / FOLDER, Result(metadata, tables, figures, captions=captions))


def _classes(content: Numbers, metrics: Sequence[str]) -> Table:
    rows = [
        [name, samples, *(content[f"val_{each}"][name] for each in metrics)]
        for name, samples in content["val_samples"].items()
    ]
    columns = [Column("class"), Column("samples", "", ".0f"), *(Column(name, "", SCORE) for name in metrics)]
    return Table("Validation scores by class", columns, rows, "At the last checkpoint.")


def _epochs(history: Sequence[Numbers], score: str) -> Table:
    names = [*dict.fromkeys(name for row in history for name in row if name not in ("epoch", "seconds")), "seconds"]
    columns = [Column(name.replace("_", " "), "", SCORE if name.endswith(score) else ".3g") for name in names]
    rows = [[row["epoch"] + 1, *(row.get(name) for name in names)] for row in history]
    return Table("Losses and scores by epoch", [Column("epoch"), *columns], rows)


def _curves(history: Sequence[Numbers], task: Task) -> dict[str, Figure]:
    figures = {}
    for metric in dict.fromkeys(name.partition("_")[2] for row in history for name in row if "_" in name):
        in_points, lines = metric.endswith(task.score.name), []
        for split, name in (("validation", f"val_{metric}"), ("training", f"train_{metric}")):
            known = {row["epoch"] + 1: row[name] for row in history if name in row}
            lines.append((split, [*known], np.array([*known.values()]) * (100 if in_points else 1)))
        words = metric.replace("_", " ")
        chance = 100 / len(task.classes) if metric == "accuracy" else None
        figures[metric] = _plot(words, f"{words}, points" if in_points else words, lines, chance=chance)
    return figures


def _processing(folder: pathlib.Path, processor: Processor) -> dict[str, Figure]:
    """Draws the change of each parameter that changes, and the norms of the gradients."""
    start, parameters, norms = _recorded(folder)
    known = processor.declarations if isinstance(processor, isp.Pipeline) else {}
    since, figures = "the end of the first epoch" if start is None else "the start", {}
    for name, courses in parameters.items():
        shape = [max(places) + 1 for places in zip(*courses, strict=True)]
        parameter = known.get(name, isp.Parameter(0.0))
        titles = dict(zip(np.ndindex(*shape), parameter.element_names(name, shape), strict=True))
        lines = []
        for place, (epochs, values) in sorted(courses.items()):
            if start is not None:
                epochs, values = [0, *epochs], np.array([np.array(start[name])[place], *values])
            lines.append((titles[place].removeprefix(f"{name}."), epochs, values - values[0]))
        if any(values.any() for _, _, values in lines):
            words = f"{name.replace('_', ' ')}: change since {since}"
            figures[f"parameter_{name}"] = _plot(words, parameter.unit or "change", lines)
    moved = [(name, *course) for name, course in norms.items() if course[1].any()]
    if moved:
        figures["gradient_norms"] = _plot("gradient norms of the loss", "mean norm", moved, scale="log")
    return figures


def _recorded(folder: pathlib.Path) -> tuple[dict | None, dict[str, dict[tuple[int, ...], Any]], dict[str, Any]]:
    """Reads the initial processing parameters, and the epochs and values of each element and gradient norm."""
    from tensorboard.backend.event_processing.event_accumulator import (
        DEFAULT_SIZE_GUIDANCE,
        SCALARS,
        TENSORS,
        EventAccumulator,
    )

    # Keeps all scalars, and as little as possible of the rest.
    events = EventAccumulator(str(folder), dict.fromkeys(DEFAULT_SIZE_GUIDANCE, 1) | {SCALARS: 0})
    events.Reload()
    start, parameters, norms = None, {}, {}
    if (tag := f"{START}/text_summary") in events.Tags()[TENSORS]:  # Absent if its event file was deleted.
        start = json.loads(events.Tensors(tag)[0].tensor_proto.string_val[0])
    for tag in events.Tags()[SCALARS]:
        kind, *parts = tag.split("/")
        course = [each.step + 1 for each in events.Scalars(tag)], np.array([each.value for each in events.Scalars(tag)])
        if kind == "processor":
            parameters.setdefault(parts[0], {})[tuple(map(int, parts[1:]))] = course
        elif kind == "processor_gradient_norm":
            norms[parts[0]] = course
    return start, parameters, norms


def _plot(
    caption: str, label: str, lines: Sequence[Line], scale: str = "linear", chance: float | None = None
) -> Figure:
    def draw(axes: "Axes") -> None:
        for number, (name, epochs, values) in enumerate(lines):
            # After seven lines, the colors repeat with dashes.
            form = "C0--" if name == "training" else "-" if number < 7 else "--"
            axes.plot(epochs, values, form, marker="o" if len(epochs) <= 40 else "", markersize=3, label=name)
        if chance is not None:
            axes.axhline(chance, color="gray", linestyle=":", label="chance")
        axes.set(xlabel="epoch", ylabel=label, yscale=scale)
        axes.locator_params("x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")

    return Figure(draw, (4.5, 3.0), caption)


def _confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    # Class names must not be read as formulas.
    names = [name.replace("$", r"\$") for name in classes]
    rows = [f"{name} ({count:.0f})" for name, count in zip(names, matrix.sum(1), strict=True)]
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return heat_map(
        shares,
        rows,
        names,
        label="% of the samples of a target",
        row_title="target (samples)",
        column_title="prediction",
        number=".0f",
        caption="validation confusion matrix, last checkpoint",
    )


def _pictures(folder: pathlib.Path) -> dict[str, tuple[Image.Image, str]]:
    """Reads the pictures of the first and last recorded epochs by name, with captions; gradients go below stages."""
    epochs, found = sorted(folder.glob("epoch_*")), {}
    for epoch in dict.fromkeys([*epochs[:1], *epochs[-1:]]):
        stages = sorted(epoch.glob("stages/*.png"), key=lambda file: int(file.stem.partition("_")[0]))
        for file in [*stages, *sorted(epoch.glob("differences/*.png")), *sorted(epoch.glob("*.png"))]:
            words = file.stem.lstrip("0123456789_").replace("_", " ")
            gradient = epoch / "gradients" / file.name
            parts = [file, *([gradient] if gradient.exists() else [])]
            if len(parts) > 1:
                words += ", and the magnitude of the loss gradient"
            joined = np.concatenate([np.asarray(Image.open(part).convert("RGB")) for part in parts])
            found[f"{epoch.name}_{file.stem}"] = Image.fromarray(joined), f"{words}, epoch {int(epoch.name[6:]) + 1}"
    return found
