"""Worst cases by facts of the shots: whose samples does the worst processing of each group break?"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.drift import shot_groups
from r2l_jax.drift.analysis import Analysis
from r2l_jax.drift.figures import heat_map
from r2l_jax.drift.forensics import worst_case
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer, ticking, whole_batches
from r2l_jax.runtime.tables import table
from r2l_jax.training.run import TrainedFold

DEFAULT = "default"


def analyse(
    config: ForensicsConfig, fold: TrainedFold, worst: Mapping[str, Any] | None, stop: Callable[[], bool]
) -> Analysis:
    """Measures the samples of each group of shots by default, and under the worst processing of each search.

    Args:
        config: names the fields of shots.
        fold: the trained model.
        worst: the content of the analysis `worst_case`; None measures only the default.
        stop: as for `worst_case.analyse`.

    Returns:
        The content has, for each field, `rows` (values), `samples`, `columns` (default, and the group of parameters of
        each search at its worst) and `scores`.

    Raises:
        InputError: as `shot_groups.groups`.
        Interrupted: `stop` returned True.
    """
    indices = fold.valid_indices
    groups = shot_groups.groups(fold.dataset, indices, config.by)
    frozen = Frozen(worst_case.searched(config, fold), fold.task)
    lowest: dict[str, Mapping[str, Any]] = {}
    for row in worst["rows"] if worst else ():
        if row["group"] not in lowest or row["score"] < lowest[row["group"]]["score"]:
            lowest[row["group"]] = row
    processings = [
        frozen.default,
        *(
            {name: np.asarray(value, np.float32) for name, value in row["parameters"].items()}
            for row in lowest.values()
        ),
    ]
    batches = whole_batches(fold.dataset, indices, config.batch_size)
    total = len(processings) * len(batches)
    with ticking("shots", total, stop, lambda: "stopped; the same command goes on from there") as tick:
        measured = Measurer(frozen).measure(processings, batches, tick)
    place = {index: number for number, index in enumerate(indices.tolist())}
    content: dict[str, Any] = {"score": fold.task.score, "fields": {}}
    for field, samples in groups.items():
        chosen = [[place[index] for index in of_value.tolist()] for of_value in samples.values()]
        content["fields"][field] = {
            "rows": list(samples),
            "samples": [len(places) for places in chosen],
            "columns": [DEFAULT, *lowest],
            "scores": [
                [float(fold.task.score_of(one.confusion[places].sum(0))) for one in measured] for places in chosen
            ],
        }
    return Analysis(content, _tables(content), _figures(content))


def _tables(content: Mapping[str, Any]) -> str:
    tables = []
    for field, found in content["fields"].items():
        rows = [[field.replace("_", " "), "samples", *found["columns"]]]
        for value, samples, scores in zip(found["rows"], found["samples"], found["scores"], strict=True):
            rows.append([value, str(samples), *(f"{score:.4f}" for score in scores)])
        tables.append(table(rows))
    return "\n\n".join(tables)


def _figures(content: Mapping[str, Any]) -> dict[str, Figure]:
    return {
        f"by_{field}": heat_map(
            np.array(found["scores"]),
            [f"{row} ({samples})" for row, samples in zip(found["rows"], found["samples"], strict=True)],
            found["columns"],
            title=f"worst cases by {field.replace('_', ' ')} (number of samples)",
            label=content["score"],
        )
        for field, found in content["fields"].items()
    }
