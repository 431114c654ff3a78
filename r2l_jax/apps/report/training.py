"""The training in a report: learning curves, classes, the processing's parameters, and pictures over epochs."""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import isp
from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.charts import Line, LineChart
from r2l_jax.apps.report.document import Block, Cell, Charts, Details, Frame, Section, Slider, Table
from r2l_jax.apps.report.pictures import Detail, Picture, embedded, thinned
from r2l_jax.apps.report.runs import FoldRecord, RunRecord
from r2l_jax.pipelines import find_pipeline

# Larger confusion matrices are left to their picture in the run's folder.
_MOST_CLASSES = 40


def make(runs: Sequence[RunRecord], detail: Detail) -> list[Section]:
    """Makes the sections of learning curves, classes, processing and pictures over epochs."""
    history = [(run.title(fold.number), [_history_table(fold)]) for run in runs for fold in run.folds if fold.history]
    curves: list[Block] = [Charts(charts)] if (charts := learning_curves(runs)) else []
    if history:
        curves.append(Details("Numbers of each epoch", document.panels(history)))
    return [
        *document.section("Learning curves", curves),
        *document.section("Classes", document.panels([(run.name, _classes(run)) for run in runs])),
        *document.section("Processing over epochs", document.panels([(run.name, _processing(run)) for run in runs])),
        *document.section(
            "Pictures over epochs",
            document.panels(
                [(run.title(fold.number), _pictures(fold, run, detail)) for run in runs for fold in run.folds]
            ),
        ),
    ]


def learning_curves(runs: Sequence[RunRecord]) -> list[LineChart]:
    """Makes charts of the loss and the score over the epochs: the mean over the folds, and their deviation.

    The validation is solid and the training dashed. A run has one color in all charts.
    """
    charts = []
    for metric in dict.fromkeys(["loss", *(run.score for run in runs)]):
        lines = [
            line
            for color, run in enumerate(runs)
            for split, style in (("val", "solid"), ("train", "dashed"))
            if (line := _mean_course(run, f"{split}_{metric}", color, style, len(runs) > 1))
        ]
        if lines:
            charts.append(LineChart(metric, "epoch", metric, lines))
    return charts


def _mean_course(run: RunRecord, name: str, color: int, style: str, named: bool) -> Line | None:
    """Averages a number over the folds that have reached an epoch."""
    values: dict[float, list[float]] = {}
    for fold in run.folds:
        for epoch, value in zip(*fold.course(name), strict=True):
            values.setdefault(epoch, []).append(value)
    if not values:
        return None
    split = "validation" if name.startswith("val_") else "training"
    epochs = sorted(values)
    return Line(
        f"{run.name}, {split}" if named else split,
        epochs,
        [float(np.mean(values[epoch])) for epoch in epochs],
        color,
        style,  # pyright: ignore[reportArgumentType]
        [float(np.std(values[epoch])) for epoch in epochs] if len(run.folds) > 1 else None,
    )


def _history_table(fold: FoldRecord) -> Table:
    names = [name for name in dict.fromkeys(name for row in fold.history for name in row) if name != "epoch"]
    rows = [
        [
            tables.number(row["epoch"] + 1),
            *(tables.number(row.get(name)) if name == "seconds" else tables.score(row.get(name)) for name in names),
        ]
        for row in fold.history
    ]
    return Table("Numbers of each epoch", ["epoch", *(name.replace("_", " ") for name in names)], rows)


def _classes(run: RunRecord) -> list[Block]:
    """Makes the table of classes and the confusion matrix, over all finished folds."""
    finals = [fold.final for fold in run.folds if fold.final and fold.final.val_confusion_matrix]
    if not finals:
        return []
    names = list(finals[0].val_f1)
    matrices = [
        np.array(final.val_confusion_matrix, float) for final in finals if _fits(final.val_confusion_matrix, names)
    ]
    if not matrices:
        return []
    matrix = np.sum(matrices, 0)
    metrics = ("precision", "recall", "f1")
    rows = [
        [
            Cell(name),
            tables.number(float(total)),
            *(
                tables.score(float(np.mean([getattr(final, f"val_{metric}").get(name, math.nan) for final in finals])))
                for metric in metrics
            ),
        ]
        for name, total in zip(names, matrix.sum(1), strict=True)
    ]
    over = "" if len(finals) == 1 else f"; means over {len(finals)} folds, counts added up"
    blocks: list[Block] = [Table(f"Validation by class, last epoch{over}", ["class", "samples", *metrics], rows)]
    if len(names) <= _MOST_CLASSES:
        blocks.append(_confusion_table(names, matrix))
    return blocks


def _fits(matrix: Sequence[Sequence[float]], names: Sequence[str]) -> bool:
    return len(matrix) == len(names) and all(len(row) == len(names) for row in matrix)


def _confusion_table(names: Sequence[str], matrix: np.ndarray) -> Table:
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    rows = [
        [
            Cell(name),
            *(
                tables.number(float(count), shade=float(share), framed=row == column)
                for column, (count, share) in enumerate(zip(matrix[row], shares[row], strict=True))
            ),
        ]
        for row, name in enumerate(names)
    ]
    return Table("Confusion: targets in rows, predictions in columns", ["target", *names], rows)


