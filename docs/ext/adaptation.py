"""Measures what adapting without labels gains and loses, and what it refuses.

python docs/ext/adaptation.py <run>,<run> <file> takes runs of an embedded set with test samples. Half of these are the
reference. From the others come sets of 64 images of all classes, and sets of one class, without a drift and under some.
Each set is a line of JSON in the file: whether a drift is noticed, whether the set is refused, and for sets of all
classes the scores before and after adapting, on 128 other images.
"""

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.search.measure import confusions_of, whole_batches
from r2l_jax.drift.watch import notice, reference
from r2l_jax.model.mending import MOST, mend
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.training.run import Run, TrainedFold, open_run

DRIFTS = (
    *cases.exposures([0.95, 0.9, 0.5, 0.05]),
    *cases.sensor(["color_balance", "black_level", "defocus"], [1, 4]),
)
_MEASURED = 128


def score(model: RawToLogit, fold: TrainedFold, dataset: RawDataset, indices: np.ndarray) -> float:
    """Computes the score of a model on samples."""
    found = confusions_of(model, fold.task, whole_batches(dataset, indices, 16))
    return float(fold.task.score_of(found.sum(0)))


def sets(name: str, run: Run) -> Iterator[dict[str, Any]]:
    """Yields the numbers of each set of a run."""
    (fold,) = run.folds
    own = fold.dataset
    order = np.random.default_rng(0).permutation(fold.measured_indices)
    clean, new = np.split(order, [len(order) // 2])
    known = reference.make(Run([fold.measuring(np.sort(clean))]))
    for drift in (None, *DRIFTS):
        dataset = own if drift is None else acquisition.drifted(fold.config.data, own, drift, None, 0)
        groups = {"all": new[:MOST]}
        if fold.task.name == "classification":
            groups |= {own.classes[label]: new[own.labels[new] == label][:MOST] for label in range(len(own.classes))}
        for group, by in groups.items():
            raws = dataset.samples(by)[0]
            found = mend(fold.model, raws, fold.task, fold.needed_certainty)
            row = {"run": name, "drift": drift and drift.name, "set": group, "refused": found.refusal is not None}
            if group == "all":
                rest = np.setdiff1d(order, by)[:_MEASURED]
                row["noticed"] = notice.unnoticed(run, raws, None, lambda: known) is None
                row |= {
                    "before": score(fold.model, fold, dataset, rest),
                    "after": score(found.model, fold, dataset, rest),
                }
            yield row


def main(runs: str, file: str) -> None:
    """Writes the sets of all runs."""
    with pathlib.Path(file).open("a") as rows:
        for name in runs.split(","):
            for row in sets(name, open_run(name, ["0"], "best", None)):
                rows.write(f"{json.dumps(row)}\n")
                rows.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
