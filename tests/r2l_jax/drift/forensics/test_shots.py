import dataclasses

import brightness
import numpy as np
import pytest
from brightness import dark_images

from r2l_jax.data.files.shot import Shot
from r2l_jax.drift.forensics.config import WorstCaseSettings
from r2l_jax.drift.forensics.shots import ShotsAnalysis
from r2l_jax.drift.forensics.worst_case import WorstCaseAnalysis


@pytest.fixture(scope="module")
def fold():
    """A fold that validates on five samples, ever brighter, of two cameras; in another order than in the data set."""
    intensities, valid = np.zeros(10), [9, 4, 7, 2, 5]
    intensities[valid] = (0.1, 0.15, 0.2, 0.3, 0.4)
    dataset = dataclasses.replace(dark_images(intensities, side=8), shot=lambda index: Shot(model="BA"[index % 2]))
    return brightness.fold(dataset, [0, 1, 3], valid)


def analyze(fold, searches, done):
    analysis = ShotsAnalysis(("model",), 4, searches)
    return analysis, analysis.analyze(fold, done)


def test_each_group_of_samples_is_scored_at_the_worst_of_each_search(fold):
    """The cameras are A, B, A, B, A. A gain of 2 loses the last two samples, 4 the last four, 3 the last three."""
    parameters = {name: np.asarray(value).tolist() for name, value in brightness.frozen(fold.dataset).default.items()}
    numbers = {
        "aux_weight": 0.0,
        "drop": 0.0,
        "loss": 0.0,
        "ssim": 1.0,
        "spread": 0.0,
        "task_loss": [],
        "deviation": [],
    }
    rows = [
        {**numbers, "group": group, "score": score, "parameters": {**parameters, "white_balance": [gain] * 3}}
        for group, score, gain in (("all", 0.6, 2.0), ("all", 0.2, 4.0), ("all", 0.8, 1.4), ("gains", 0.4, 3.0))
    ]
    searches = WorstCaseAnalysis(WorstCaseSettings(samples=2), 4, 0)
    analysis, found = analyze(
        fold, searches, {"worst_case": {"score": "accuracy", "default": {"score": 1, "loss": 0}, "rows": rows}}
    )
    scores = found.content["fields"]["model"].pop("scores")
    assert found.content == {
        "score": "accuracy",
        "fields": {"model": {"rows": ["A", "B"], "samples": [3, 2], "columns": ["default", "all", "gains"]}},
    }
    np.testing.assert_allclose(scores, [[1, 1 / 3, 1 / 3], [1, 0, 0.5]], rtol=1e-6)
    assert set(found.figures) == {"by_model"}
    assert [line.split() for line in found.table.splitlines() if line.startswith("A")] == [
        ["A", "3", "1.0000", "0.3333", "0.3333"]
    ]
    # Whatever the searches depend on, these scores do.
    assert analysis.flags == {"by": ("model",), **searches.flags}
    assert list(analysis.drawn(fold)) == list(searches.drawn(fold))
    assert set(searches.drawn(fold)) < {0, 1, 3}


def test_without_a_search_the_default_is_scored(fold):
    analysis, found = analyze(fold, None, {})
    fields = found.content["fields"]["model"]
    assert (fields["columns"], fields["scores"]) == (["default"], [[1], [1]])
    assert analysis.flags == {"by": ("model",)}
