import dataclasses

import brightness
import numpy as np
import pytest
from brightness import dark_images
from matplotlib.figure import Figure
from outcomes import of_counts
from PIL import Image

from r2l_jax.data.files.shot import Shot
from r2l_jax.drift.forensics import worst_case
from r2l_jax.drift.forensics.config import WorstCaseSettings
from r2l_jax.drift.measure import packed_blocks, unpacked_blocks
from r2l_jax.drift.search.searcher import Searcher
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.results.result import Result

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


def drawn(figure):
    axes = Figure().subplots()
    figure.draw(axes)
    return axes


def analyze(fold, **changes):
    return worst_case.analyze(fold, dataclasses.replace(SETTINGS, **changes), 4, 0)


@pytest.fixture(scope="module")
def analysis(fold):
    return analyze(fold)


@pytest.mark.shows("forensics --samples")
def test_searches_see_no_sample_that_is_measured(fold):
    assert sorted(worst_case.drawn(fold, SETTINGS, 0)) == list(range(5, 10))
    few = worst_case.drawn(fold, dataclasses.replace(SETTINGS, samples=2), 0)
    assert len(few) == 2
    assert set(few) < set(range(5, 10))


def test_the_noise_layer_comes_after_the_whole_pipeline(fold):
    names = pipeline_of(worst_case.searched(fold, SETTINGS)).stage_names
    assert names == (*pipeline_of(fold.model).stage_names, "additive_layer")


@pytest.mark.shows("forensics.worst_case keys: notes")
def test_a_search_on_measured_samples_says_so(analysis):
    assert "notes" not in analysis.metadata
    same = brightness.fold(dark_images([0.2, 0.3, 0.48, 0.49], side=8), range(4), range(4))
    (note,) = analyze(same, adv_parameters=("gamma_correct",), steps=1, starts=1).metadata["notes"]
    assert note == "searched on samples that are also measured, so drops are too large for other samples"


@pytest.mark.shows(
    "forensics --steps --step_size --track_n_images --adv_track_differences", "forensics.worst_case figures: worst_{}"
)
def test_a_search_takes_steps_of_its_size_and_pictures_show_as_many_samples(fold, monkeypatch):
    """Adam's first step is the learning rate, here a fraction of the natural range of gamma, a factor of e."""
    shown, sheet = [], worst_case.contact_sheet
    monkeypatch.setattr(
        worst_case, "contact_sheet", lambda images, **size: shown.append(images) or sheet(images, **size)
    )
    settings = {"adv_parameters": ("gamma_correct",), "adv_aux_weight": (0.0,), "adv_noise_layer": False, "starts": 1}
    for step_size, steps, count in ((0.05, 1, 2), (0.02, 1, 3), (0.02, 6, 2)):
        found = analyze(fold, **settings, step_size=step_size, steps=steps, track_n_images=count)
        ((_, default, worst),) = (row for row in found.tables["values"].rows if row[0] == "gamma_correct")
        if steps == 1:
            assert abs(np.log(worst / default)) == pytest.approx(step_size, rel=1e-3)
        lines = drawn(found.figures["task_loss"]).lines
        assert len(lines[0].get_xdata()) == steps
        assert len(shown.pop()) == 3 * count
        assert "worst_gamma_correct" in found.figures
    assert "worst_gamma_correct" not in analyze(fold, **settings, steps=1, adv_track_differences=False).figures


def test_the_first_search_of_a_group_starts_at_the_default_and_others_beside_it(fold):
    """Without a step, the first search of each group ends where the model is."""
    settings = dataclasses.replace(SETTINGS, adv_parameters=("gamma_correct", "all"), adv_noise_layer=False, starts=3)
    frozen = brightness.frozen(fold.dataset)
    searches = worst_case.searches_of(frozen.pipeline(frozen.default), settings, 5)
    samples = fold.dataset.samples(np.arange(4))
    ends = Searcher(direction="worst").run(frozen, [*searches.values()], *samples, 0)
    for (group, _, start), end in zip(searches, ends, strict=True):
        for name, value in frozen.default.items():
            stays = start == 0 or (group != "all" and name != group)
            assert np.array_equal(end.parameters[name], value) == stays, (group, start, name)
    assert len({float(end.parameters["gamma_correct"]) for end in ends}) == 3


