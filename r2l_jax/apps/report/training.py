"""The training in a report: learning curves and classes."""

import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.charts import Line, LineChart
from r2l_jax.apps.report.document import Block, Cell, Charts, Details, Section, Table, Text
from r2l_jax.apps.report.runs import FoldRecord, RunRecord, common_chance, common_score
from r2l_jax.drift.cases import OWN
from r2l_jax.drift.results import Statistic, converted

# Larger confusion matrices are left to their picture in the run's folder.
_MOST_CLASSES = 40

_ENDS = ("last", "best")

_BY_CLASS = ("precision", "recall", "f1")


def make(runs: Sequence[RunRecord], named: Sequence[RunRecord]) -> list[Section]:
    """Makes the sections of learning curves and classes.

    Args:
        runs: the records of runs, with the members in place of their groups.
        named: the records of runs and groups, which have the evaluations.
    """
    history = [(run.title(fold.number), [_history_table(fold)]) for run in runs for fold in run.folds if fold.history]
    curves: list[Block] = [Charts(charts)] if (charts := learning_curves(runs)) else []
    if history:
        curves.append(Details("Numbers of each epoch", document.panels(history)))
    return [
        *document.section("Learning curves", curves),
        *document.section(
            "Classes", document.panels([(run.name, [*_tested(run, named), *_classes(run)]) for run in runs])
        ),
    ]


def learning_curves(runs: Sequence[RunRecord]) -> list[LineChart]:
    """Makes charts of the loss, the score and other metrics over the epochs: mean and standard deviation of the folds.

    The validation is solid and the training dashed. A run has one color in all charts.
    """
    charts = []
    for metric in _metrics(runs):
        lines = [
            line
            for color, run in enumerate(runs)
            for split, style in (("val", "solid"), ("train", "dashed"))
            if (line := _mean_course(run, f"{split}_{metric}", color, style, len(runs) > 1))
        ]
        if lines:
            chance = common_chance(runs) if metric in {run.score for run in runs} else None
            is_score = metric.endswith(common_score(runs))
            charts.append(LineChart(metric, "epoch", metric, lines, chance=chance, in_points=is_score))
    return charts


def _metrics(runs: Sequence[RunRecord]) -> list[str]:
    """Lists the metrics of the history: the loss, the scores, and others such as adversarial training records."""
    names = dict.fromkeys(name for run in runs for fold in run.folds for row in fold.history for name in row)
    others = [name.partition("_")[2] for name in names if name.startswith(("train_", "val_"))]
    return list(dict.fromkeys(["loss", *(run.score for run in runs), *others]))


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
            *(_form(name, fold)(row.get(name)) for name in names),
        ]
        for row in fold.history
    ]
    return Table("Numbers of each epoch", ["epoch", *(name.replace("_", " ") for name in names)], rows)


def _form(name: str, fold: FoldRecord) -> Callable[[float | None], Cell]:
    """Returns what makes the cells of a number of an epoch."""
    if fold.score and name.endswith(fold.score):
        return tables.score
    return tables.number if name == "seconds" else tables.loss


def _tested(run: RunRecord, named: Sequence[RunRecord]) -> list[Block]:
    """Makes the table of the classes of the own images, by the checkpoint of which the verdict states the score."""
    for group in named:
        if not group.evaluation or run.folder not in group.members:
            continue
        file, checkpoint = group.folder / "evaluation" / "evaluation.json", group.evaluation.flags.get("checkpoint")
        for each in group.evaluation.runs.values():
            if len(group.members) > 1 and pathlib.Path(each.folder).name != run.folder.name:
                continue
            own = each.tests.get(OWN.name, {})
            numbers = {name: converted(own.get(name), dict[str, Statistic], file) for name in _BY_CLASS if name in own}
            rows = [
                [Cell(name), *(tables.score(of_class[name].mean) for of_class in numbers.values())]
                for name in next(iter(numbers.values()), ())
            ]
            title = f"Own images by class{f', {checkpoint} checkpoint' if checkpoint else ''}"
            return [Table(title, ["class", *numbers], rows)] if rows else []
    return []


def _classes(run: RunRecord) -> list[Block]:
    """Makes the table of classes and the confusion matrix, over all finished folds."""
    finals = [fold.final for fold in run.folds if fold.final and fold.final.val_confusion_matrix]
    if not finals:
        return []
    names = list(finals[0].val_f1)
    matrices = [np.array(each.val_confusion_matrix) for each in finals if _fits(each.val_confusion_matrix, names)]
    if not matrices:
        return []

    def mean(metric: str, name: str) -> Cell:
        return tables.score(float(np.mean([getattr(final, f"val_{metric}").get(name, math.nan) for final in finals])))

    rows = []
    for name in names:
        samples = sum(final.val_samples.get(name, math.nan) for final in finals)
        rows.append([Cell(name), tables.number(samples), *(mean(metric, name) for metric in _BY_CLASS)])
    over = "" if len(finals) == 1 else f"; means over {len(finals)} folds, counts added up"
    blocks: list[Block] = [Table(f"Validation by class, last checkpoint{over}", ["class", "samples", *_BY_CLASS], rows)]
    if len(names) <= _MOST_CLASSES:
        blocks.append(_confusion_table(names, np.sum(matrices, 0)))
    if any(final.best != final.last for final in finals):
        last, best = (tables.score(float(np.mean([getattr(final, name) for final in finals]))).text for name in _ENDS)
        words = f"The {run.score} of the last checkpoint is {last}, and that of the best one {best}."
        blocks.append(Text(f"A training records its classes at its end. {words}"))
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
    title = "Confusion, last checkpoint: targets in rows, predictions in columns"
    return Table(title, ["target", *names], rows)
