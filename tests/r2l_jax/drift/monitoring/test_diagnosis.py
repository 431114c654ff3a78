"""Drifts of a camera that is not ours are named and measured, from other scenes than the reference's."""

import dataclasses

import numpy as np
import optimized
import pytest
import smears

import isp
from isp.sensor_drift import QUANTITIES
from r2l_jax.drift.monitoring import diagnosis, simulation, sites
from r2l_jax.drift.monitoring.diagnosis import Comparison, DriftEstimate, diagnose, state_of
from r2l_jax.drift.monitoring.simulation import taken

REFERENCE, NEW = 256, 64
NAMES = {"red": "red_gain", "blue": "blue_gain", "blur": "defocus"}
# Sites in a million that are planted as dead.
DEAD = 3000

SINGLE = (
    {"exposure": -0.7},
    {"exposure": 0.4},
    {"red": 0.3},
    {"blue": -0.3},
    {"black_level": 40.0},
    {"gamma": 0.8},
    {"gamma": 1.3},
    {"blur": 1.5},
    {"read_noise": 4.0},
    {"photon_noise": 3.0},
    {"row_noise": 40.0},
    {"vignetting": 0.7},
    {"saturation": 0.55},
    {"dead": DEAD},
)


def named(drift):
    return "+".join(f"{name}={size:g}" for name, size in drift.items())