@pytest.mark.shows(
    "forensics --adv_parameters --adv_aux_weight --adv_noise_layer",
    "forensics.worst_case worst_case.csv: worst case, *, drop, loss, largest change",
    "forensics.worst_case values.csv: value, *, default",
    "forensics.worst_case keys: score, parameters, worst, verdict",
)
def test_a_row_for_each_group_and_weight(analysis, fold):
    table = analysis.tables["worst_case"]
    titles = [f"{group}, weight {weight:g}" for group in SETTINGS.adv_parameters for weight in SETTINGS.adv_aux_weight]
    assert [row[0] for row in table.rows] == titles
    numbers = {column.name: table.numbers(column.name) for column in table.columns[1:]}
    (outcomes,) = unpacked_blocks(analysis.outcomes)
    assert analysis.metadata["score"] == outcomes.score("default") == 1
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
    assert of_gamma == pytest.approx(analysis.metadata["parameters"][cheap]["gamma_correct"])
    assert of_gamma > default == of_layer
    assert not np.any(analysis.metadata["parameters"][cheap]["additive_layer"])
    assert analysis.metadata["worst"]["gamma_correct"] == cheap
    lost = max(numbers["drop"].values())
    assert analysis.metadata["verdict"] == [f"The worst processing that a search found costs {100 * lost:.3g} points."]
    raws, pipeline = fold.dataset.samples(fold.measured_indices)[0], fold.model.processor
    changed = pipeline.with_values({"gamma_correct": np.float32(of_gamma)})(raws) - pipeline(raws)
    assert numbers["largest change"][cheap] == pytest.approx(np.abs(changed).max(), rel=1e-4)
    # A heavy price keeps the default.
    assert numbers["SSIM"][cheap] < numbers["SSIM"][dear]
    for name in ("largest change", "CIEDE2000", "CIEDE2000, 95%"):
        assert numbers[name][cheap] > numbers[name][dear] >= 0
    assert numbers["CIEDE2000, 95%"][cheap] > numbers["CIEDE2000"][cheap]


def test_differences_are_bright_where_the_worst_case_brightens(fold, monkeypatch):
    """A greater gamma makes gray images brighter, and a smaller one darker."""
    shown = {}
    monkeypatch.setattr(
        worst_case, "contact_sheet", lambda pictures, **_: shown.update(pictures) or Image.new("RGB", (1, 1))
    )
    frozen, (raws, targets) = brightness.frozen(fold.dataset), fold.dataset.samples(np.arange(3))
    batch = {"raw": raws, "target": targets, "index": np.arange(3), "weight": np.ones(3)}
    light = np.array([0.2, 0.3, 0.4])
    for gamma in (2.3, 2.1):
        shown.clear()
        worst_case._differences(frozen, {**frozen.default, "gamma_correct": np.float32(gamma)}, batch)
        expected = light ** (1 / gamma) - light ** (1 / brightness.GAMMA)
        for (title, picture), difference in zip(list(shown.items())[2::3], expected, strict=True):
            factor = float(title.rpartition(" x ")[2])
            np.testing.assert_allclose(picture[2:-2, 2:-2], 0.5 + factor * difference, atol=1e-3)


