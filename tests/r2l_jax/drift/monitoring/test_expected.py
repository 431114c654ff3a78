import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import scores

import isp
from r2l_jax.drift.monitoring import expected
from r2l_jax.drift.monitoring.diagnosis import DriftEstimate
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.statistics import Seen
from r2l_jax.errors import InputError
from r2l_jax.model.processors import Standardize, half_size
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.training.run import Run

CAMERA = isp.Camera((0.0,) * 4, (1.0, 1.0, 1.0), ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)), "RGGB")


def estimate(name, value, half=0.0, evidence=9.0):
    return DriftEstimate(name, value, value - half, value + half, "", evidence)


class Above(nnx.Module):
    """Takes an image for bright if its mean is above 0.3, more confidently the farther it is."""

    def __init__(self, gain):
        self.gain = nnx.Param(jnp.float32(gain))

    def __call__(self, images):
        logits = 40 * (self.gain[...] * images.mean((1, 2, 3)) - 0.3)
        return jnp.stack([jnp.zeros_like(logits), logits], 1)


class Bright(Run):
    """Models of one camera, each of some gain."""

    camera, task = CAMERA, make_task("classification", ("dark", "bright"), NetworkSettings())
    classes, about = ("dark", "bright"), SimpleNamespace(task="classification")

    def __init__(self, *gains, refusal=""):
        self.gains, self.refusal = gains or (1.0,), refusal
        parts = half_size(CAMERA), Standardize(jnp.zeros(3), jnp.ones(3))
        self.folds = tuple(SimpleNamespace(model=RawToLogit(*parts, Above(each))) for each in self.gains)

    def adapted(self, raws):
        if self.refusal:
            raise InputError(self.refusal)
        return Bright(*(2 * gain for gain in self.gains))


