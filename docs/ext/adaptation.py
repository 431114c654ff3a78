"""Measures what adapting without labels gains and loses, and what it refuses.

python docs/ext/adaptation.py runs/quickstart/six,runs/quickstart/metered writes docs/results/adaptation.md, in one or
two minutes for each model on one core. It takes runs, or groups of seeds, of an embedded set with test samples.

Half of these samples are the reference. Sets of 64 images of all classes, and sets of one class, come from the others,
without a drift and under some. The scores are measured on samples that the model is not adapted by.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.measure import Model, Samples
from r2l_jax.drift.measure import measure as outcomes_of
from r2l_jax.drift.monitoring import notice, reference
from r2l_jax.model.adaptation import MOST, Adapted, adapt, replaced
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.run import Run, load

RESULTS = pathlib.Path(__file__).parents[1] / "results/adaptation.md"

DRIFTS = (None, *cases.exposures([0.5, 0.05]), *cases.sensor(["color_balance"], [4]))
TITLES = {
    None: "none",
    "exposure=0.5": "half the light",
    "exposure=0.05": "a twentieth of the light",
    "color_balance.4": "red 0.7 stops brighter, blue 0.7 darker",
}  # Sets of one class come from fewer drifts.
OF_ONE_CLASS = (None, "exposure=0.5")

_TEXT = """---
orphan: true
---

# Adapting without labels: gains, costs and refusals

This page is written by `python docs/ext/adaptation.py {runs}`;
[Adaptation](../adaptation.md) explains the methods. Each model is adapted to {most} test images and measured on
{measured} others. Scores are in points, as the mean of the models, from the least to the most in parentheses. A
drift is noticed if the test of the monitor, at a level of 5%, tells the {most} images from the {clean} clean ones of
the reference; without that, the model stays as it is. Models that are not in the table were not measured.

{scores}

## Refused sets

A set is refused if its images are no mixture of the classes. The sets of one class are without a drift and at
half the light. The noise is evenly distributed values, white frames, and clean images whose sites are shuffled.

{refused}
"""


class Scores(NamedTuple):
    """The scores of a model under a drift: as it is, with all statistics replaced, and adapted."""

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


def score(model: RawToLogit, fold: Artifact, dataset: RawDataset, indices: np.ndarray) -> float:
    """Computes the score of a model on samples, in points."""
    samples = Samples(fold.task, dataset, indices, 64)
    return 100 * outcomes_of({"model": Model(model)}, [cases.CLEAN], samples).score("model")


def measure(fold: Artifact) -> Measured:
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
        dataset = own if drift is None else acquisition.drifted(fold.config.data, own, drift, None, 0)
        raws = dataset.samples(by)[0]
        found = adapted(raws)
        models = fold.model, replaced(fold.model, raws, task), found.model
        noticed = notice.unnoticed(Run([fold]), raws, lambda: known) is None
        scores = Scores(noticed, *(score(model, fold, dataset, rest) for model in models))
        measured.scores[drift and drift.name] = scores
        measured.refused["all classes"].append(found.refusal is not None)
        if (drift and drift.name) not in OF_ONE_CLASS or task.name != "classification":
            continue
        for label in range(len(own.classes)):
            measured.refused["one class"].append(refused(dataset.samples(new[own.labels[new] == label][:MOST])[0]))
    raws = own.samples(by)[0]
    shuffled = rng.permuted(raws.reshape(len(raws), -1), axis=1).reshape(raws.shape)
    for noise in (rng.random(raws.shape, np.float32), np.ones_like(raws), shuffled):
        measured.refused["noise"].append(refused(noise))
    return measured


def tables(measured: dict[str, list[Measured]]) -> Iterator[str]:
    """Formats the scores and the refused sets of the models of each run."""
    rows = [["run", "drift", "noticed", "nothing", "all statistics", "adapted", "adapted minus nothing"]]
    for name, models in measured.items():
        for drift, title in TITLES.items():
            found = [each.scores[drift] for each in models]
            noticed = f"{sum(each.noticed for each in found)} of {len(found)}"
            gains = [each.adapted - each.nothing for each in found]
            columns = [[each[place] for each in found] for place in (1, 2, 3)]
            rows.append([name, title, noticed, *map(spread, columns), spread(gains)])
    yield table(rows)
    kinds = ["all classes", "one class", "noise"]
    rows = [["run", *(f"refused sets of {kind}" for kind in kinds)]]
    for name, models in measured.items():
        each = [[refused for model in models for refused in model.refused[kind]] for kind in kinds]
        rows.append([name, *(f"{sum(refused)} of {len(refused)}" for refused in each)])
    yield table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as a table in Markdown."""
    heading, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([heading, "| --- " * len(rows[0]) + "|", *others])


def spread(values: Sequence[float]) -> str:
    """Formats the mean of values, from the least to the most."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main(runs: str) -> None:
    """Measures the models of runs, and writes the page after each of them."""
    measured = dict[str, list[Measured]]()
    for name in runs.split(","):
        models = measured.setdefault(pathlib.Path(name).name, [])
        for fold in load(name).folds:
            models.append(measure(fold))
            samples = len(fold.measured_indices)
            numbers = {"most": MOST, "measured": samples - MOST, "clean": (samples + 1) // 2}
            scores, refused = tables(measured)
            RESULTS.write_text(_TEXT.format(runs=runs, scores=scores, refused=refused, **numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
