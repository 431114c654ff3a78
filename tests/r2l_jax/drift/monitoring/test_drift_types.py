import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax.drift.monitoring.drift_types import UNITS, DriftEstimate, noise_of, numbers_of, re_exposed, under

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


def of(**amounts):
    return [DriftEstimate(name, value, value, value, UNITS[name], 1.0) for name, value in amounts.items()]


def light(drifts):
    return np.asarray(isp.sensor.site_light(under(drifts, MOSAICS, CAMERA), CAMERA), np.float64)


def test_no_cause_and_no_camera_change_nothing():
    assert np.array_equal(under((), MOSAICS, CAMERA), MOSAICS)
    assert np.array_equal(under(of(scene=0.3, unexplained=2.0), MOSAICS, CAMERA), MOSAICS)
    # Noise cannot be taken away.
    assert np.array_equal(under(of(read_noise=0.5, photon_noise=0.5), MOSAICS, NOISY), MOSAICS)


def test_light():
    assert light(of(exposure=-1.0)) == pytest.approx(LIGHT / 2, rel=1e-3)
    colors = np.asarray(isp.cfa.tiled(isp.cfa.tile("GBRG"), 64, 64))
    gains = light(of(**{"white_balance.red": -1.0, "white_balance.blue": 0.5}))
    assert [gains[:, colors == color].mean() / LIGHT for color in range(3)] == pytest.approx([0.5, 1, 2**0.5], rel=1e-3)
    corners = light(of(vignetting=1.0))
    assert corners[0, 0, 0] == pytest.approx(LIGHT / 2, rel=0.02)
    assert corners[0, 32, 32] == pytest.approx(LIGHT, rel=0.02)


def test_blur_keeps_the_light_and_the_noise():
    noisy = MOSAICS + np.random.default_rng(0).normal(0, 0.02, MOSAICS.shape).astype(np.float32)
    noisy[:, 31:33, 31:33] += 0.5
    blurred = np.asarray(under(of(blur=2.0), noisy, NOISY), np.float64)
    assert blurred.mean() == pytest.approx(noisy.mean(), rel=1e-3)
    around = blurred[:, 24:40, 24:40].mean(0) - MOSAICS[0, 0, 0]
    y = np.arange(16) - 7.5
    assert ((y**2) @ around.sum(1)) / around.sum() == pytest.approx(2.0**2 + 0.25, rel=0.3)
    assert blurred[:, :16].std() == pytest.approx(0.95 * (LIGHT * 1000 + 100) ** 0.5 / 1000, rel=0.05)


def test_delivered_values():
    assert under(of(black_level=41.0), MOSAICS, CAMERA) == pytest.approx(MOSAICS + 41 / 4095, abs=1e-5)
    assert under(of(gamma=0.5), MOSAICS, CAMERA) == pytest.approx(np.sqrt(MOSAICS), abs=1e-5)
    # Saturation is the sensor's, gamma the file's, whatever the order of the drifts.
    assert under(of(gamma=0.5, saturation=0.2), MOSAICS, CAMERA) == pytest.approx(0.2**0.5, abs=1e-6)


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
    noisy = np.asarray(under(of(**dict.fromkeys(names, 3.0)), MOSAICS, NOISY), np.float64).std() / 0.95 * 1000
    # Mosaics are free of noise here, and get what an exposure of them lacks.
    assert noisy == pytest.approx(lacking**0.5, rel=0.05)


def test_rows_and_sites():
    rows = light(of(row_noise=2e7))
    assert abs(rows - rows[..., :1]).max() < 1e-5
    assert rows[..., 0].std() == pytest.approx(0.02, rel=0.2)
    dead, hot = under(of(dead_sites=5e4, hot_sites=5e4), MOSAICS, CAMERA), under(of(hot_sites=5e4), MOSAICS, CAMERA)
    assert (np.asarray(dead) < 0.06).mean() == pytest.approx(0.05, abs=0.01)
    assert (np.asarray(hot) == 1).mean() == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(np.asarray(dead)[0] < 0.06, np.asarray(dead)[1] < 0.06)


def exposed(light, random):
    """Exposes the sites of the noisy camera to a light, in NumPy."""
    electrons = random.poisson(light * 1000.0) + random.normal(0, 10, np.shape(light))
    return np.float32(0.05 + 0.95 * electrons / 1000)


def test_the_noise_of_a_camera_that_states_none_is_measured():
    unknown = dataclasses.replace(CAMERA, full_well=None, read_noise=None)
    levels = np.linspace(0.02, 0.7, 40)[:, None, None] * np.ones((40, 64, 64))
    found = noise_of(exposed(levels, np.random.default_rng(0)), unknown)
    assert found.gain == pytest.approx(1 / 1000, rel=0.05)
    assert found.dark == pytest.approx(1e-4, rel=0.2)
    assert found.unit == pytest.approx((4 / 15000) ** 2)
    assert noise_of(MOSAICS, NOISY) == pytest.approx((1 / 1000, 1e-4, 1e-4))


def test_more_light_has_the_noise_of_a_real_exposure_once_it_is_dimmed_again():
    random = np.random.default_rng(0)
    scene = np.repeat([0.1, 0.3, 0.6], 64)[:, None, None] * np.ones((192, 32, 32))
    before, after = exposed(scene, random), np.minimum(exposed(2 * scene, random), 1)
    drawn = [
        tuple(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((192, 32, 32), (192, 32, 1)))
        for _ in range(2)
    ]
    brighter, darker = (jnp.asarray(numbers_of(of(exposure=stops), NOISY), jnp.float32) for stops in (1.0, -1.0))
    noise = noise_of(before, NOISY)
    simulated = np.asarray(re_exposed(brighter, before, drawn[0], noise, NOISY, 2.0)).reshape(3, -1)
    real = np.asarray(re_exposed(darker, after, drawn[1], noise, NOISY)).reshape(3, -1)
    assert simulated.mean(1) == pytest.approx(real.mean(1), rel=2e-3)
    assert simulated.std(1) == pytest.approx(real.std(1), rel=0.03)
