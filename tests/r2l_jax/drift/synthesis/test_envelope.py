import dataclasses
import json

import brightness
import numpy as np
import pytest

import isp
from r2l_jax.apps.export import description
from r2l_jax.drift import limits, measure, statistics, trained_folds
from r2l_jax.drift.synthesis import envelope
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime import result
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.runtime.stop import Interrupted
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
    """The settings of an envelope with these limits."""

    def made(given, **values):
        file = tmp_path / "limits.json"
        file.write_text(json.dumps(given))
        output = str(tmp_path / "envelope")
        return build(EvaluationConfig, run=("runs/bright",), envelope=str(file), output=output, **values)

    return made


def test_limits_without_a_failure_are_stated_with_their_confidence(settings, tmp_path, capsys):
    found = envelope.run(settings({"exposure": [-0.2, 0.3], "black_level": [-5, 5]}))
    written = json.loads((tmp_path / "envelope/envelope.json").read_text())
    keys = ("draws", "failures", "confidence", "tolerance", "fraction", "holds", "samples", "about", "models")
    assert [written[key] for key in keys] == [
        59, 0, 0.95, 0.02, pytest.approx(0.05 ** (1 / 59)), True, 10, "model", [RUN.identity],
    ]  # fmt: skip
    assert written["limits"]["exposure"] | {"unit": ""} == {**limits.Limit(-0.2, 0.3)._asdict()}
    assert written["identity"].keys() >= {"settings", "data", "model", "source"}
    sentence = "With 95% confidence, the model loses at most 2 points of accuracy with at least 95% of the cameras "
    assert found.metadata["verdict"] == [sentence + "within the limits (0 of 59 cameras failed)."]
    assert {path.name for path in (tmp_path / "envelope").iterdir()} >= {"limits.svg", "worst.png", "cameras.csv"}
    printed, progress = capsys.readouterr()
    assert progress.endswith("0 of 59 cameras failed\n")
    assert "measured on 10 validation samples, best checkpoint; losses below 27.1 points are not resolved" in printed
    assert "these samples are too few for the tolerance: measure on more" in printed
    assert printed.count(sentence) == 1


def test_the_tolerance_is_in_points(settings, monkeypatch):
    """Half the light loses 4 of the 10 samples, 40 points, with every camera."""
    labels = (np.arange(12) < 6).astype(np.int32)
    run = Run([brightness.fold(brightness.images(np.where(labels, 0.6, 0.2), labels), range(2), range(2, 12))])
    monkeypatch.setattr(trained_folds, "load", lambda *_, **__: run)
    limits = {"exposure": [-1, -1]}
    tests = [envelope.run(settings(limits, tolerance=each, proposals=0)).metadata["tests"][0] for each in (39.0, 41.0)]
    assert [(each["failures"], each["tolerance"]) for each in tests] == [(59, 0.39), (0, 0.41)]


def test_a_sample_of_several_seeds_counts_once(settings, capsys, tmp_path):
    """Each of two seeds is measured on the same ten samples; what these resolve is that of ten, see above."""
    for seed in (1, 2):
        (tmp_path / f"bright/seed_{seed}/fold_0").mkdir(parents=True)
    wanted = dataclasses.replace(settings({"exposure": [-0.2, 0.3]}), run=(str(tmp_path / "bright"),))
    found = envelope.run(wanted).metadata
    assert (len(found["models"]), found["samples"], found["about"]) == (2, 10, "recipe")
    assert "measured on 10 validation samples, best checkpoint; losses below 27.1 points" in capsys.readouterr().out


def test_limits_that_fail_are_explained_and_shrunk(settings, tmp_path):
    found = envelope.run(settings({"exposure": [-1, 0.3], "defocus": [0, 1]}))
    table = found.tables["cameras"]
    exposures = np.array([row[table.columns.index(result.Column("exposure"))] for row in table.rows])
    fails = np.array([row[2] for row in table.rows])
    np.testing.assert_array_equal(fails, exposures < STOPS)
    first, *_, last = found.metadata["tests"]
    assert (first["failures"], first["holds"], last["holds"]) == (int(fails.sum()), False, True)
    assert first["fraction"] == pytest.approx(statistics.fraction_bound(int(fails.sum()), 59, 0.95))
    # The proposal keeps nearly all of what the model tolerates, and the blur, which does it no harm.
    proposed = json.loads((tmp_path / "envelope/envelope.json").read_text())["limits"]
    assert STOPS - 0.02 < proposed["exposure"]["low"] < STOPS + 0.1
    assert proposed["exposure"]["high"] > 0.2
    assert proposed["defocus"]["high"] > 0.8
    # A third of the confidence that is left for each of three proposals.
    assert last["draws"] == 80
    towards = {row[0]: row[4:6] for row in found.tables["limits"].rows}
    assert towards["exposure"][0][1] > 0.5
    assert abs(towards["defocus"][1][0]) < 0.3