@pytest.mark.shows("forensics.worst_case figures: task_loss, deviation")
def test_curves_have_the_loss_and_the_deviation_of_each_step(fold):
    """A batch has all five samples, and each step moves gamma by 0.05, of which the first is at the default."""
    fold = brightness.fold(dark_images([0.05, 0.3, 0.6, 0.48, 0.49] * 2, side=8), range(5, 10), range(5))
    settings = {"adv_parameters": ("gamma_correct",), "adv_aux_weight": (0.0,), "starts": 1, "steps": 2}
    found = worst_case.analyze(
        fold, dataclasses.replace(SETTINGS, **settings, adv_noise_layer=False, adv_aux_loss="l2"), 5, 0
    )
    light, limit = np.array([0.05, 0.3, 0.6, 0.48, 0.49]), brightness.BRIGHT ** (1 / brightness.GAMMA)
    images = [light ** (1 / gamma) for gamma in (brightness.GAMMA, brightness.GAMMA * np.exp(0.05))]
    # The logits are minus and plus the distance from the limit; all samples are dark.
    losses = [np.logaddexp(0, 2 * (each - limit)).mean() for each in images]
    away = [0, np.square(images[1] - images[0]).mean()]
    # The deviation counts the border of the images as well.
    for name, expected, error in (("task_loss", losses, 2e-3), ("deviation", away, 0.05)):
        line, *_ = drawn(found.figures[name]).lines
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=error, atol=1e-9)


@pytest.mark.shows("forensics --adv_aux_loss --starts", "forensics.worst_case worst_case.csv: range of starts")
@pytest.mark.parametrize(("aux_loss", "weight"), [("ssim", 40.0), ("l2_sum", 0.3)])
def test_a_search_knows_the_shifts_of_single_values(fold, aux_loss, weight):
    """The price keeps the first start at the default, where two of five samples are a small step from being lost."""
    settings = {"adv_parameters": ("gamma_correct",), "adv_aux_loss": aux_loss, "adv_noise_layer": False, "starts": 2}
    changes = settings | {"adv_track_differences": False, "steps": 20, "step_size": 0.01}

    def found(**others):
        result = analyze(fold, **changes | others)
        table = result.tables["worst_case"]
        return result, *(list(table.numbers(name).values()) for name in ("accuracy", "range of starts"))

    assert found(adv_aux_weight=(weight,), starts=1)[1:] == ([1], [0])
    # A thousand times the price leaves the default alone.
    result, scores, ranges = found(adv_aux_weight=(1000 * weight, weight))
    assert scores == pytest.approx([1, 0.6])
    assert ranges == pytest.approx([0, 0.4])
    # A lower weight of the distance allows a worse case, and the worst counts, though the higher weight comes first.
    worst = result.metadata["worst"]["gamma_correct"]
    assert worst == f"gamma_correct, weight {weight:g}"
    ((_, _, shown),) = (row for row in result.tables["values"].rows if row[0] == "gamma_correct")
    assert shown == pytest.approx(result.metadata["parameters"][worst]["gamma_correct"])


@pytest.mark.shows("forensics.worst_case model.csv: *, samples, default, all", "forensics.worst_case figures: model, *")
def test_each_group_of_samples_is_scored_by_the_outcomes_of_the_worst_cases():
    """Five samples of the cameras A, B, A, B, A; in another order than in the data set."""
    valid = [9, 4, 7, 2, 5]
    dataset = dataclasses.replace(brightness.dark_images([0.1] * 10), shot=lambda index: Shot(model="BA"[index % 2]))
    fold = brightness.fold(dataset, [0, 1, 3], valid)
    titles = ("default", "all, weight 1", "all, weight 10", "gains, weight 1")
    counted = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.float32)[:, None]
    outcomes = of_counts(titles, ["clean"], valid, counted)
    metadata = {"worst": {"all": "all, weight 1", "gains": "gains, weight 1"}}
    found = worst_case.by_shot(fold, ["model"], Result(metadata, outcomes=packed_blocks([outcomes])))
    table = found.tables["model"]
    assert [column.name for column in table.columns] == ["model", "samples", "default", "all", "gains"]
    assert table.rows == [["A", 3, 1, 1 / 3, 1 / 3], ["B", 2, 1, 0, 0.5]]
    axes = drawn(found.figures["model"])
    np.testing.assert_allclose(axes.images[0].get_array(), [row[2:] for row in table.rows])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A (3)", "B (2)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["default", "all", "gains"]
