import dataclasses
import json

import brightness
import envelope_errors
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from variants import quick

import isp
from r2l_jax.apps.export import description
from r2l_jax.cli.flags import build, replace
from r2l_jax.cli.progress import hidden
from r2l_jax.cli.stop import Interrupted
from r2l_jax.drift import limits, measure, statistics, trained_folds
from r2l_jax.drift.synthesis import envelope
from r2l_jax.drift.synthesis.config import EnvelopeSettings, EvaluationConfig
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.training.run import Run

# All samples are bright by a quarter of a stop, so that less light loses all of them.
STOPS = -0.25
DATASET = brightness.images(np.full(12, brightness.BRIGHT * 2**-STOPS), np.ones(12, np.int32))
RUN = Run([brightness.fold(DATASET, range(2), range(2, 12))])


@pytest.fixture(autouse=True)
def run(monkeypatch):
    monkeypatch.setattr(trained_folds, "load", lambda *_, **__: RUN)


@pytest.fixture
def settings(tmp_path):
    """The settings of an envelope with these limits, and a tolerance that ten samples can show."""

    def made(given, **values):
        file = tmp_path / "limits.json"
        file.write_text(json.dumps(given))
        about = {"envelope": str(file), "output": str(tmp_path / "envelope"), "tolerance": 50.0}
        return build(EvaluationConfig, run=("runs/bright",), **about | values)

    return made


def of_tests(found):
    return found.tables["tests"].records()


@pytest.mark.shows(
    "evaluate --envelope",
    "synthesis.envelope keys: about, flags, groups, identity, measured, models",
    "synthesis.envelope keys: notes, samples, score, tests, title, training, verdict",
    "synthesis.envelope cameras.csv: *, camera, loss, upper limit",
    "synthesis.envelope limits.csv: high, limit, low, unit",
)
def test_limits_without_a_failure_are_stated_with_their_confidence(settings, tmp_path, capsys):
    found = envelope.run(settings({"exposure": [-0.2, 0.3], "black_level": [-5, 5]}))
    written = json.loads((tmp_path / "envelope/envelope.json").read_text())
    keys = ("draws", "failures", "confidence", "tolerance", "fraction", "holds", "samples", "about", "models")
    assert [written[key] for key in keys] == [
        104, 0, 0.95, 0.5, pytest.approx(0.005 ** (1 / 104)), True, 10, "model", [RUN.identity],
    ]  # fmt: skip
    assert written["limits"]["exposure"] | {"unit": ""} == {**limits.Limit(-0.2, 0.3)._asdict()}
    assert written["identity"].keys() >= {"settings", "data", "model", "source"}
    sentence = "With 95% confidence for images, cameras and proposals together, the model loses at most 50 points of "
    sentence += "accuracy on images like these 10 validation samples with at least 95% of the cameras within the "
    sentence += "limits, simulated on these images (0 of 104 cameras failed): "
    given = "exposure -0.2 to 0.3 stops, black_level -5 to 5 digital numbers of 12 bits."
    assert found.metadata["verdict"] == [sentence + given]
    assert {path.name for path in (tmp_path / "envelope").iterdir()} >= {"limits.svg", "worst.png", "cameras.csv"}
    printed, progress = capsys.readouterr()
    assert progress.endswith("0 of 104 cameras failed\n")
    above = 100 * stats.t.isf(0.04, 9) ** 2 / 10
    assert "upper 96% confidence limit of its loss exceeds 50 points" in printed
    assert f"limits are {above:.1f} points above losses (median)" in printed
    parts = "4% for the images, 0.5% for the cameras within the given limits, 0.5% for those within all proposals"
    assert f"error of the whole procedure: {parts}" in printed
    assert printed.count(sentence) == 1
    cameras = found.tables["cameras"].records()
    assert [row["camera"] for row in cameras] == [f"{number}" for number in range(104)]
    assert {(row["loss"], row["fails"]) for row in cameras} == {(0.0, False)}
    assert [row["upper limit"] for row in cameras] == pytest.approx([above / 100] * 104)
    assert all(-0.2 <= row["exposure"] <= 0.3 and -5 <= row["black_level"] <= 5 for row in cameras)
    rows = [[row[name] for name in ("limit", "unit", "low", "high")] for row in found.tables["limits"].records()]
    assert rows == [["exposure", "stops", -0.2, 0.3], ["black_level", "digital numbers of 12 bits", -5, 5]]
    about = found.metadata
    assert (about["title"], about["score"], about["measured"]) == (
        "Operating envelope",
        "accuracy",
        "validation samples",
    )
    assert (about["samples"], about["groups"], about["about"], about["models"]) == (10, 10, "model", [RUN.identity])
    assert about["training"] == {"fold_0": RUN.folds[0].training}
    assert (about["flags"]["tolerance"], about["identity"]) == (50, written["identity"])
    assert about["tests"] == [{name: written[name] for name in about["tests"][0]}]
    assert about["notes"][0] == "measured on 10 validation samples, best checkpoint"


