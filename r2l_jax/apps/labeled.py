"""Scores the predictions of files that lie in a folder for each class."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r2l_jax.data.files.remote import Place
from r2l_jax.drift import statistics
from r2l_jax.errors import InputError
from r2l_jax.results.files import read_csv
from r2l_jax.results.result import SCORE, Column
from r2l_jax.training.run import Run


def labels_of(files: Sequence[Place], run: Run) -> dict[str, str]:
    """Returns the class of each file, which is the name of its folder, by the file's name in a table of predictions.

    Raises:
        InputError: the model is not a classifier, or a folder's name is not a class of the model.
    """
    if not run.task.has_labels:
        raise InputError(f"`labels=folder` is for classification: this model is for {run.task.title}")
    labels = {}
    for file in files:
        # Made absolute for inputs such as ".", without following links, whose targets may be in other folders.
        folder = Path(os.path.abspath(file)).parent if isinstance(file, Path) else file.parent
        if folder.name not in run.classes:
            raise InputError(
                f"`labels=folder`: {folder} is not named after a class of the model ({', '.join(run.classes)})"
            )
        labels[str(file)] = folder.name
    return labels


def scored(table: Path, labels: Mapping[str, str]) -> list[str]:
    """Compares a table of `predict.predict_files` with labels; returns the accuracy and counts of each class as lines.

    Files without a row do not count.
    """
    pairs = [(labels[row["file"]], row["class"]) for row in read_csv(table) if row["file"] in labels]
    right = np.array([[label == predicted for label, predicted in pairs]], float)
    if right.size < 2:
        raise InputError(f"`labels=folder` needs at least 2 predicted files, got {right.size}")
    accuracy = Column("accuracy", format=SCORE).text(statistics.bounded(right, "model"))
    lines = [f"accuracy with 95% confidence interval: {accuracy}; {right.sum():.0f} of {right.size} files correct"]
    for name in sorted({label for label, _ in pairs}):
        counts = Counter(predicted for label, predicted in pairs if label == name)
        wrong = [f"{count} as {other}" for other, count in counts.most_common() if other != name]
        lines.append(", ".join([f"{name}: {counts[name]} of {counts.total()} correct", *wrong]))
    return lines