def test_draws_depend_neither_on_the_batch_nor_on_their_number(settings, monkeypatch):
    given = {"exposure": [-0.5, 0.3], "row_noise": [0, 100]}
    wanted = settings(given, proposals=0)
    table = envelope.run(wanted).tables["cameras"].rows
    monkeypatch.setattr(measure, "TOGETHER", 7)
    more = envelope.run(replace(wanted, draws=70, batch_size=3)).tables["cameras"].rows
    assert more[:59] == table
    assert envelope.run(replace(wanted, seed=1)).tables["cameras"].rows != table


def test_drawing_stops_once_the_statement_cannot_be_reached(settings):
    found = envelope.run(settings({"exposure": [-1, 0.3]}, stop_early=True, proposals=0))
    (test,) = found.metadata["tests"]
    assert test["failures"] == 1
    assert test["draws"] == len(found.tables["cameras"].rows) < 10
    assert test["fraction"] == statistics.fraction_bound(0, test["draws"] - 1, 0.95)
    assert found.metadata["verdict"][-1] == "This is less than the required 95%."


@pytest.mark.parametrize(
    ("box", "said"),
    [(None, "smaller limits can be proposed"), ([[0.0], [1.0]], "proposed limits hold either")],
)
def test_the_verdict_tells_missing_proposals_from_failed_ones(settings, monkeypatch, box, said):
    monkeypatch.setattr(envelope, "_smaller", lambda *_: None if box is None else np.array(box))
    monkeypatch.setattr(envelope, "_ATTEMPTS", 0)
    found = envelope.run(settings({"exposure": [-1, 0.3]}, stop_early=True, proposals=1))
    assert found.metadata["verdict"][-1] == f"This is less than the required 95%; no {said}."


def test_a_stopped_call_says_that_it_begins_again(settings, monkeypatch):
    monkeypatch.setattr(measure.stop, "requested", lambda: True)
    with pytest.raises(Interrupted, match="the same command begins again"):
        envelope.run(settings({"exposure": [-1, 0.3]}))


def test_parameters_of_the_pipeline_are_limited_as_well(settings):
    # Gamma brightens as the light does: the threshold stands for a gamma of 2.2.
    found = envelope.run(settings({"pipeline.gamma_correct": [1.5, 2.5]}, proposals=0))
    gammas = np.array([row[3] for row in found.tables["cameras"].rows])
    lost = (brightness.BRIGHT * 2**-STOPS) ** (1 / gammas) < brightness.BRIGHT ** (1 / brightness.GAMMA)
    assert 0 < lost.sum() < 59
    np.testing.assert_array_equal([row[2] for row in found.tables["cameras"].rows], lost)


def test_a_camera_is_inside_or_not(settings, tmp_path, capsys):
    file = tmp_path / "camera.json"
    # The noise of the first camera is that of the run's, so it needs no limit.
    for level, well, words in ((0.101, 15000, "is inside"), (0.11, None, "is not inside"), (0.1, 100, "is not inside")):
        camera = isp.Camera([level] * 4, [1, 1, 1], np.eye(3), full_well=well)
        file.write_text(camera.to_json())
        envelope.run(settings({"black_level": [-20, 20]}, camera=str(file), proposals=0))
        assert f"--camera={file} {words}" in capsys.readouterr().out
    for other in ("auto", str(file)):
        file.write_text(isp.Camera([0.1], pattern="MONO").to_json())
        with pytest.raises(InputError, match=f"--camera={other} must have the color filter array of the run, RGGB"):
            envelope.run(settings({"black_level": [-20, 20]}, camera=other))


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
        ({"draws": 58}, "--draws=58 cannot show --fraction=0.95 with --confidence=0.95: that takes 59"),
        ({"fraction": 1.0}, "--fraction must be between 0 and 1, got 1.0"),
    ],
)
def test_draws_that_can_show_nothing_are_refused(settings, values, words):
    with pytest.raises(InputError, match=words):
        settings({"exposure": [-1, 0.3]}, **values)


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