def test_groups_are_stated_and_too_few_of_them_refused(settings, monkeypatch):
    for samples in (24, 12):
        images = brightness.images(np.full(samples, brightness.BRIGHT * 2**-STOPS), np.ones(samples, np.int32))
        two_of_each = dataclasses.replace(images, groups=np.arange(samples) // 2)
        run = Run([brightness.fold(two_of_each, range(4), range(4, samples))])
        monkeypatch.setattr(trained_folds, "load", lambda *_, run=run, **__: run)
        wanted = settings({"exposure": [-0.2, 0.3]}, proposals=0)
        if samples == 24:
            assert "these 20 validation samples of 10 groups with" in envelope.run(wanted).metadata["verdict"][0]
            continue
        assert stats.t.isf(0.04, 7) ** 2 / 8 > 0.5 > stats.t.isf(0.04, 8) ** 2 / 9
        with pytest.raises(InputError, match=r"=50` takes at least 9 groups, .* 4 validation groups show a loss of at"):
            envelope.run(wanted)


@pytest.mark.shows("evaluate --tolerance")
def test_the_tolerance_is_in_points(settings, monkeypatch):
    """Half the light loses 4 of the 10 samples with every camera: at most 95.6 points, see the score interval."""
    labels = (np.arange(12) < 6).astype(np.int32)
    run = Run([brightness.fold(brightness.images(np.where(labels, 0.6, 0.2), labels), range(2), range(2, 12))])
    monkeypatch.setattr(trained_folds, "load", lambda *_, **__: run)
    limits = {"exposure": [-1, -1]}
    tests = [envelope.run(settings(limits, tolerance=each, proposals=0)).metadata["tests"][0] for each in (95.0, 96.0)]
    assert [(each["failures"], each["tolerance"]) for each in tests] == [(90, 0.95), (0, 0.96)]


@pytest.mark.shows("evaluate --confidence")
def test_less_confidence_takes_fewer_cameras(settings):
    """An error of 10% is divided: 8% for the images, 1% for the given limits, and the rest for proposals."""
    (found,) = envelope.run(settings({"exposure": [-0.2, 0.3]}, confidence=0.9)).metadata["tests"]
    assert 0.95**89 > 0.01 > 0.95**90
    assert (found["draws"], found["confidence"], found["fraction"]) == (90, 0.9, pytest.approx(0.01 ** (1 / 90)))


def test_a_sample_of_several_seeds_counts_once(settings, capsys, tmp_path):
    """Each of two seeds is measured on the same ten samples."""
    for seed in (1, 2):
        (tmp_path / f"bright/seed_{seed}/fold_0").mkdir(parents=True)
    wanted = dataclasses.replace(settings({"exposure": [-0.2, 0.3]}), run=(str(tmp_path / "bright"),))
    with hidden():
        found = envelope.run(wanted).metadata
    assert (len(found["models"]), found["samples"], found["about"]) == (2, 10, "recipe")
    printed, progress = capsys.readouterr()
    assert "measured on 10 validation samples, best checkpoint" in printed
    assert progress == ""


@pytest.mark.shows(
    "synthesis.envelope cameras.csv: fails",
    "synthesis.envelope limits.csv: proposed {}, rank correlation,{}",
    "synthesis.envelope tests.csv: cameras, failures, fraction at least, limits",
    "synthesis.envelope figures: limits, worst",
)
def test_limits_that_fail_are_explained_and_shrunk(settings, tmp_path, monkeypatch):
    pictures, sheet = {}, envelope.contact_sheet
    monkeypatch.setattr(
        envelope, "contact_sheet", lambda images, **size: pictures.update(images) or sheet(images, **size)
    )
    drawings, figure = [], envelope.Figure
    monkeypatch.setattr(envelope, "Figure", lambda draw, *how: drawings.append(draw) or figure(draw, *how))
    found = envelope.run(settings({"exposure": [-1, 0.3], "defocus": [0, 1]}))
    table = found.tables["cameras"]
    exposures = np.array([row[table.columns.index(result.Column("exposure"))] for row in table.rows])
    fails = np.array([row[2] for row in table.rows])
    # Blur rounds the light of a camera that is as close to the threshold as this.
    np.testing.assert_array_equal((fails != (exposures < STOPS)) & (np.abs(exposures - STOPS) > 0.001), False)
    lost = np.array([row[1] for row in table.rows])[np.abs(exposures - STOPS) > 0.001]
    np.testing.assert_array_equal(lost, fails[np.abs(exposures - STOPS) > 0.001])
    # Four images as they are, and with the first of the cameras that lose most.
    assert [title.strip() for title in pictures] == ["reference"] * 4 + [
        f"camera {fails.argmax()} loses 100 points"
    ] * 4
    light = brightness.BRIGHT * 2 ** (-STOPS + np.array([0, exposures[fails.argmax()]]))
    means = np.reshape([each[1:-1, 1:-1].mean() for each in pictures.values()], (2, 4))
    np.testing.assert_allclose(means, np.repeat(light[:, None], 4, 1) ** (1 / brightness.GAMMA), atol=0.01)
    first, *_, last = found.metadata["tests"]
    assert (first["failures"], first["holds"], last["holds"]) == (int(fails.sum()), False, True)
    # As many failures or fewer among 104 cameras have a probability of 0.5% if the fraction is this one.
    assert stats.binom.cdf(fails.sum(), 104, 1 - first["fraction"]) == pytest.approx(0.005)
    assert first["loss_shown"] == max(row[3] for row in table.rows) > 1
    # The proposal keeps nearly all of what the model tolerates, and the blur, which does it no harm.
    proposed = json.loads((tmp_path / "envelope/envelope.json").read_text())["limits"]
    assert STOPS - 0.02 < proposed["exposure"]["low"] < STOPS + 0.1
    assert proposed["exposure"]["high"] > 0.2
    assert proposed["defocus"]["high"] > 0.8
    # Each of three proposals has a third of 0.5% of the error.
    assert last["draws"] == 125
    assert 0.95**124 > 0.005 / 3 > 0.95**125
    counted = [[row[name] for name in ("cameras", "failures", "fraction at least")] for row in of_tests(found)]
    assert counted == [[each["draws"], each["failures"], each["fraction"]] for each in found.metadata["tests"]]
    assert [row["limits"] for row in of_tests(found)] == ["given", *(f"proposal {n}" for n in range(1, len(counted)))]
    for name, *_, low, high in found.tables["limits"].rows:
        assert (low, high) == (proposed[name]["low"], proposed[name]["high"])
    axes = Figure().subplots()
    drawings[0](axes)
    passing, failing, *_ = (line.get_xdata() for line in axes.lines)
    # Exposures from -1 to 0.3 stops are drawn from 0 to 1.
    np.testing.assert_allclose(failing, (exposures[fails] + 1) / 1.3)
    np.testing.assert_allclose(passing, (exposures[~fails] + 1) / 1.3)
    towards = {row[0]: row[4:6] for row in found.tables["limits"].rows}
    below = stats.spearmanr(np.maximum(-exposures, 0), [row[1] for row in table.rows]).statistic
    half = 1.959964 * np.sqrt(1.06 / (len(exposures) - 3))
    ends = np.tanh([np.arctanh(below) - half, np.arctanh(below) + half])
    assert towards["exposure"][0] == pytest.approx((below, *ends))
    assert towards["exposure"][0][1] > 0.5
    assert abs(towards["defocus"][1][0]) < 0.3


@pytest.mark.shows("evaluate --draws --proposals")
def test_draws_depend_neither_on_the_batch_nor_on_their_number(settings, monkeypatch):
    given = {"exposure": [-0.5, 0.3], "row_noise": [0, 100]}
    wanted = settings(given, proposals=0)
    table = envelope.run(wanted).tables["cameras"].rows
    monkeypatch.setattr(measure, "TOGETHER", 7)
    more = envelope.run(replace(wanted, draws=110, batch_size=3)).tables["cameras"].rows
    assert (len(more), more[:90]) == (110, table)
    assert envelope.run(replace(wanted, seed=1)).tables["cameras"].rows != table


@pytest.mark.shows("evaluate --stop_early --fraction")
@pytest.mark.parametrize(("values", "failures"), [({}, 1), ({"draws": 40, "fraction": 0.8}, 3)])
def test_a_stop_at_a_failure_has_its_exact_bound(settings, tmp_path, values, failures):
    """If this were the fraction, so late a stop, or a later one, would have a probability of the error, which is 1%."""
    given = settings({"exposure": [-0.35, 0.3]}, stop_early=True, proposals=0, **values)
    found = envelope.run(given)
    written = json.loads((tmp_path / "envelope/envelope.json").read_text())
    rows = found.tables["cameras"].rows
    assert written["failures"] == failures == sum(row[2] for row in rows)
    assert rows[-1][2]
    assert written["draws"] == len(rows) < 40
    late = stats.binom.cdf(failures - 1, len(rows) - 1, 1 - written["fraction"])
    assert late == pytest.approx(0.01)
    said, ending = found.metadata["verdict"]
    assert (
        f"at most 50 points of accuracy on images like these 10 validation samples with at least "
        f"{limits.percent(written['fraction'])} of the cameras" in said
    )
    assert ending == f"This is less than the required {100 * given.limits.fraction:g}%."


@pytest.mark.parametrize(
    ("box", "said"), [(None, "smaller limits can be proposed"), ([[0.0], [1.0]], "proposed limits hold either")]
)
def test_the_verdict_tells_missing_proposals_from_failed_ones(settings, monkeypatch, box, said):
    monkeypatch.setattr(envelope, "_smaller", lambda *_: None if box is None else np.array(box))
    monkeypatch.setattr(envelope, "_ATTEMPTS", 0)
    found = envelope.run(settings({"exposure": [-1, 0.3]}, stop_early=True, proposals=1))
    assert found.metadata["verdict"][-1] == f"This is less than the required 95%; no {said}."


def test_cameras_of_a_proposal_are_others_than_those_of_the_first_test(monkeypatch):
    """Even if a proposal has the limits of the first test, it draws other cameras."""
    monkeypatch.setattr(envelope, "_smaller", lambda *_: np.array([[0.0], [1.0]]))
    model = envelope_errors.Simulated(envelope_errors.BAD["edge"], 200, EnvelopeSettings(envelope="simulated"), 0)
    drawn, lost = {}, model._lost
    monkeypatch.setattr(
        model, "_lost", lambda shares, names: drawn.update(zip(names, shares, strict=True)) or lost(shares, names)
    )
    model.tested()
    tested = {name: share.item() for name, share in drawn.items() if not name.startswith("camera 100")}
    assert len(tested) == 104 + 3 * 125
    assert len({*tested.values()}) == len(tested)


@pytest.mark.parametrize("images", quick(1, [240, 60, 480]))
@pytest.mark.parametrize("stop_early", [False, True])
def test_models_that_tolerate_67_percent_of_cameras_are_hardly_ever_certified(images, stop_early):
    """Two points are more than 60 images can show."""
    settings = EnvelopeSettings(
        envelope="simulated", tolerance=2.0 if images > 60 else 7.0, proposals=0, stop_early=stop_early
    )
    for kind in envelope_errors.BAD.values():
        assert envelope_errors.simulated(kind, images, settings, 100)["certified"] <= 5


def test_good_models_are_certified_if_images_are_enough():
    settings = EnvelopeSettings(envelope="simulated", tolerance=5.0, proposals=0)
    found = [envelope_errors.simulated(kind, 480, settings, 20) for kind in envelope_errors.GOOD.values()]
    assert [each["certified"] > 80 for each in found] == [True, True, False]
    assert [each["loss_shown"] < 5 for each in found] == [True] * 3
    assert {each["wrong"] for each in found} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "slope"])
