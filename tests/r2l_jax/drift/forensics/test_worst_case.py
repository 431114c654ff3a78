import dataclasses

import brightness
import matplotlib.figure
import numpy as np
import pytest
from brightness import dark_images

from r2l_jax.drift.forensics import worst_case
from r2l_jax.drift.forensics.config import WorstCaseSettings
from r2l_jax.drift.measure import Outcomes
from r2l_jax.drift.search.searcher import Found
from r2l_jax.runtime.result import Column, Result, Table

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


def analyze(fold, **changes):
    return worst_case.analyze(fold, dataclasses.replace(SETTINGS, **changes), 4, 0)


@pytest.fixture(scope="module")
def analysis(fold):
    return analyze(fold)


def test_searches_see_no_sample_that_is_measured(fold):
    assert sorted(worst_case.drawn(fold, SETTINGS, 0)) == list(range(5, 10))
    few = worst_case.drawn(fold, dataclasses.replace(SETTINGS, samples=2), 0)
    assert len(few) == 2
    assert set(few) < set(range(5, 10))


def test_a_row_for_each_group_and_weight(analysis):
    table = analysis.tables["worst_case"]
    titles = [f"{group}, weight {weight:g}" for group in SETTINGS.adv_parameters for weight in SETTINGS.adv_aux_weight]
    assert [row[0] for row in table.rows] == titles
    numbers = {column.name: table.numbers(column.name) for column in table.columns[1:]}
    outcomes = Outcomes.unpacked(analysis.outcomes)
    assert analysis.facts["score"] == outcomes.score("default") == 1
    for title in titles:
        score = numbers["accuracy"][title]
        assert outcomes.score(title) == score == pytest.approx(1 - numbers["drop"][title])
        assert outcomes.loss_of(title) == numbers["loss"][title]
    # From the farthest point of the sweep, gamma lifts all but 0.2 over the threshold.
    cheap, dear = "gamma_correct, weight 0", "gamma_correct, weight 1e+06"
    assert numbers["accuracy"][cheap] == pytest.approx(0.2)
    assert numbers["loss"][cheap] > outcomes.loss_of("default")
    values = {row[0]: row[1:] for row in analysis.tables["values"].rows}
    default, _, of_gamma, of_layer = values["gamma_correct"]
    assert of_gamma == pytest.approx(analysis.facts["parameters"][cheap]["gamma_correct"])
    assert of_gamma > default == of_layer
    assert not np.any(analysis.facts["parameters"][cheap]["additive_layer"])
    # A heavy price keeps the default.
    assert numbers["SSIM"][cheap] < numbers["SSIM"][dear]
    for name in ("largest change", "CIEDE2000", "CIEDE2000, 95%"):
        assert numbers[name][cheap] > numbers[name][dear] >= 0
    assert numbers["CIEDE2000, 95%"][cheap] > numbers["CIEDE2000"][cheap]


def test_the_curves_and_pictures_are_those_of_all_searches_and_groups(analysis):
    pictures = [f"worst_{group}" for group in SETTINGS.adv_parameters]
    assert list(analysis.figures) == ["task_loss", "deviation", *pictures]
    assert all(np.asarray(analysis.figures[name]).std() > 0 for name in pictures)
    axes = matplotlib.figure.Figure().subplots()
    analysis.figures["task_loss"].draw(axes)
    assert [len(line.get_xdata()) for line in axes.lines] == [SETTINGS.steps] * 12 + [0] * 3


