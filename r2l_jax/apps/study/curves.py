"""Collects the curves of drift forensics, over the price of distance, and of drift adjustment, over the steps."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from r2l_jax.apps.study.config import FROZEN, LEARNED, StudyConfig
from r2l_jax.apps.study.plan import trainings_of
from r2l_jax.apps.study.published import Results, difference
from r2l_jax.config import TrainConfig
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.plan import Batches
from r2l_jax.training.record import read_metrics

Numbers = dict[str, Any]


def forensics(results: Results) -> Numbers:
    """Collects the curves of worst cases over the weight of the distance.

    Returns:
        The `default` score; for each of the `groups` its `weights`, from the largest, with the score in each of the
        `folds`, its `mean` and `std`, the mean `ssim` to the default rendering, and the `parameters` of the first fold;
        the distance as `aux_loss`; the `l2_factor` that turns a weight of "l2_sum" into one of "l2"; and the
        `published` curves, with the `difference` to them in standard deviations of the folds if the data is the same.

    Raises:
        InputError: a result cannot be read.
    """
    config, theirs = results.config, results.theirs
    groups, default = Numbers(), list[float]()
    for job in results.jobs:
        if isinstance(job.config, ForensicsConfig):
            (group,) = job.config.worst_case.adv_parameters
            folds = [_worst_cases(job.config.output_dir, fold) for fold in range(config.data.n_splits)]
            default = [fold["default"]["score"] for fold in folds]
            groups[group] = _over_weight([sorted(fold["rows"], key=lambda row: -row["aux_weight"]) for fold in folds])
    # The study searched with the data of microscopy alone.
    comparable = theirs.comparable and theirs.name == theirs.study.forensics.data
    if comparable:
        for group, curve in groups.items():
            known = [theirs.attacks.get(group, {}).get(weight) for weight in curve["weights"]]
            curve["difference"] = list(map(difference, curve["mean"], curve["std"], known))
    published = {
        group: {"weights": sorted(curve, reverse=True), "scores": [curve[key] for key in sorted(curve, reverse=True)]}
        for group, curve in theirs.attacks.items()
    }
    run = trainings_of(config, "forensics")["model"].run_dir
    return {
        "score": results.task.score,
        "run": str(run),
        "aux_loss": config.choice.adv_aux_loss,
        "l2_factor": _l2_factor(config, run),
        "default": _mean(default) if default else None,
        "groups": groups,
        "comparable": comparable,
        "published": {"default": theirs.study.forensics.default_accuracy, "groups": published},
    }


def _worst_cases(output: pathlib.Path, fold: int) -> Numbers:
    file = output / f"fold_{fold}" / "worst_case" / "worst_case.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): remove it, and the same command searches anew") from None


def _over_weight(folds: Sequence[Sequence[Numbers]]) -> Numbers:
    """Collects the rows of a group's worst cases in each fold, by weight."""
    scores = np.array([[row["score"] for row in rows] for rows in folds])
    return {
        "weights": [row["aux_weight"] for row in folds[0]],
        "folds": scores.tolist(),
        "mean": scores.mean(0).tolist(),
        "std": scores.std(0).tolist(),
        "ssim": np.mean([[row["ssim"] for row in rows] for rows in folds], 0).tolist(),
        "parameters": [row["parameters"] for row in folds[0]],
    }


def _l2_factor(config: StudyConfig, run: pathlib.Path) -> int | None:
    """Returns the number of values in a search's batch of images, the factor from weights of "l2_sum" to "l2"."""
    if config.choice.adv_aux_loss != "l2_sum":
        return None
    try:
        height, width, *_ = json.loads((run / "fold_0" / "metrics.json").read_text())["shape"]
    except (OSError, ValueError, LookupError):
        return None
    return 3 * height * width * config.search_of(trainings_of(config, "forensics")["model"], "all").batch_size


def adjustment(results: Results) -> Numbers:
    """Collects the validation scores of learned and of frozen processing at low intensity, over the steps.

    Returns:
        For each run that is trained, its `steps`, the published score there in each of the `folds`, its `mean` and
        `std`, and its `end` with mean and deviation; and the `published` ends, with the `difference` to them in
        standard deviations of the folds if the data is the same.

    Raises:
        InputError: a run cannot be read.
    """
    config, theirs, runs = results.config, results.theirs, Numbers()
    for name, training in trainings_of(config, "adjustment").items():
        if any(job.config == training for job in results.jobs):
            runs[name] = _over_steps(training, config.data.n_splits, f"val_{theirs.score}")
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


def _over_steps(training: TrainConfig, folds: int, score: str) -> Numbers:
    """Computes the score of a run over its steps, for each fold, with mean and standard deviation."""
    contents = [
        read_metrics(training.run_dir / f"fold_{fold}" / "metrics.json", "the same command trains it anew")
        for fold in range(folds)
    ]
    updates = Batches.of(len(contents[0]["train_indices"]), training.optimization.batch_size).per_epoch
    rows = [[row for row in content["history"] if score in row] for content in contents]
    scores = np.array([[row[score] for row in of_fold] for of_fold in rows])
    return {
        "steps": [(row["epoch"] + 1) * updates for row in rows[0]],
        "folds": scores.tolist(),
        "mean": scores.mean(0).tolist(),
        "std": scores.std(0).tolist(),
        "end": _mean([of_fold[-1][score] for of_fold in rows]),
    }


def _mean(values: Sequence[float]) -> Numbers:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def lines(content: Numbers) -> list[str]:
    """Returns the ends of the curves in words, for the terminal."""
    said, searched, adjusted = [], content.get("forensics"), content.get("adjustment")
    if searched and searched["groups"]:
        ends = []
        for group, curve in searched["groups"].items():
            points = [f"{curve['mean'][place]:.3f} at {curve['weights'][place]:g}" for place in (0, -1)]
            ends.append(f"{group} {' and '.join(points)}")
        said.append(f"forensics: {searched['score']} {searched['default']['mean']:.3f} by default; {'; '.join(ends)}")
    if adjusted and adjusted["runs"]:
        ends = [f"{name} {run['end']['mean']:.3f} ± {run['end']['std']:.3f}" for name, run in adjusted["runs"].items()]
        said.append(f"adjustment: {adjusted['score']} at intensity {adjusted['intensity']:g}: {', '.join(ends)}")
    return said