def test_proposals_of_bad_models_are_hardly_ever_wrong(kind):
    found = envelope_errors.simulated(envelope_errors.BAD[kind], 480, EnvelopeSettings(envelope="x", tolerance=5.0), 20)
    assert found["wrong"] <= 5


def test_a_stopped_call_says_that_it_begins_again(settings, monkeypatch):
    monkeypatch.setattr(measure.stop, "requested", lambda: True)
    with pytest.raises(Interrupted, match="the same call begins again"):
        envelope.run(settings({"exposure": [-1, 0.3]}))


def test_parameters_of_the_pipeline_are_limited_as_well(settings):
    # Gamma brightens as the light does: the threshold stands for a gamma of 2.2.
    found = envelope.run(settings({"pipeline.gamma_correct": [1.5, 2.5]}, proposals=0))
    gammas = np.array([row[4] for row in found.tables["cameras"].rows])
    lost = (brightness.BRIGHT * 2**-STOPS) ** (1 / gammas) < brightness.BRIGHT ** (1 / brightness.GAMMA)
    assert 0 < lost.sum() < 90
    np.testing.assert_array_equal([row[2] for row in found.tables["cameras"].rows], lost)


def test_a_camera_is_inside_or_not(settings, tmp_path, capsys):
    file = tmp_path / "camera.json"
    # The noise of the first camera is that of the run's, so it needs no limit.
    for level, well, words in ((0.101, 15000, "is inside"), (0.11, None, "is not inside"), (0.1, 100, "is not inside")):
        camera = isp.Camera([level] * 4, [1, 1, 1], np.eye(3), full_well=well)
        file.write_text(camera.to_json())
        envelope.run(settings({"black_level": [-20, 20]}, cameras=(str(file),), proposals=0))
        assert f"camera=camera {words}" in capsys.readouterr().out
    file.write_text(isp.Camera([0.1], pattern="MONO").to_json())
    with pytest.raises(InputError, match="`cameras=camera` must have the pattern RGGB, got MONO"):
        envelope.run(settings({"black_level": [-20, 20]}, cameras=(str(file),)))