def reference_of(count):
    """Mosaics, half of them dark and half bright."""
    levels = np.repeat([0.2, 0.45], count // 2) + np.random.default_rng(0).uniform(-0.03, 0.03, count)
    mosaics = np.round(65535 * levels[:, None, None] * np.ones((1, 8, 8))).astype(np.uint16)
    targets, none = np.repeat(np.int32([0, 1]), count // 2), np.zeros((count, 0), np.float32)
    return Reference(mosaics, targets, targets, np.arange(count), "test", Seen(none, none, none, none, none[None]))


@pytest.fixture
def reference():
    return reference_of(40)


def scored(reference):
    return expected.without_drift(Bright(), reference).outcomes


def test_the_reference_is_measured_under_the_diagnosed_drift(reference):
    assert expected.without_drift(Bright(), reference).score == pytest.approx(
        scores.interval(np.ones(40), None, (0, 1))
    )
    (mean, low, high), raws, outcomes, loss = expected.by_camera(
        Bright(), reference, [estimate("exposure", -1.0)], scored(reference)
    )
    assert mean == 0.5  # all are dark
    assert 0.25 < low < 0.5 < high < 0.75
    # All that are bright are lost, and paired, so that the interval is that of their share.
    assert loss == pytest.approx(scores.interval(np.repeat([0, 1], 20)))
    np.testing.assert_allclose(raws.mean((1, 2)), reference.raws.mean((1, 2)) / 2, rtol=0.02)
    outcome = outcomes.at("0")
    np.testing.assert_array_equal(outcome["predicted"] == outcome["target"], np.repeat([True, False], 20))


def test_the_models_of_a_group_are_measured_together(reference):
    # A gain of a half takes all for dark, but is less confident of what is bright.
    for gains, score in (((0.5,), 0.5), ((0.5, 1.1), 1.0), ((1.1, 0.5), 1.0)):
        assert expected.without_drift(Bright(*gains), reference).score[0] == score


@pytest.mark.parametrize(("drift", "now"), [(("exposure", -2.0), 0.25), (("photon_noise", 4.0), 4.0)])
def test_noise_that_a_camera_does_not_state_is_that_of_the_reference(reference, drift, now):
    light = reference.raws.mean((1, 2))[:, None, None] * np.ones((1, 64, 64))
    electrons = np.random.default_rng(1).poisson(200 * light)
    noisy = dataclasses.replace(reference, mosaics=np.round(65535 / 200 * electrons).astype(np.uint16))
    _, raws, *_ = expected.by_camera(Bright(), noisy, [estimate(*drift)], scored(noisy))
    assert raws.var((1, 2)).mean() == pytest.approx(now * light.mean() / 200, rel=0.1)


def test_the_interval_has_that_of_the_diagnosis(reference):
    clean = scored(reference)
    confident, unsure = (
        expected.by_camera(Bright(), reference, [estimate("exposure", -0.2, half)], clean).score for half in (0, 1.5)
    )
    assert confident == pytest.approx(scores.interval(np.ones(40), None, (0, 1)))
    mean, low, high = unsure
    assert low < 0.7
    assert low < mean < 1.0 == high


def test_the_interval_is_that_of_the_samples_and_of_the_drawn_drifts(monkeypatch):
    """In plain NumPy: pairs of samples are groups, and drawn drifts change the score of the same 96 samples."""
    count = 160
    reference = dataclasses.replace(reference_of(count), groups=np.arange(count) // 2)
    clean, seen, measure = scored(reference), [], expected.outcomes_of

    def outcomes_of(run, reference, raws, places):
        light, bright = raws[places].mean((1, 2)), reference.targets[places] == 1
        seen.append(((light > 0.3) == bright, places))
        return measure(run, reference, raws, places)

    monkeypatch.setattr(expected, "outcomes_of", outcomes_of)
    for half in (0.0, 0.6):
        seen.clear()
        (found, *ends), *_ = expected.by_camera(Bright(), reference, [estimate("exposure", -0.6, half)], clean)
        (right, _), *others = seen
        assert [len(set(places)) for _, places in others] == [96] * 6
        own, changes = right.mean(), np.array([0.0, *(each.mean() - right[places].mean() for each, places in others)])
        assert (np.ptp(changes) > 0.1) == (half > 0)
        assert found == pytest.approx(own + changes.mean())
        half = np.hypot(scores.half_width(right.reshape(-1, 2).mean(1)), 1.96 * changes.std(ddof=1))
        assert ends == pytest.approx(np.clip([found - half, found + half], 0, 1))


def test_a_single_group_does_not_tell_how_much_groups_differ(reference):
    alone = dataclasses.replace(reference, groups=np.zeros(40, int))
    assert expected.without_drift(Bright(), alone).score == (1, 0, 1)
    drifted = expected.by_camera(Bright(), alone, [estimate("exposure", -1.0)], scored(alone))
    assert (drifted.score, drifted.loss) == ((0.5, 0, 1), (0.5, -1, 1))


def test_drawn_drifts_fill_their_interval():
    rng = np.random.default_rng(0)
    drawn = [expected._redrawn(DriftEstimate("exposure", 1.0, 0.8, 2.0, "", 9.0), rng).value for _ in range(4000)]
    # The ends of a 95% confidence interval, which is longer above the estimate.
    assert np.quantile(drawn, [0.025, 0.5, 0.975]) == pytest.approx([0.8, 1.0, 2.0], abs=0.06)


def test_adaptation_is_measured_on_other_images(reference, monkeypatch):
    seen, measure, adapted = [], expected.outcomes_of, Bright.adapted
    monkeypatch.setattr(Bright, "adapted", lambda self, raws: seen.append(raws) or adapted(self, raws))
    monkeypatch.setattr(expected, "outcomes_of", lambda *given: seen.append(given[2][given[3]]) or measure(*given))
    drifted = expected.by_camera(Bright(), reference, [estimate("exposure", -1.0)], scored(reference))
    seen.clear()
    found = expected.remedy(Bright(), reference, drifted)
    by, measured = ({raw.tobytes() for raw in raws} for raws in seen)
    assert (len(by), len(measured), by & measured) == (20, 20, set())
    assert found.images == 20
    assert found.gain[0] == pytest.approx(0.5, abs=0.2)
    assert 0 < found.gain[1] < found.gain[0] < found.gain[2]
    # Models of a quarter of the gain take all for dark, adapted or not. The gain is paired by sample.
    assert expected.remedy(Bright(0.25), reference, drifted).gain == pytest.approx(scores.interval(np.zeros(20)))
    assert expected.remedy(Bright(refusal="no mixture"), reference, drifted).refused == "no mixture"


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.02, "would gain 2.0 (1.0 to 3.0) points: predict it"),
        (0.0004, "would not help: it would gain 0.0 (-1.0 to 1.0) points"),
        (-0.1, "would not help: it would gain -10.0 (-11.0 to -9.0) points"),
        (None, "would not help: it stays as it is"),
    ],
)
def test_a_remedy_is_offered_only_if_it_helps(gain, said):
    interval = None if gain is None else (gain, gain - 0.01, gain + 0.01)
    remedy = expected.Remedy(64, interval, "it stays as it is")
    assert remedy.text("predict it") == f"adapting by statistics {said}"