@pytest.fixture(scope="module", autouse=True)
def compiled_as_users_do():
    """A fit evaluates its functions many times, which takes longer than optimizing them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, static in (("statistics", ()), ("slopes", ("excess",)), ("with_excess", ())):
            function = getattr(simulation, name).__wrapped__
            patch.setattr(simulation, name, optimized.optimized(function, static_argnames=("camera", *static)))
        yield


def scenes(count):
    random, labels = np.random.default_rng(0), np.arange(count) % len(smears.CLASSES)
    return np.stack([smears.scene(random, kind) for kind in labels]), labels


@pytest.fixture(scope="module")
def pool():
    return scenes(640)


def drawn(pool, seed, drift, weights=None, known=REFERENCE, new=NEW):
    """Photographs a reference and other scenes under a drift; returns both, the labels, and the true sizes."""
    random, (scenes, labels) = np.random.default_rng(seed), pool
    order = random.permutation(len(scenes))
    known, others = order[:known], order[known:]
    if weights is not None:
        others = others[np.argsort(random.random(len(others)) / np.array(weights)[labels[others]])]
    drift, sizes = dict(drift), {NAMES.get(name, name): size for name, size in drift.items()}
    if "dead" in drift:
        drift["dead"] = random.random((smears.SIDE, smears.SIDE)) < drift["dead"] * 1e-6
        sizes["dead_sites"] = sizes.pop("dead") and 1e6 * drift["dead"].mean()
    reference = smears.taken(scenes[known], random)
    return reference, labels[known], smears.taken(scenes[others[:new]], random, **drift), sizes


def found(pool, seed, drift, weights=None):
    *mosaics, sizes = drawn(pool, seed, drift, weights)
    return diagnose(*mosaics, smears.CAMERA), sizes


def is_right(estimates, sizes):
    """Tells whether the planted drifts are named before anything else, with sizes that are right within 15%."""
    first = {estimate.name: estimate.value for estimate in estimates[: len(sizes)]}
    return first.keys() == sizes.keys() and all(abs(first[name] / size - 1) < 0.15 for name, size in sizes.items())


@pytest.fixture(scope="module")
def few():
    """Fewer scenes than a diagnosis takes in practice."""
    return scenes(96)


@pytest.mark.parametrize("drift", [{"exposure": 0.5}, {"photon_noise": 4.0, "blue": -0.4}, {}], ids=named)
def test_drift_types_are_named_and_measured(few, drift):
    reference, labels, new, sizes = drawn(few, 0, drift, known=64, new=32)
    estimates = diagnose(reference[:, :64, :64], labels, new[:, :64, :64], smears.CAMERA)
    assert is_right(estimates, sizes), estimates
    assert len(estimates) == len(sizes)
    for estimate in estimates:
        assert estimate.low < estimate.value < estimate.high
        assert estimate.unit == QUANTITIES[estimate.name].parameter.unit
        assert estimate.evidence > 0
    assert [*estimates] == sorted(estimates, key=lambda estimate: -estimate.evidence)


def test_sites_that_were_defective_before_are_no_drift_type():
    dead, hot = np.zeros((2, 100, 100), bool)
    dead[0, :30], hot[1, :5] = True, True
    before, deviation = sites.Defects(dead, hot, np.zeros(dead.shape)), np.full(dead.shape, 10.0)
    assert not [*diagnosis._of_sites(before, before._replace(deviation=deviation))]
    more = dead.copy()
    more[2, :5] = True
    (estimate,) = diagnosis._of_sites(before, sites.Defects(more, hot, deviation))
    assert (estimate.name, estimate.value, estimate.evidence) == ("dead_sites", 500, 5 * 10**2 / 2)
    # The exact interval of a Poisson count of 5 is from 1.62 to 11.7.
    assert (estimate.low, estimate.high) == pytest.approx((162, 1167), rel=0.01)
    # Places in mosaics of another size are not known, but how many there should be.
    (estimate,) = diagnosis._of_sites(before, sites.Defects(more[:50], np.zeros_like(hot[:50]), deviation[:50]))
    assert estimate.value == pytest.approx(1e6 * (35 - 15) / 5000)


class Compared(Exception):  # noqa: N818
    """Ends a diagnosis with the raw images that it would compare."""


def test_defective_sites_are_repaired_before_a_diagnosis(few, monkeypatch):
    reference, labels, new, _ = drawn(few, 1, {}, known=48, new=24)
    dead, hot = (np.random.default_rng(seed).random(new.shape[1:]) < 0.002 for seed in range(2))
    old = np.where(dead, np.float32(smears.BLACK), reference)
    now = np.where(hot, np.float32(1), np.where(dead, np.float32(smears.BLACK), new))

    def compared(reference, labels, groups, new, *others):
        raise Compared(reference, new)

    monkeypatch.setattr(diagnosis, "Comparison", compared)
    with pytest.raises(Compared) as caught:
        diagnose(old, labels, now, smears.CAMERA)
    of_reference, of_new = caught.value.args
    for sound, broken, repaired, defects in ((reference, old, of_reference, dead), (new, now, of_new, dead | hot)):
        np.testing.assert_array_equal(repaired[:, ~defects], broken[:, ~defects])
        for row, column in np.argwhere(defects[2:-2, 2:-2]) + 2:
            around = broken[:, row - 2 : row + 3 : 2, column - 2 : column + 3 : 2].reshape(-1, 9)
            np.testing.assert_array_equal(repaired[:, row, column], np.median(np.delete(around, 4, 1), 1))
        assert abs(repaired - sound)[:, defects].mean() < 0.05 < abs(broken - sound)[:, defects].mean()


@pytest.mark.slow
def test_read_noise_of_a_camera_that_states_nothing_is_in_a_unit_that_is_known(pool):
    # Such as the camera file of the guide to own data, without a black level.
    unknown = dataclasses.replace(smears.CAMERA, black_level=(0.0,) * 4, full_well=None, read_noise=None, bits=None)
    reference, labels, new, _ = drawn(pool, 9, {"read_noise": 8.0})
    estimates = diagnose(reference, labels, new, unknown)
    own = (1 - smears.BLACK) * smears.READ_NOISE / smears.FULL_WELL
    assert estimates[0].value == pytest.approx((1 + 63 * (own / (4 / 15000)) ** 2) ** 0.5, rel=0.1), estimates
    assert (estimates[0].name, estimates[0].unit) == ("read_noise", "times 4 of 15000 electrons")
    added = np.asarray(taken(reference[:8], state_of(estimates[:1]), unknown)) - reference[:8]
    assert added.std() == pytest.approx(63**0.5 * own, rel=0.1)


@pytest.mark.slow
def test_no_cause_is_invented_where_most_sites_are_white(pool):
    estimates, sizes = found(pool, 101, {"exposure": 0.8})
    assert len(estimates) == 1
    assert is_right(estimates, sizes), estimates


@pytest.mark.slow
@pytest.mark.parametrize("labeled", [True, False])
def test_another_mix_of_classes_is_the_scene_or_none_of_the_camera(pool, labeled):
    reference, labels, new, _ = drawn(pool, 4 if labeled else 8, {}, (6, 1, 1, 1))
    estimates = diagnose(reference, labels if labeled else None, new, smears.CAMERA)
    # Without labels, groups of similar mosaics tell less.
    assert estimates or not labeled
    assert all(estimate.name == "scene" for estimate in estimates[:1])
    assert all(0.1 < estimate.value < 0.7 for estimate in estimates[:1])


class Drawn(Comparison):
    """A comparison of four classes that finds these moves of their shares in draws, and no state of the camera."""

    def __init__(self, shares, *fits):
        self.camera, self.shares, self._found = smears.CAMERA, np.array(shares), fits

    def alternatives(self, fit):
        return [fit._replace(values=values) for values, _ in self._found]

    def draws(self, fit):
        return next(draws for values, draws in self._found if values is fit.values)

    def shares_at(self, values):
        return self.shares + values[len(simulation.FITTED) :]

    def evidence(self, fit, cause):
        return 9.0


def test_the_size_of_another_mix_is_the_share_of_images_that_are_of_other_classes():
    shares, random = np.array([0.4, 0.3, 0.2, 0.1]), np.random.default_rng(0)

    def values(moves):
        moves = np.atleast_2d(moves)
        return np.hstack([np.tile(simulation.NEUTRAL, (len(moves), 1)), moves])

    # In the second fit, the last class loses more than it has: it gets a share of 0, and the others, 1.1, count as all.
    moves = np.array([[0.1, 0.2, -0.2, -0.1], [0.3, -0.1, 0.0, -0.2]])
    drawn = [values(move + 0.03 * random.normal(size=(400, 4))) for move in moves]
    comparison = Drawn(shares, *((values(move)[0], draws) for move, draws in zip(moves, drawn, strict=True)))
    images = np.zeros((8, 3))
    fit = diagnosis.Fit(("scene",), values(moves)[0], np.eye(3), np.zeros(3), np.zeros((3, 1)), images, images)
    (found,) = diagnosis._of_fit(comparison, fit, smears.CAMERA)
    assert found.value == pytest.approx(0.3)

    def moved(each):
        now = np.maximum(shares + each[:, len(simulation.NEUTRAL) :], 0)
        now /= now.sum(1, keepdims=True)
        # The share of the images that would have to change their class.
        return np.maximum(now - shares, 0).sum(1)

    ends = [np.quantile(moved(each), [0.025, 0.975]) for each in drawn]
    assert (found.low, found.high) == pytest.approx((np.min(ends), np.max(ends)))
    assert (found.name, found.unit, found.evidence) == ("scene", "share of other classes", 9.0)


@pytest.mark.slow
def test_what_no_camera_does_is_unexplained(pool):
    reference, labels, new, _ = drawn(pool, 6, {})
    # A compression that averages blocks of sites of one color.
    blocks = new.reshape(NEW, 32, 2, 2, 32, 2, 2).mean((2, 5), keepdims=True)
    compressed = np.broadcast_to(blocks, (NEW, 32, 2, 2, 32, 2, 2)).reshape(new.shape)
    assert "unexplained" in [estimate.name for estimate in diagnose(reference, labels, compressed, smears.CAMERA)]


@pytest.mark.slow
def test_the_intervals_hold_the_sizes(pool):
    inside = []
    for seed in range(4):
        estimates, sizes = found(pool, 10 + seed, {"red": 0.25, "blue": -0.25})
        inside += [
            estimate.low <= sizes[estimate.name] <= estimate.high for estimate in estimates if estimate.name in sizes
        ]
    assert np.mean(inside) > 0.7


@pytest.mark.slow
def test_a_sensor_without_colors(pool):
    gray = isp.Camera(black_level=(smears.BLACK,), pattern="MONO", full_well=4000, read_noise=6, bits=12)
    random, scenes = np.random.default_rng(0), pool[0][:192].mean(-1)

    def photographed(light):
        electrons = random.poisson(light * 4000) + random.normal(0, 6, light.shape)
        return np.float32(smears.BLACK + (1 - smears.BLACK) * electrons / 4000)

    estimates = diagnose(photographed(scenes[:128]), None, photographed(scenes[128:] * 2**-0.5), gray)
    assert estimates[0].name == "exposure"
    assert estimates[0].value == pytest.approx(-0.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("drift", SINGLE, ids=named)
def test_two_of_three_draws_are_right(pool, drift):
    assert sum(is_right(*found(pool, 100 + seed, drift)) for seed in range(3)) >= 2


@pytest.mark.slow
def test_two_of_three_draws_without_a_drift_have_no_drift_type(pool):
    assert sum(not found(pool, 200 + seed, {})[0] for seed in range(3)) >= 2


def test_an_estimate_is_written_in_three_digits():
    sites = DriftEstimate("dead_sites", 2197.3, 1000.2, 4171.0, "sites per million", 3.0)
    assert str(sites) == "dead_sites 2200 sites per million (1000 to 4170)"
    light = DriftEstimate("exposure", -0.7041, -0.7153, -0.69, "stops", 3.0)
    assert str(light) == "exposure -0.704 stops (-0.715 to -0.69)"


def test_images_of_one_group_count_as_one(few):
    """The error of a difference of means is that of 20 and 4 images, with 40 known and 32 new ones in such groups."""
    reference, labels, new, _ = drawn(few, 0, {}, known=40, new=32)
    sized = reference[:, :64, :64], labels, np.arange(40) // 2, new[:, :64, :64]
    comparison = Comparison(*sized, np.arange(32) // 8, smears.CAMERA, 0)
    rng, statistics = np.random.default_rng(0), comparison._own.size
    taken, seen = (rng.normal(size=(count, statistics)) for count in (40, 32))
    # The error of the simulation is a share of the difference of means, which is 0 here.
    seen += comparison._own - seen.mean(0)
    whiten = comparison._whitening(taken, seen)
    pooled = (40 * np.cov(taken.T) + 32 * np.cov(seen.T)) / 72
    pooled -= 0.02 * (pooled - np.diag(np.diag(pooled)))
    # The factor of Hartlap et al. has its floor, because there are many statistics.
    expected = pooled * (1 / 20 + 1 / 4) + 1e-12 * np.eye(statistics)
    share = max((72 - statistics - 3) / 70, 0.1)
    np.testing.assert_allclose(whiten.T @ whiten, share * np.linalg.inv(expected), rtol=1e-6, atol=1e-6)
    # Draws of an exposure that is the mean of one statistic, and does not depend on the reference.
    slopes = np.zeros((statistics + len(smears.CLASSES) - 1, len(comparison._neutral)))
    slopes[0, simulation.FITTED.index("exposure")] = 1
    same = np.zeros_like(taken)
    fit = diagnosis.Fit(
        ("exposure",), comparison._neutral, np.eye(statistics), np.zeros(len(slopes)), slopes, same, 0.2 * seen
    )
    found = comparison.draws(fit)[:, simulation.FITTED.index("exposure")]
    assert found.std() == pytest.approx(0.2 * seen[:, 0].std() / 4**0.5, rel=0.1)


def test_derivatives_include_the_noise_that_new_images_get_under_brighter_light(few):
    reference, labels, new, _ = drawn(few, 0, {"exposure": 0.5}, known=32, new=32)
    comparison = Comparison(reference[:, :64, :64], labels, None, new[:, :64, :64], None, smears.CAMERA, 0)
    place, step = simulation.FITTED.index("photon_noise"), 0.02
    values = np.append(
        simulation.numbers(isp.CameraState(exposure=0.4, photon_noise=1.2)), np.zeros(len(smears.CLASSES) - 1)
    )
    spread = comparison._of_new.std(0)
    whiten = np.diag(np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0))
    found = comparison._slopes(values, whiten, comparison._seen(values)[0], 32)[:, place]
    moved = [values + change * np.eye(len(values))[place] for change in (step, -step)]
    above, below = (comparison._rest(each, whiten, *comparison._seen(each)) for each in moved)
    expected = (below - above) / (2 * step)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
