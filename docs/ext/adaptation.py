"""Measures the gains and losses of adapting without labels, and the image sets that it refuses.

python docs/ext/adaptation.py runs/quickstart/six,runs/quickstart/metered writes adaptation.csv and refused_sets.csv
to docs/results, in one or two minutes for each model on one core. It takes runs, or groups of seeds, of an embedded set
with test samples.

Half of these samples are the reference. Sets of 64 images of all classes, and sets of one class, come from the others,
without a drift and under some. The scores are measured on samples that the model is not adapted to.
"""

import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import measurements
import numpy as np

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.measure import Model, Samples
from r2l_jax.drift.measure import measure as outcomes_of
from r2l_jax.drift.monitoring import reference
from r2l_jax.model.adaptation import MOST, Adapted, adapt, replaced
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Run, load

DRIFTS = (None, *cases.exposures([0.5, 0.05]), *cases.sensor(["color_balance"], [4]))
TITLES = {
    None: "none",
    "light=0.5": "half the light",
    "light=0.05": "a twentieth of the light",
    "color_balance.4": "red 0.7 stops brighter, blue 0.7 darker",
}
# Sets of one class come from fewer drifts.
OF_ONE_CLASS = (None, "light=0.5")


class Scores(NamedTuple):
    """The scores of a model under a drift: unchanged, with all statistics replaced, and adapted."""

    noticed: bool
    nothing: float
    replaced: float
    adapted: float


class Measured(NamedTuple):
    """The scores of a model under one drift.

    Attributes:
        scores: by drift.
        refused: whether each set is refused, by the kind of the sets.
    """

    scores: dict[str | None, Scores]
    refused: dict[str, list[bool]]


def score(model: RawToLogit, fold: Trained, dataset: RawDataset, indices: np.ndarray) -> float:
    """Computes the score of a model on samples, in points."""
    samples = Samples(fold.task, dataset, indices, 64)
    return 100 * outcomes_of({"model": Model(model)}, [cases.CLEAN], samples).score("model")


def measure(fold: Trained) -> Measured:
    """Measures a model under all drifts."""
    own, task, rng = fold.dataset, fold.task, np.random.default_rng(0)
    clean, new = np.array_split(rng.permutation(fold.measured_indices), 2)
    by, rest = new[:MOST], np.concatenate([new[MOST:], clean])
    known = reference.make(Run([fold.measuring(np.sort(clean))]))
    measured = Measured({}, {"all classes": [], "one class": [], "noise": []})

    def adapted(raws: np.ndarray) -> Adapted:
        return adapt(fold.model, raws, task, fold.about.score, clean=fold.clean)

    def refused(raws: np.ndarray) -> bool:
        return adapted(raws).refusal is not None

    for drift in DRIFTS:
        dataset = own if drift is None else acquisition.drifted(fold.config.data, own, drift, 0)
        raws = dataset.samples(by)[0]
        found = adapted(raws)
        models = fold.model, replaced(fold.model, raws, task), found.model
        noticed = reference.unnoticed(Run([fold]), raws, lambda: known) is None
        scores = Scores(noticed, *(score(model, fold, dataset, rest) for model in models))
        measured.scores[drift and drift.name] = scores
        measured.refused["all classes"].append(found.refusal is not None)
        if (drift and drift.name) not in OF_ONE_CLASS or not task.has_labels:
            continue
        for label in range(len(own.classes)):
            measured.refused["one class"].append(refused(dataset.samples(new[own.labels[new] == label][:MOST])[0]))
    raws = own.samples(by)[0]
    shuffled = rng.permuted(raws.reshape(len(raws), -1), axis=1).reshape(raws.shape)
    for noise in (rng.random(raws.shape, np.float32), np.ones_like(raws), shuffled):
        measured.refused["noise"].append(refused(noise))
    return measured


def scores_of(measured: dict[str, list[Measured]]) -> Iterator[dict[str, object]]:
    """Yields the scores of each run under each drift: the mean of its models, the lowest and the highest."""
    for name, models in measured.items():
        for drift, title in TITLES.items():
            found = [each.scores[drift] for each in models]
            points = {
                "nothing": [each.nothing for each in found],
                "all statistics": [each.replaced for each in found],
                "adapted": [each.adapted for each in found],
                "adapted minus nothing": [each.adapted - each.nothing for each in found],
            }
            noticed = sum(each.noticed for each in found)
            for method, values in points.items():
                numbers = zip(("points", "lowest", "highest"), (np.mean(values), min(values), max(values)), strict=True)
                yield {
                    **{"run": name, "drift": title, "models": len(found), "noticed": noticed, "method": method},
                    **{column: f"{value:.1f}" for column, value in numbers},
                }


def refused_of(measured: dict[str, list[Measured]]) -> Iterator[dict[str, object]]:
    """Yields how many sets of each kind the models of each run refuse."""
    for name, models in measured.items():
        for kind in ("all classes", "one class", "noise"):
            refused = [refused for model in models for refused in model.refused[kind]]
            yield {"run": name, "images": kind, "sets": len(refused), "refused": sum(refused)}


def main(runs: str) -> None:
    """Measures the models of runs, and writes the tables after each of them."""
    measured = dict[str, list[Measured]]()
    for name in runs.split(","):
        models = measured.setdefault(pathlib.Path(name).name, [])
        for fold in load(name).folds:
            models.append(measure(fold))
            measurements.write("adaptation", [*scores_of(measured)])
            measurements.write("refused_sets", [*refused_of(measured)])


if __name__ == "__main__":
    main(*sys.argv[1:])
