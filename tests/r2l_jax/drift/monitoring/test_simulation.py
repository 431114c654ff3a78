import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from isp.sensor_drift import QUANTITIES
from r2l_jax.drift.monitoring import simulation
from r2l_jax.drift.monitoring.simulation import taken
from r2l_jax.drift.monitoring.statistics import MOSAIC

CAMERA = isp.Camera(
    black_level=(0.05,) * 4,
    white_balance=(2, 1, 1.5),
    color_matrix=np.eye(3),
    pattern="GBRG",
    full_well=1e9,
    read_noise=100.0,
    bits=16,
)
NOISY = dataclasses.replace(CAMERA, full_well=1000.0, read_noise=10.0)
LIGHT = 0.4
MOSAICS = np.full((2, 64, 64), 0.05 + 0.95 * LIGHT, np.float32)


def light(**amounts):
    state = isp.CameraState(**amounts)
    return np.asarray(isp.sensor.site_light(taken(MOSAICS, state, CAMERA), CAMERA), np.float64)


def test_values_of_a_fit_have_finite_limits():
    assert np.isfinite(simulation.HIGH).all()
    assert (simulation.HIGH >= simulation.NEUTRAL).all()


def test_no_state_and_no_less_noise_change_nothing():
    np.testing.assert_allclose(taken(MOSAICS, isp.CameraState(), CAMERA), MOSAICS, atol=1e-7)
    # Noise cannot be taken away.
    less = isp.CameraState(read_noise=0.5, photon_noise=0.5)
    np.testing.assert_allclose(taken(MOSAICS, less, NOISY), MOSAICS, atol=1e-7)


def test_light():
    assert light(exposure=-1.0) == pytest.approx(LIGHT / 2, rel=1e-3)
    colors = np.asarray(isp.cfa.tiled(isp.cfa.tile("GBRG"), 64, 64))
    gains = light(red_gain=-1.0, blue_gain=0.5)
    assert [gains[:, colors == color].mean() / LIGHT for color in range(3)] == pytest.approx([0.5, 1, 2**0.5], rel=1e-3)
    corners = light(vignetting=1.0)
    assert corners[0, 0, 0] == pytest.approx(LIGHT / 2, rel=0.02)
    assert corners[0, 32, 32] == pytest.approx(LIGHT, rel=0.02)


def test_blur_keeps_the_light_and_the_noise():
    many = np.repeat(MOSAICS, 200, 0)
    noisy = many + np.random.default_rng(0).normal(0, 0.02, many.shape).astype(np.float32)
    noisy[:, 31:33, 31:33] += 0.5
    blurred = np.asarray(taken(noisy, isp.CameraState(defocus=2.0), NOISY), np.float64)
    assert blurred.mean() == pytest.approx(noisy.mean(), rel=1e-3)
    around = blurred[:, 24:40, 24:40].mean(0) - MOSAICS[0, 0, 0]
    y = np.arange(16) - 7.5
    assert ((y**2) @ around.sum(1)) / around.sum() == pytest.approx(2.0**2 + 0.25, rel=0.15)
    assert blurred[:, :16].std() == pytest.approx(0.95 * (LIGHT * 1000 + 100) ** 0.5 / 1000, rel=0.05)


def test_delivered_values():
    assert taken(MOSAICS, isp.CameraState(black_level=41.0), CAMERA) == pytest.approx(MOSAICS + 41 / 4095, abs=1e-5)
    assert taken(MOSAICS, isp.CameraState(gamma=0.5), CAMERA) == pytest.approx(np.sqrt(MOSAICS), abs=1e-5)
    # Saturation is the sensor's, gamma the file's, whatever the order of the drifts.
    assert taken(MOSAICS, isp.CameraState(gamma=0.5, saturation=0.2), CAMERA) == pytest.approx(0.2**0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (["read_noise"], 100 * 8),
        (["photon_noise"], LIGHT * 1000 * 2 + 100 * 8),
        # The gain raises all of the noise of the read-out.
        (["read_noise", "photon_noise"], LIGHT * 1000 * 2 + 100 * 80),
    ],
)
def test_noise(names, lacking):
    noisy = (
        np.asarray(taken(MOSAICS, isp.CameraState(**dict.fromkeys(names, 3.0)), NOISY), np.float64).std() / 0.95 * 1000
    )
    # Mosaics are free of noise here, and get what an exposure of them lacks.
    assert noisy == pytest.approx(lacking**0.5, rel=0.05)