def test_the_worst_of_the_starts_counts_and_is_shown(fold, monkeypatch):
    """The lowest score, and of equal scores the greatest loss, wherever it stands among the weights."""
    groups = {"all": [(0.5, 1.0), (0.2, 1.0), (0.4, 9.0), (0.4, 2.0)], "gamma_correct": [(0.6, 1.0)] * 3 + [(0.6, 2.0)]}
    scores, losses = zip((1.0, 0.0), *(each for rows in groups.values() for each in rows), strict=True)
    default = brightness.frozen(fold.dataset).default
    found = [
        Found(default | {"gamma_correct": np.array(place)}, np.zeros(1), np.zeros(1))
        for place in range(len(scores) - 1)
    ]

    def measured(models, *_, title):
        counted = np.array([[[score] * 5] for score in scores])
        return Outcomes(
            tuple(models), ("own",), np.arange(5), counted, np.ones_like(counted), np.array(losses)[:, None]
        )

    monkeypatch.setattr(worst_case, "_swept", lambda *arguments: {})
    monkeypatch.setattr(worst_case.Searcher, "run", lambda *arguments: found)
    monkeypatch.setattr(worst_case, "measure", measured)
    shown = []
    monkeypatch.setattr(
        worst_case, "_differences", lambda frozen, parameters, *samples: shown.append(int(parameters["gamma_correct"]))
    )
    chosen = analyze(fold, adv_parameters=tuple(groups), adv_aux_weight=(1e6, 1.0), adv_noise_layer=False)
    places = {title: int(values["gamma_correct"]) for title, values in chosen.facts["parameters"].items()}
    worst = {"all": "all, weight 1e+06", "gamma_correct": "gamma_correct, weight 1"}
    assert places == {worst["all"]: 1, "all, weight 1": 2, "gamma_correct, weight 1e+06": 4, worst["gamma_correct"]: 7}
    assert list(chosen.tables["worst_case"].numbers("range of starts").values()) == pytest.approx([0.3, 0, 0, 0])
    assert chosen.facts["worst"] == worst
    assert shown == [1, 7]
    assert chosen.facts["verdict"] == ["The worst processing that a search found costs 80.0 points."]


@pytest.mark.parametrize(("aux_loss", "weight"), [("ssim", 40.0), ("l2_sum", 0.3)])
def test_a_search_knows_the_shifts_of_single_values(fold, aux_loss, weight):
    """The price keeps the first start at the default, where two of five samples are a small step from being lost."""
    settings = {"adv_parameters": ("gamma_correct",), "adv_aux_loss": aux_loss, "adv_noise_layer": False, "starts": 2}
    changes = settings | {"adv_track_differences": False, "steps": 20, "step_size": 0.01}

    def found(**others):
        return list(analyze(fold, **changes | others).tables["worst_case"].numbers("accuracy").values())

    assert found(adv_aux_weight=(weight,), starts=1) == [1]
    # A thousand times the price leaves the default alone.
    assert found(adv_aux_weight=(weight, 1000 * weight)) == pytest.approx([0.6, 1])


def test_all_and_each_alone_are_searched_if_nothing_is_asked_for(fold):
    settings = dataclasses.replace(SETTINGS, adv_parameters=(), adv_noise_layer=False, starts=3)
    searches = worst_case.searches_of(fold.model.processor, settings, 0)
    names = ["black_level", "white_balance", "colour_correction", "gamma_correct"]
    assert list(dict.fromkeys(group for group, _, _ in searches)) == ["all", *names]
    assert len(searches) == 5 * 2 * 3
    for (group, weight, start), search in searches.items():
        assert set(search.group) == ({*names} if group == "all" else {group})
        assert (search.aux_weight, search.seed) == (weight, start)
        # The first start is the default, the others are near.
        assert (search.spread > 0) == (start > 0)


def test_the_verdict_is_about_the_black_level_if_it_was_searched():
    def result(drop):
        columns = [Column("worst case"), Column("accuracy"), Column("drop")]
        table = Table("", columns, [["all, weight 1", 0.0, 0.9], ["black_level, weight 1", 0.0, drop]])
        worst = {"all": "all, weight 1", "black_level": "black_level, weight 1"}
        return Result({"worst": worst}, {"worst_case": table})

    assert worst_case.verdict([result(each) for each in (0.1, 0.68, 0.25)]) == [
        "The worst black level that a search found costs 10.0 to 68.0 points in 3 trainings, 25.0 points in the median."
    ]