def test_an_exported_model_carries_the_statement_along(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The run's folder is `run`.
    assert "envelope" not in description.described(RUN, {})
    envelope.run(replace(settings({"exposure": [-0.2, 0.3]}), output="run/envelope"))
    assert description.described(RUN, {})["envelope"]["fraction"] > 0.95
    # The statement about another model does not count.
    file = tmp_path / "run/envelope/envelope.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "models": ["another"]}))
    assert limits.stated(RUN) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"draws": 103}, "`draws=103` cannot show `fraction=0.95` with `confidence=0.95`: that takes 104"),
        ({"draws": 89, "proposals": 0}, "that takes 90 even if no camera fails"),
        ({"fraction": 1.0}, "`fraction` must be above 0 and below 1, got 1.0"),
    ],
)
def test_draws_that_can_show_nothing_are_refused(settings, values, words):
    with pytest.raises(InputError, match=words):
        settings({"exposure": [-1, 0.3]}, **values)


@pytest.mark.parametrize(("least", "said"), [(0.0312, "3.2"), (31.3, "100")])
def test_too_few_samples_for_a_tolerance_are_refused_with_what_they_show(settings, monkeypatch, least, said):
    monkeypatch.setattr(statistics, "upper_limit", lambda *_: least)
    with pytest.raises(InputError, match=rf"^`tolerance=0\.01` takes .* show a loss of at most {said} points at best$"):
        envelope.run(settings({"exposure": [-1, 0.3]}, tolerance=0.01))