def test_rows_and_sites():
    rows = light(row_noise=2e7)
    assert abs(rows - rows[..., :1]).max() < 1e-5
    assert rows[..., 0].std() == pytest.approx(0.02, rel=0.2)
    dead, hot = (
        taken(MOSAICS, isp.CameraState(dead_sites=5e4, hot_sites=5e4), CAMERA),
        taken(MOSAICS, isp.CameraState(hot_sites=5e4), CAMERA),
    )
    assert (np.asarray(dead) < 0.06).mean() == pytest.approx(0.05, abs=0.01)
    assert (np.asarray(hot) == 1).mean() == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(np.asarray(dead)[0] < 0.06, np.asarray(dead)[1] < 0.06)


def exposed(light, random):
    """Exposes the sites of the noisy camera to a light, in NumPy."""
    electrons = random.poisson(light * 1000.0) + random.normal(0, 10, np.shape(light))
    return np.float32(0.05 + 0.95 * electrons / 1000)


@pytest.mark.parametrize("stops", [1.0, -1.0])
def test_raw_images_with_more_light_get_the_noise_that_their_reference_has_in_excess(stops, monkeypatch):
    """Real exposures in NumPy, whose noise is compared with that of the reference in the same state."""
    random = np.random.default_rng(0)
    scene = np.repeat([0.1, 0.2, 0.4], 16)[:, None, None] * np.ones((48, 32, 32))
    before, after = exposed(scene, random), exposed(scene * 2**stops, random)
    monkeypatch.setattr(simulation, "mosaic_statistics", lambda raw, camera: raw.reshape(len(raw), -1))
    values = simulation.numbers(isp.CameraState(exposure=stops, gamma=0.8, black_level=80.0))
    keys = jax.random.split(jax.random.key(0), 2 * len(scene))
    values = jnp.float32(values)
    simulated = simulation.statistics.__wrapped__(values, before, keys[:48], NOISY)
    real = simulation.with_excess.__wrapped__(values, (after + 80 / 4095) ** 0.8, keys[48:], NOISY)
    simulated, real = (np.asarray(each, np.float64).reshape(3, -1) for each in (simulated, real))
    assert simulated.mean(1) == pytest.approx(real.mean(1), rel=2e-3)
    assert simulated.std(1) == pytest.approx(real.std(1), rel=0.03)


def test_values_of_a_fit_are_those_of_a_state():
    amounts = {"exposure": -0.5, "defocus": 1.5, "read_noise": 3.0, "gamma": 0.8, "saturation": 0.5, "row_noise": 20.0}
    values = simulation.numbers(isp.CameraState(**amounts))
    back = simulation.state_at(np.float32(values)).given
    assert {name: float(back[name]) for name in amounts} == pytest.approx(amounts, rel=1e-5)
    assert all(back[name] == QUANTITIES[name].neutral for name in back.keys() - amounts.keys())


def test_derivatives_are_those_of_statistics():
    """Central differences of the mean statistics of raw images with structure, under noise that stays the same."""
    random = np.random.default_rng(1)
    scene = np.clip(0.3 + 0.1 * np.cumsum(random.normal(size=(32, 64, 64)), 2) / 8, 0.2, 0.9)
    raws, keys = np.clip(exposed(scene, random), 0, 1), jax.random.split(jax.random.key(1), 32)
    values = simulation.numbers(isp.CameraState(exposure=-0.3, defocus=0.7, read_noise=3.0, photon_noise=2.0))
    weights, smooth = np.full(32, 1 / 32, np.float32), np.array(MOSAIC) != "sites at black"
    slopes = np.asarray(simulation.slopes(jnp.float32(values), raws, keys, weights, NOISY))
    for name in ("exposure", "defocus", "read_noise", "photon_noise", "gamma"):
        step = 0.02 if name in ("exposure", "gamma") else 0.05
        place = simulation.FITTED.index(name)
        ends = [values + sign * step * (np.arange(len(values)) == place) for sign in (1, -1)]
        up, down = (np.asarray(simulation.statistics(jnp.float32(each), raws, keys, NOISY)).mean(0) for each in ends)
        expected = (up - down) / (2 * step)
        # The few sites that cross the black level decide their share, which is not differentiable at them.
        assert slopes[smooth, place] == pytest.approx(expected[smooth], abs=0.1 * float(abs(expected).max())), name


@pytest.mark.parametrize("excess", [False, True])
def test_derivatives_are_finite_where_sites_are_black(excess):
    """Powers below 1, as of a tone curve, have infinite slopes at 0."""
    raws = np.clip(exposed(np.full((32, 64, 64), 0.02), np.random.default_rng(2)) - 0.05, 0, 1).astype(np.float32)
    assert (raws == 0).mean() > 0.02
    values = simulation.numbers(isp.CameraState(exposure=0.5, gamma=0.8, read_noise=3.0))
    weights, keys = np.full(32, 1 / 32, np.float32), jax.random.split(jax.random.key(1), 32)
    assert np.isfinite(np.asarray(simulation.slopes(jnp.float32(values), raws, keys, weights, NOISY, excess))).all()
