import types

import folds_by_hand
import numpy as np
import pytest

from r2l_jax.data.files.shot import Shot
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.forensics import shots
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.runtime.flags import build


@pytest.fixture
def fold():
    """A fold of five samples to validate on, of two models, in another order than in the data set."""
    labels = np.zeros(10, int)
    dataset = RawDataset(
        "own", "classification", ("a",), None, ("",) * 10, labels, read=print, shot=lambda i: Shot(model="BA"[i % 2])
    )
    return folds_by_hand.fold_of(dataset, [0], [9, 4, 7, 2, 5])


def analyse(monkeypatch, fold, rows):
    """Analyses a model that is right about the first samples, as many as the parameter `right` says."""

    def measured(processings):
        right = [int(processing["right"]) for processing in processings]
        cells = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 0]]], np.float32)
        return [types.SimpleNamespace(confusion=cells[(np.arange(5) >= number).astype(int)]) for number in right]

    measurer = types.SimpleNamespace(measure=lambda processings, batches, tick: measured(processings))
    monkeypatch.setattr(shots, "Measurer", lambda frozen: measurer)
    monkeypatch.setattr(shots, "Frozen", lambda model, task: types.SimpleNamespace(default={"right": 5}))
    monkeypatch.setattr(shots, "whole_batches", lambda *_: [None])
    monkeypatch.setattr(shots.worst_case, "searched", lambda config, fold: None)
    config = build(ForensicsConfig, run="run", by=("model",))
    return shots.analyse(config, fold, {"rows": rows} if rows else None, lambda: False)


def test_each_group_of_samples_is_scored_at_the_worst_of_each_search(monkeypatch, fold):
    """The models of the samples are A, B, A, B, A."""
    rows = [
        {"group": group, "score": score, "parameters": {"right": right}}
        for group, score, right in (("all", 0.6, 3), ("all", 0.2, 1), ("all", 0.8, 4), ("gains", 0.4, 2))
    ]
    found, third = analyse(monkeypatch, fold, rows), float(np.float32(1 / 3))
    assert found.content == {
        "score": "accuracy",
        "fields": {
            "model": {
                "rows": ["A", "B"],
                "samples": [3, 2],
                "columns": ["default", "all", "gains"],
                "scores": [[1, third, third], [1, 0, 0.5]],
            }
        },
    }
    assert set(found.figures) == {"by_model"}
    assert [line.split() for line in found.table.splitlines() if line.startswith("A")] == [
        ["A", "3", "1.0000", "0.3333", "0.3333"]
    ]


def test_without_a_search_the_default_is_scored(monkeypatch, fold):
    found = analyse(monkeypatch, fold, None).content["fields"]["model"]
    assert (found["columns"], found["scores"]) == (["default"], [[1], [1]])