def test_exact_bounds():
    """The numbers of draws for 95% with 95% confidence are those of tables of tolerance limits."""
    for failures, draws in ((0, 59), (1, 93), (2, 124)):
        assert (
            statistics.fraction_bound(failures, draws, 0.95)
            >= 0.95
            > statistics.fraction_bound(failures, draws - 1, 0.95)
        )
        assert statistics.most_failures(draws, 0.95, 0.95) == failures
    assert statistics.most_failures(58, 0.95, 0.95) == -1
    assert statistics.fraction_bound(3, 3, 0.95) == 0


@pytest.mark.parametrize("failing", [0, 0.02, 0.05, 0.08, 0.2])
@pytest.mark.parametrize("stop_early", [False, True])
def test_the_statement_is_wrong_in_at_most_one_of_twenty_cases(failing, stop_early):
    wrong, repetitions, draws = 0, 2000, 93
    allowed = statistics.most_failures(draws, 0.95, 0.95)
    for fails in np.random.default_rng(0).random((repetitions, draws)) < failing:
        beyond = np.flatnonzero(np.cumsum(fails) > allowed) if stop_early else []
        drawn = fails[: beyond[0] + 1] if len(beyond) else fails
        bound = statistics.fraction_bound(int(drawn.sum()), len(drawn), 0.95, len(beyond) > 0)
        wrong += bound > 1 - failing + 1e-12
    # Three standard deviations of 2,000 repetitions above 5%.
    assert wrong / repetitions <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
