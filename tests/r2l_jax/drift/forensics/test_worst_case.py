import dataclasses

import brightness
import numpy as np
import pytest
from brightness import dark_images

from r2l_jax.drift.forensics import worst_case
from r2l_jax.drift.forensics.config import WorstCaseSettings
from r2l_jax.drift.forensics.worst_case import WorstCaseAnalysis
from r2l_jax.drift.search.measure import Measured
from r2l_jax.drift.search.searcher import Found

SETTINGS = WorstCaseSettings(
    adv_parameters=("all", "gamma_correct", "additive_layer"),
    adv_aux_weight=(0.0, 1e6),
    adv_noise_layer=True,
    adv_track_differences=True,
    steps=4,
    step_size=0.05,
    samples=5,
    track_n_images=2,
)


@pytest.fixture(scope="module")
def fold():
    """A model of which some validation samples are near its limit: brighter, they are lost."""
    return brightness.fold(dark_images([0.2, 0.3, 0.4, 0.48, 0.49] * 2, side=8), range(5, 10), [4, 3, 2, 1, 0])


def make(**changes):
    return WorstCaseAnalysis(dataclasses.replace(SETTINGS, **changes), batch_size=4, seed=0)


@pytest.fixture(scope="module")
def analysis(fold, tmp_path_factory):
    return make().analyze(fold, {})


def test_searches_see_no_sample_that_is_measured(fold):
    assert sorted(make().drawn(fold)) == list(range(5, 10))
    few = make(samples=2).drawn(fold)
    assert len(few) == 2
    assert set(few) < set(range(5, 10))


def test_a_row_for_each_group_and_weight(analysis):
    rows = analysis.content["rows"]
    assert [(row["group"], row["aux_weight"]) for row in rows] == [
        (group, weight) for group in SETTINGS.adv_parameters for weight in SETTINGS.adv_aux_weight
    ]
    assert analysis.content["default"]["score"] == 1
    for row in rows:
        assert row["drop"] == pytest.approx(1 - row["score"])
        assert len(row["task_loss"]) == len(row["deviation"]) == SETTINGS.steps
    # From the farthest point of the sweep, gamma lifts all but 0.2 over the threshold.
    cheap, dear = (row for row in rows if row["group"] == "gamma_correct")
    assert cheap["score"] == pytest.approx(0.2)
    assert cheap["loss"] > analysis.content["default"]["loss"]
    assert cheap["parameters"]["gamma_correct"] > brightness.GAMMA
    assert not np.any(cheap["parameters"]["additive_layer"])
    # A heavy price keeps the default.
    assert cheap["ssim"] < dear["ssim"]
    for name in ("change", "color", "color_95"):
        assert cheap[name] > dear[name] >= 0
    assert cheap["color_95"] > cheap["color"]
    *table, explained = analysis.table.splitlines()
    assert len(table) == 2 + len(rows)
    assert explained.startswith("range of starts: ")
    assert explained.split(":")[0] in table[0]
    assert set(analysis.figures) == {"curves", *SETTINGS.adv_parameters}
    assert all(np.asarray(analysis.figures[group]).std() > 0 for group in SETTINGS.adv_parameters)


def test_the_worst_of_the_starts_counts_and_is_shown(fold, monkeypatch):
    """The lowest score, and of equal scores the greatest loss, wherever it stands among the weights."""
    groups = {"all": [(0.5, 1.0), (0.2, 1.0), (0.4, 9.0), (0.4, 2.0)], "gamma_correct": [(0.6, 1.0)] * 3 + [(0.6, 2.0)]}
    measured = [Measured(loss, score, 1.0, np.zeros(0)) for rows in groups.values() for score, loss in rows]
    found = [Found({"place": np.array(place)}, np.zeros(1), np.zeros(1)) for place in range(len(measured))]
    monkeypatch.setattr(WorstCaseAnalysis, "sweep", lambda *arguments: [])
    monkeypatch.setattr(worst_case.Searcher, "run", lambda *arguments: found)
    monkeypatch.setattr(worst_case.Measurer, "measure_samples", lambda *arguments: [measured[0], *measured])
    shown = []
    monkeypatch.setattr(worst_case, "_differences", lambda frozen, parameters, *samples: shown.append(parameters))
    chosen = make(adv_parameters=tuple(groups), adv_aux_weight=(1e6, 1.0)).analyze(fold, {})
    rows = [(row["group"], row["aux_weight"], row["parameters"]["place"]) for row in chosen.content["rows"]]
    assert rows == [("all", 1e6, 1), ("all", 1.0, 2), ("gamma_correct", 1e6, 4), ("gamma_correct", 1.0, 7)]
    assert [row["spread"] for row in chosen.content["rows"]] == pytest.approx([0.3, 0, 0, 0])
    assert shown == [{"place": 1}, {"place": 7}]


@pytest.mark.parametrize(("aux_loss", "weight"), [("ssim", 40.0), ("l2_sum", 0.3)])
def test_a_search_knows_the_shifts_of_single_values(fold, aux_loss, weight):
    """The price keeps the first start at the default, where two of five samples are a small step from being lost."""
    settings = {"adv_parameters": ("gamma_correct",), "adv_aux_loss": aux_loss, "adv_noise_layer": False, "starts": 2}
    changes = settings | {"adv_track_differences": False, "steps": 20, "step_size": 0.01}

    def found(**others):
        rows = make(**changes | others).analyze(fold, {}).content["rows"]
        return [row["score"] for row in rows]

    assert found(adv_aux_weight=(weight,), starts=1) == [1]
    # A thousand times the price leaves the default alone.
    assert found(adv_aux_weight=(weight, 1000 * weight)) == pytest.approx([0.6, 1])


def test_all_and_each_alone_are_searched_if_nothing_is_asked_for(fold):
    searches = make(adv_parameters=(), adv_noise_layer=False, starts=3).searches(fold.model.processor)
    names = ["black_level", "white_balance", "colour_correction", "gamma_correct"]
    assert list(dict.fromkeys(group for group, _, _ in searches)) == ["all", *names]
    assert len(searches) == 5 * 2 * 3
    for (group, weight, start), search in searches.items():
        assert set(search.group) == ({*names} if group == "all" else {group})
        assert (search.aux_weight, search.seed) == (weight, start)
        # The first start is the default, the others are near.
        assert (search.spread > 0) == (start > 0)
