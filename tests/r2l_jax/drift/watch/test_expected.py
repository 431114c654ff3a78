import dataclasses
import itertools

import numpy as np
import pytest

import isp
from r2l_jax.drift.results import Knob, Tolerances
from r2l_jax.drift.watch import expected
from r2l_jax.drift.watch.expected import score_of, tempered, thresholded, transported
from r2l_jax.drift.watch.reference import Reference
from r2l_jax.drift.watch.results import Cause
from r2l_jax.drift.watch.statistics import Seen
from r2l_jax.drift.watch.tolerated import tolerated
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.run import Run

CAMERA = isp.Camera((0.0,) * 4, (1.0, 1.0, 1.0), ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)), "RGGB")


def cause(name, value, half=0.0, evidence=9.0):
    return Cause(name, value, value - half, value + half, "", evidence)


class Bright(Run):
    """A model of one camera that takes a mosaic for bright if its mean is above 0.3, more surely the farther it is."""

    camera, task = CAMERA, make_task("classification", ("dark", "bright"), NetworkSettings())

    def __init__(self, gain=1.0, refusal=""):
        self.gain, self.refusal = gain, refusal

    def predict(self, raws):
        bright = 1 / (1 + np.exp(-40 * (self.gain * np.asarray(raws).mean((1, 2)) - 0.3)))
        return np.stack([1 - bright, bright], 1).astype(np.float32)

    def mended(self, raws):
        if self.refusal:
            raise InputError(self.refusal)
        return Bright(self.gain * 2)


@pytest.fixture
def reference():
    """Forty mosaics, half of them dark and half bright."""
    rng = np.random.default_rng(0)
    levels = np.repeat([0.2, 0.45], 20) + rng.uniform(-0.03, 0.03, 40)
    mosaics = np.round(65535 * levels[:, None, None] * np.ones((1, 8, 8))).astype(np.uint16)
    targets, none = np.repeat(np.int32([0, 1]), 20), np.zeros((40, 0), np.float32)
    probabilities = Bright().predict(mosaics / np.float32(65535))
    return Reference(mosaics, targets, targets, "test", Seen(none, none, none, none, probabilities[None]))


def test_the_reference_is_measured_under_the_causes(reference):
    run = Bright()
    as_it_is = expected.without_drift(run, reference)
    assert (as_it_is.mean, as_it_is.low, as_it_is.method) == (1.0, 1.0, "reference")
    found, raws, outcomes = expected.by_camera(run, reference, [cause("exposure", -1.0)])
    assert found.method == "camera"
    assert found.mean == 0.5  # all are dark
    assert 0.25 < found.low < 0.5 < found.high < 0.75
    np.testing.assert_allclose(raws.mean((1, 2)), reference.raws.mean((1, 2)) / 2, rtol=0.02)
    np.testing.assert_array_equal(outcomes, [np.repeat([1, 0], 20), np.ones(40)])


@pytest.mark.parametrize(("drift", "now"), [(("exposure", -2.0), 0.25), (("photon_noise", 4.0), 4.0)])
def test_noise_that_a_camera_does_not_state_is_that_of_the_reference(reference, drift, now):
    light = reference.raws.mean((1, 2))[:, None, None] * np.ones((1, 64, 64))
    electrons = np.random.default_rng(1).poisson(200 * light)
    noisy = dataclasses.replace(reference, mosaics=np.round(65535 / 200 * electrons).astype(np.uint16))
    _, raws, _ = expected.by_camera(Bright(), noisy, [cause(*drift)])
    assert raws.var((1, 2)).mean() == pytest.approx(now * light.mean() / 200, rel=0.1)


def test_the_interval_has_that_of_the_causes(reference):
    sure, unsure = (expected.by_camera(Bright(), reference, [cause("exposure", -0.2, half)]).score for half in (0, 1.5))
    assert (sure.mean, sure.low, sure.high) == (1.0, 1.0, 1.0)
    assert unsure.low < 0.7
    assert unsure.low < unsure.mean < 1.0 == unsure.high


def test_a_part_of_the_samples_tells_what_drawn_causes_change_and_not_the_score(reference, monkeypatch):
    monkeypatch.setattr(expected, "_PART", 7)  # of which not half can be right
    assert expected.by_camera(Bright(), reference, [cause("exposure", -1.0)]).score.mean == 0.5


def test_causes_are_drawn_from_their_interval():
    rng = np.random.default_rng(0)
    lopsided = Cause("exposure", 1.0, 0.0, 1.1, "stops", 1.0)
    values = np.array([expected._redrawn(lopsided, rng).value for _ in range(4000)])
    assert ((values > 0) & (values < 1.1)).mean() == pytest.approx(0.95, abs=0.02)
    assert np.median(values) == pytest.approx(1, abs=0.02)