def _processing(run: RunRecord) -> list[Block]:
    """Makes a chart of each parameter over the epochs, one of the norms of gradients, and a table of the ends."""
    titles = _element_names(run)
    names = dict.fromkeys(name for fold in run.folds for name in fold.recorded.parameters)
    charts = []
    for name in names:
        lines = [
            Line(titles(name, place), [epoch + 1 for epoch in course.epochs], course.values, color)
            for fold in run.folds
            for color, (place, course) in enumerate(fold.recorded.parameters.get(name, {}).items())
        ]
        charts.append(LineChart(name, "epoch", "value", lines))
    norms = [
        Line(name, [epoch + 1 for epoch in course.epochs], course.values, color)
        for fold in run.folds
        for color, (name, course) in enumerate(fold.recorded.norms.items())
        if any(course.values)
    ]
    if norms:
        charts.append(LineChart("norms of gradients", "epoch", "mean norm of the loss's gradient", norms, log_y=True))
    if not charts:
        return []
    columns = ["value", *(f"first, fold {fold.number}" if len(run.folds) > 1 else "first epoch" for fold in run.folds)]
    columns += [f"last, fold {fold.number}" if len(run.folds) > 1 else "last epoch" for fold in run.folds]
    rows = []
    for name in names:
        for place in dict.fromkeys(place for fold in run.folds for place in fold.recorded.parameters.get(name, {})):
            courses = [fold.recorded.parameters.get(name, {}).get(place) for fold in run.folds]
            ends = [course and course.values[end] for end in (0, -1) for course in courses]
            rows.append([Cell(_full(name, titles(name, place))), *map(tables.number, ends)])
    return [Charts(charts), Details("Values of the first and the last epoch", [Table("Parameters", columns, rows)])]


def _full(name: str, title: str) -> str:
    return name if title == name else f"{name}.{title}"


def _element_names(run: RunRecord) -> Callable[[str, tuple[int, ...]], str]:
    """Returns a function that names an element of a parameter, as the pipeline declares it: such as "red"."""
    facts, places = _facts(run), {}
    for fold in run.folds:
        for name, elements in fold.recorded.parameters.items():
            places.setdefault(name, set()).update(elements)
    names: dict[str, dict[tuple[int, ...], str]] = {}
    for name, known in places.items():
        shape = tuple(max(sizes) + 1 for sizes in zip(*known, strict=False))
        if name in facts and math.prod(shape) == len(known):
            with contextlib.suppress(ValueError):  # The pipeline has been declared otherwise since.
                titles = facts[name].element_names(name, shape)
                names[name] = dict(zip(np.ndindex(*shape), titles, strict=True))

    def title(name: str, place: tuple[int, ...]) -> str:
        full = names.get(name, {}).get(place, ".".join([name, *map(str, place)]))
        return full.removeprefix(f"{name}.")

    return title


def _facts(run: RunRecord) -> Mapping[str, isp.Parameter]:
    """Returns what isp declares of a run's parameters; nothing for a user's file, which a report does not run."""
    name = run.flags["pipeline"] or run.flags["processing_mode"]
    if name not in ("parametrized", "full"):
        return {}
    try:
        return find_pipeline(name)(isp.Camera.from_json(json.dumps(run.folds[0].camera))).facts
    except ValueError:  # An earlier version recorded no camera.
        return {}


def _pictures(fold: FoldRecord, run: RunRecord, detail: Detail) -> list[Block]:
    """Makes a slider of the stages beside their gradients, and of predictions and differences, of each epoch."""
    recorded = {epoch: shown for epoch, files in fold.pictures.items() if (shown := _shown(files))}
    frames = []
    for epoch in thinned(list(recorded), detail.epochs):
        rows: dict[str, list[Picture]] = {}
        for name, file in recorded[epoch].items():
            group, _, stage = name.rpartition("/")
            key = stage if group == "gradients" else name.removeprefix("stages/")
            rows.setdefault(key, []).append(_picture(group, stage, file, epoch, detail))
        frames.append(Frame(f"epoch {epoch + 1}", list(rows.values())))
    return [Slider(f"Pictures over epochs, {run.title(fold.number)}", frames)] if frames else []


def _shown(files: Mapping[str, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Puts stages first; leaves out the confusion matrix, which is a table of its own."""
    names = sorted((name for name in files if name != "confusion"), key=lambda name: not name.startswith("stages/"))
    return {name: files[name] for name in names}


def _picture(group: str, stage: str, file: pathlib.Path, epoch: int, detail: Detail) -> Picture:
    number, _, rest = stage.partition("_")
    title = (rest if number.isdecimal() else stage).replace("_", " ")
    captions = {
        "stages": (title, f"The recorded samples after the stage {title}"),
        "gradients": (f"gradient after {title}", f"Magnitude of the loss's gradient for the samples after {title}"),
    }
    caption, alternative = captions.get(group, (title, f"{title.capitalize()} for the recorded samples"))
    return embedded(file, detail.width, f"{alternative}, epoch {epoch + 1}", caption)
