import dataclasses

import brightness
import numpy as np
from outcomes import of_counts

from r2l_jax.data.files.shot import Shot
from r2l_jax.drift.forensics import shots
from r2l_jax.results.result import Result


def test_each_group_of_samples_is_scored_by_the_outcomes_of_the_worst_cases():
    """Five samples of the cameras A, B, A, B, A; in another order than in the data set."""
    valid = [9, 4, 7, 2, 5]
    dataset = dataclasses.replace(brightness.dark_images([0.1] * 10), shot=lambda index: Shot(model="BA"[index % 2]))
    fold = brightness.fold(dataset, [0, 1, 3], valid)
    titles = ("default", "all, weight 1", "all, weight 10", "gains, weight 1")
    counted = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.float32)[:, None]
    outcomes = of_counts(titles, ["clean"], valid, counted)
    metadata = {"worst": {"all": "all, weight 1", "gains": "gains, weight 1"}}
    found = shots.analyze(fold, ["model"], Result(metadata, outcomes=outcomes.packed()))
    table = found.tables["model"]
    assert [column.name for column in table.columns] == ["model", "samples", "default", "all", "gains"]
    assert table.rows == [["A", 3, 1, 1 / 3, 1 / 3], ["B", 2, 1, 0, 0.5]]
    assert list(found.figures) == ["model"]