def test_mending_is_measured_on_other_images(reference, monkeypatch):
    seen, measure = [], expected.outcomes_of
    mended = Bright.mended
    monkeypatch.setattr(Bright, "mended", lambda self, raws, **rest: seen.append(raws) or mended(self, raws, **rest))
    monkeypatch.setattr(expected, "outcomes_of", lambda *given: seen.append(given[2]) or measure(*given))
    drifted = expected.by_camera(Bright(), reference, [cause("exposure", -1.0)])
    seen.clear()
    found = expected.remedy(Bright(), reference, drifted, "a command")
    by, measured = ({raw.tobytes() for raw in raws} for raws in seen)
    assert (len(by), len(measured), by & measured) == (20, 20, set())
    assert found.images == 20
    assert found.before == pytest.approx(0.5, abs=0.2)
    assert found.after == 1.0
    assert found.gain.estimate == found.after - found.before
    assert found.gain.low > 0
    # Models of a quarter of the gain take all for dark, mended or not. The gain is paired by sample.
    nothing = expected.remedy(Bright(0.25), reference, drifted, "a command").gain
    assert (nothing.estimate, nothing.low, nothing.high) == (0, 0, 0)

    refusing = Bright(refusal="no mixture")
    assert expected.remedy(refusing, reference, drifted, "a command").refused == "no mixture"


def test_who_explains_the_drift():
    assert expected.explained_by_camera([cause("blur", 1.0), cause("scene", 0.2)])
    assert not expected.explained_by_camera([cause("scene", 0.2), cause("blur", 1.0)])
    assert not expected.explained_by_camera([cause("unexplained", 9.0)])
    assert not expected.explained_by_camera([])


def drawn(images=30, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.5), images)
    return probabilities, np.array([rng.choice(classes, p=each) for each in probabilities])


def test_a_threshold_keeps_the_share_of_the_reference_that_is_right():
    known, targets = drawn(2000)
    accuracy = (known.argmax(1) == targets).mean()
    assert thresholded(known, targets, known) == pytest.approx(accuracy, abs=0.002)
    assert thresholded(known, targets, np.full((5, 3), 1 / 3)) == 0
    assert thresholded(known, targets, np.eye(3)) == 1


def test_transport_finds_the_cheapest_classes():
    known, targets = drawn(30)
    new, _ = drawn(6, seed=1)
    targets = np.repeat([0, 1, 2], [15, 10, 5])
    classes = [0, 0, 0, 1, 1, 2]
    best = max(
        np.mean([new[place, name] for place, name in enumerate(order)])
        for order in set(itertools.permutations(classes))
    )
    assert transported(known, targets, new) == pytest.approx(best)


def test_transport_notices_that_all_are_taken_for_one_class():
    known, targets = np.eye(2)[[0, 1] * 10], np.array([0, 1] * 10)
    same = np.eye(2)[[0] * 12]
    assert thresholded(known, targets, same) == 1
    assert transported(known, targets, same) == 0.5


def test_confidence_is_calibrated_on_the_reference():
    known, targets = drawn(3000)
    sharpened = tempered(known, 0.5)
    found = expected.by_confidence(sharpened, targets, sharpened[:400])
    accuracy = (known.argmax(1) == targets).mean()
    assert found["COT"].mean == pytest.approx(accuracy, abs=0.05)
    assert found["ATC"].low < accuracy < found["ATC"].high
    np.testing.assert_allclose(tempered(sharpened, 2.0), known, atol=1e-6)
    # Without the calibration, transport would believe the sharpened confidence.
    assert transported(sharpened, targets, sharpened[:400]) > accuracy + 0.05


def test_a_score_is_a_ratio_of_sums():
    assert score_of(np.array([[1.0, 3.0], [2.0, 6.0]])) == 0.5


@pytest.mark.parametrize(
    ("name", "value", "inside"),
    [
        ("exposure", 0.2, True),
        ("exposure", 0.3, False),
        ("exposure", -0.3, False),
        ("white_balance.red", 0.2, True),
        ("white_balance.red", 0.6, False),
        # A black level that rises is subtracted too little.
        ("black_level", 41.0, False),
        ("black_level", -41.0, True),
    ],
)
def test_causes_are_compared_with_tolerances(name, value, inside):
    def knob(parameter, value, low, high, **scale):
        ends = {"low_interval": (low, low), "high_interval": (high, high), "low_at_limit": False}
        return Knob(parameter, "", value=value, low=low, high=high, high_at_limit=False, points=[], **ends, **scale)

    log, linear = {"scale": "log", "width": None}, {"scale": "linear", "width": 0.1}
    knobs = {
        "white_balance": knob("white_balance", 1.0, 0.9, 1.2, **log),
        "white_balance.red": knob("white_balance", 2.0, 1.6, 2.5, **log),
        "black_level": knob("black_level", 0.0, -0.005, 0.02, **linear),
    }
    tolerances = Tolerances("accuracy", 0.9, 0.02, 10, "RGGB", knobs, {}, None)
    assert tolerated([cause(name, value), cause("blur", 1.0)], [tolerances]) == {name: inside}
    assert tolerated([cause(name, value)], []) == {}
