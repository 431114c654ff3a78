"""Collects drift forensics: the worst case that searches find, over the price of the distance from the default."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import StudyJob, trainings_of
from r2l_jax.apps.study.published import Orientation, difference
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.model.tasks import Task
from r2l_jax.runtime.errors import InputError

Numbers = dict[str, Any]


def collect(config: StudyConfig, task: Task, theirs: Orientation, jobs: Sequence[StudyJob]) -> Numbers:
    """Collects the curves of worst cases over the weight of the distance.

    Args:
        config: the study.
        task: its task.
        theirs: the published numbers.
        jobs: the jobs that have succeeded.

    Returns:
        The `default` score and for each of the `groups` its `weights`, from the largest, and there `mean` and `std` of
        the score and the mean `ssim` to the default rendering; `parameters` has those of the first fold. `aux_loss` is
        the distance, and `l2_factor` the number that a weight of "l2_sum" is multiplied by to be one of "l2". The
        `published` curves, and the `difference` to them in standard deviations of the folds if the data is the same.

    Raises:
        InputError: a result cannot be read.
    """
    groups: Numbers = {}
    default: list[float] = []
    for job in jobs:
        if isinstance(job.config, ForensicsConfig):
            (group,) = job.config.worst_case.adv_parameters
            folds = [_read(job.config.output_dir, fold) for fold in range(config.data.folds)]
            default = [fold["default"]["score"] for fold in folds]
            groups[group] = _curve([sorted(fold["rows"], key=lambda row: -row["aux_weight"]) for fold in folds])
    published = {
        group: {"weights": sorted(curve, reverse=True), "scores": [curve[key] for key in sorted(curve, reverse=True)]}
        for group, curve in theirs.attacks.items()
    }
    # The study searched with the data of microscopy alone.
    comparable = theirs.comparable and theirs.name == theirs.study.forensics.data
    if comparable:
        for group, curve in groups.items():
            known = theirs.attacks.get(group, {})
            curve["difference"] = [
                difference(mean, std, known.get(weight))
                for weight, mean, std in zip(curve["weights"], curve["mean"], curve["std"], strict=True)
            ]
    model = trainings_of(config, "forensics")["model"]
    return {
        "score": task.score,
        "run": str(model.run_dir),
        "aux_loss": config.choice.adv_aux_loss,
        "l2_factor": _l2_factor(config, model.run_dir),
        "default": {"mean": float(np.mean(default)), "std": float(np.std(default))} if default else None,
        "groups": groups,
        "comparable": comparable,
        "published": {"default": theirs.study.forensics.default_accuracy, "groups": published},
    }


def _read(output: pathlib.Path, fold: int) -> Numbers:
    file = output / f"fold_{fold}" / "worst_case" / "worst_case.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): remove it, and the same command searches anew") from None


def _curve(folds: Sequence[Sequence[Numbers]]) -> Numbers:
    """Collects the rows of a group's worst cases in each fold, by weight."""
    scores = np.array([[row["score"] for row in rows] for rows in folds])
    return {
        "weights": [row["aux_weight"] for row in folds[0]],
        "mean": scores.mean(0).tolist(),
        "std": scores.std(0).tolist(),
        "ssim": np.mean([[row["ssim"] for row in rows] for rows in folds], 0).tolist(),
        "parameters": [row["parameters"] for row in folds[0]],
    }


def _l2_factor(config: StudyConfig, run: pathlib.Path) -> int | None:
    """Returns the number of values of a batch of images of a search: its weights of "l2_sum" count so much in "l2"."""
    if config.choice.adv_aux_loss != "l2_sum":
        return None
    file = run / "fold_0" / "metrics.json"
    try:
        height, width, *_ = json.loads(file.read_text())["shape"]
    except (OSError, ValueError, LookupError):
        return None
    return 3 * height * width * config.search_of(trainings_of(config, "forensics")["model"], "all").batch_size


def lines(content: Numbers) -> list[str]:
    """Returns the ends of the curves in words, for the terminal."""
    forensics = content.get("forensics")
    if not forensics or not forensics["groups"]:
        return []
    ends = []
    for group, curve in forensics["groups"].items():
        points = list(zip(curve["mean"], curve["weights"], strict=True))
        ends.append(f"{group} " + " and ".join(f"{mean:.3f} at {weight:g}" for mean, weight in (points[0], points[-1])))
    return [f"forensics: {forensics['score']} {forensics['default']['mean']:.3f} by default; {'; '.join(ends)}"]
