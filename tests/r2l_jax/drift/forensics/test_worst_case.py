import dataclasses

import numpy as np
import pytest
from PIL import Image

from r2l_jax.drift.forensics import worst_case
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.search.measure import Measured
from r2l_jax.drift.search.searcher import Found
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.run import open_runs


@pytest.fixture(scope="module")
def fold(one_epoch):
    ((fold,),) = open_runs([str(one_epoch.run_dir)])
    return fold


CONFIG = ForensicsConfig(
    run="",
    adv_parameters=("all", "gamma_correct", "additive_layer"),
    adv_aux_weight=(0.0, 1e6),
    adv_noise_layer=True,
    adv_track_differences=True,
    steps=6,
    lr=0.03,
    batch_size=8,
    track_n_images=2,
)


@pytest.fixture(scope="module")
def analysis(fold, tmp_path_factory):
    return worst_case.analyse(CONFIG, fold, lambda: False, tmp_path_factory.mktemp("worst") / "unfinished.npz")


def test_searches_see_no_sample_that_is_measured(fold):
    assert set(worst_case.drawn(CONFIG, fold)) <= set(fold.train_indices)
    assert not set(fold.train_indices) & set(fold.valid_indices)


def test_a_row_for_each_group_and_weight(analysis):
    rows = analysis.content["rows"]
    assert [(row["group"], row["aux_weight"]) for row in rows] == [
        (group, weight) for group in CONFIG.adv_parameters for weight in CONFIG.adv_aux_weight
    ]
    for row in rows:
        assert row["drop"] == pytest.approx(analysis.content["default"]["score"] - row["score"])
        assert set(row["parameters"]) >= {"gamma_correct", "additive_layer", "debayer"}
        if row["group"] == "gamma_correct":
            assert not np.any(row["parameters"]["additive_layer"])
        assert len(row["task_loss"]) == len(row["deviation"]) == CONFIG.steps
    assert len(analysis.table.splitlines()) == 2 + len(rows)


def test_a_heavy_penalty_keeps_the_default(analysis):
    by_key = {(row["group"], row["aux_weight"]): row for row in analysis.content["rows"]}
    assert by_key["gamma_correct", 0.0]["ssim"] < by_key["gamma_correct", 1e6]["ssim"]
    assert by_key["gamma_correct", 0.0]["loss"] > analysis.content["default"]["loss"]


def test_pictures_of_default_worst_case_and_difference(analysis):
    assert set(analysis.figures) == {"curves", *CONFIG.adv_parameters}
    for group in CONFIG.adv_parameters:
        picture = analysis.figures[group]
        assert isinstance(picture, Image.Image)
        assert np.asarray(picture).std() > 0


def test_the_picture_of_a_group_shows_its_worst_case(fold, monkeypatch, tmp_path):
    """The lowest score, and of equal scores the greatest loss, wherever it stands among the weights."""
    groups = {"all": [(0.5, 1.0), (0.2, 1.0), (0.4, 9.0)], "gamma_correct": [(0.6, 1.0), (0.6, 1.0), (0.6, 2.0)]}
    measured = [Measured(loss, score, 1.0, np.zeros(0)) for rows in groups.values() for score, loss in rows]
    found = [Found({"place": np.array(place)}, np.zeros(1), np.zeros(1)) for place in range(len(measured))]
    monkeypatch.setattr(worst_case.Searcher, "run", lambda *arguments: found)
    monkeypatch.setattr(worst_case.Measurer, "measure", lambda *arguments: [measured[0], *measured])
    shown = []
    monkeypatch.setattr(worst_case, "_differences", lambda frozen, parameters, *samples: shown.append(parameters))
    config = dataclasses.replace(CONFIG, adv_parameters=tuple(groups), adv_aux_weight=(1e6, 1.0, 0.0), starts=1)
    worst_case.analyse(config, fold, lambda: False, tmp_path / "unfinished.npz")
    assert shown == [{"place": 1}, {"place": 5}]


def test_all_and_each_alone_are_searched_if_nothing_is_asked_for(fold):
    config = dataclasses.replace(CONFIG, adv_parameters=(), adv_noise_layer=False)
    plan, searches = worst_case.make_searches(config, fold.model.processor)
    names = list(fold.model.processor.parameters())
    names.remove("debayer")
    assert list(dict.fromkeys(group for group, _, _ in plan)) == ["all", *names]
    assert len(searches) == (1 + len(names)) * len(CONFIG.adv_aux_weight) * CONFIG.starts
    # The first start is the default, the others are near.
    assert {search.spread for (_, _, start), search in zip(plan, searches, strict=True) if start == 0} == {0.0}
    assert all(search.spread > 0 for (_, _, start), search in zip(plan, searches, strict=True) if start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adv_parameters": ("hue",)}, "--adv_parameters must be of all, black_level, .* got 'hue'"),
        ({"adv_noise_layer": False}, "got 'additive_layer'; give --adv_noise_layer as well"),
    ],
)
def test_refuses(fold, change, message):
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(InputError, match=message):
        worst_case.make_searches(config, worst_case.searched(config, fold).processor)
