"""Collects drift adjustment: the validation of learned and of frozen processing at low intensity, over the steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2l_jax.apps.study.config import FROZEN, LEARNED, StudyConfig
from r2l_jax.apps.study.plan import StudyJob, trainings_of
from r2l_jax.apps.study.published import Orientation, difference
from r2l_jax.config import TrainConfig
from r2l_jax.model.tasks import Task
from r2l_jax.training.plan import Batches
from r2l_jax.training.record import read_metrics

Numbers = dict[str, Any]


def collect(config: StudyConfig, task: Task, theirs: Orientation, jobs: Sequence[StudyJob]) -> Numbers:
    """Collects the curves of the two runs.

    Args:
        config: the study.
        task: its task.
        theirs: the published numbers.
        jobs: the jobs that have succeeded.

    Returns:
        For each run that is trained its `steps`, `mean` and `std` of the published score over the folds there, and the
        `end` with mean and deviation; the `published` ends, and the `difference` to them in standard deviations of the
        folds if the data is the same.

    Raises:
        InputError: a run cannot be read.
    """
    runs: Numbers = {}
    for name, training in trainings_of(config, "adjustment").items():
        trained = sum(job.folds for job in jobs if job.config == training and job.is_work)
        if trained == config.data.folds:
            runs[name] = _curve(training, config.data.folds, f"val_{theirs.score}")
            if theirs.comparable:
                end = runs[name]["end"]
                end["difference"] = difference(end["mean"], end["std"], getattr(theirs.ends, name))
    return {
        "score": theirs.score,
        "intensity": config.choice.low_intensity,
        "runs": runs,
        "comparable": theirs.comparable,
        "published": {name: getattr(theirs.ends, name) for name in (LEARNED, FROZEN)},
    }


def _curve(training: TrainConfig, folds: int, score: str) -> Numbers:
    """Computes the score of a run over its steps, as mean and standard deviation of the folds."""
    contents = [
        read_metrics(training.run_dir / f"fold_{fold}" / "metrics.json", "the same command trains it anew")
        for fold in range(folds)
    ]
    updates = Batches.of(len(contents[0]["train_indices"]), training.optimization.batch_size).per_epoch
    rows = [[row for row in content["history"] if score in row] for content in contents]
    # With --patience, folds end at different epochs; the curve ends with the first of them.
    length = min(map(len, rows))
    scores = np.array([[row[score] for row in of_fold[:length]] for of_fold in rows])
    last = np.array([of_fold[-1][score] for of_fold in rows])
    return {
        "steps": [(row["epoch"] + 1) * updates for row in rows[0][:length]],
        "mean": scores.mean(0).tolist(),
        "std": scores.std(0).tolist(),
        "end": {"mean": float(last.mean()), "std": float(last.std())},
    }


def lines(content: Numbers) -> list[str]:
    """Returns the ends of the curves in words, for the terminal."""
    adjustment = content.get("adjustment")
    if not adjustment or not adjustment["runs"]:
        return []
    ends = [f"{name} {run['end']['mean']:.3f} ± {run['end']['std']:.3f}" for name, run in adjustment["runs"].items()]
    return [f"adjustment: {adjustment['score']} at intensity {adjustment['intensity']:g}: {', '.join(ends)}"]
