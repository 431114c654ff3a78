import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp import cfa, sensor
from isp.camera import Camera

KEY = jax.random.key(0)
NEUTRAL = {"white_balance": (1, 1, 1), "color_matrix": np.eye(3)}
CAMERA = Camera(black_level=(128 / 4095,) * 4, **NEUTRAL)
# One electron is one step of the converter.
COUNTER = functools.partial(
    sensor.expose, camera=Camera(black_level=(0,) * 4, **NEUTRAL), full_well=4095.0, read_noise=0.0
)


def gray(level, size=256):
    return jnp.full((size, size, 3), level, jnp.float32)


@pytest.mark.shows("isp.sensor.expose_sites(exposure, full_well, read_noise)")
@pytest.mark.parametrize("exposure", [0.001, 0.02, 1.0])
def test_mean_and_variance_follow_from_photons_read_out_and_converter(exposure):
    full_well, read_noise = 9000.0, 7.0
    raw = sensor.expose(gray(0.5), KEY, camera=CAMERA, exposure=exposure, full_well=full_well, read_noise=read_noise)
    electrons = (np.asarray(raw, np.float64) - 128 / 4095) / (1 - 128 / 4095) * full_well
    step = full_well / (4095 - 128)
    mean, variance = 0.5 * exposure * full_well, 0.5 * exposure * full_well + read_noise**2 + step**2 / 12
    assert electrons.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / raw.size))
    assert electrons.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / raw.size))


@pytest.mark.parametrize("mean", [0.3, 4.0, 15.5, 16.5, 300.0])
def test_photon_noise_is_exactly_poisson_for_few_photons_and_has_its_mean_and_variance_for_many(mean):
    electrons = np.asarray(COUNTER(gray(mean / 4095), KEY), np.float64) * 4095
    assert electrons.mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / electrons.size))
    rounding = 0 if mean < 16 else 1 / 12
    spread = math.sqrt((2 + 1 / mean) / electrons.size)
    assert electrons.var() == pytest.approx(mean + rounding, rel=4 * spread)
    if mean > 16:
        return
    share = np.bincount(np.round(electrons).astype(int).ravel(), minlength=50) / electrons.size
    exact = np.array([math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(len(share))])
    assert (abs(share - exact) <= 5 * np.sqrt(exact / electrons.size) + 1e-5).all()


@pytest.mark.shows("isp.sensor.re_expose(light, read_noise)")
def test_the_spread_of_a_dark_exposure_is_the_cameras_read_noise_in_electrons():
    camera = Camera(black_level=(0.1, 0.2, 0.3, 0.4), **NEUTRAL, full_well=2000.0, read_noise=8.0, bits=16)
    raw = sensor.expose(gray(0), KEY, camera=camera)
    noisier = sensor.re_expose(raw, jax.random.key(1), camera=camera, read_noise=3.0)
    # Its own noise is dimmed with the light.
    dimmed = sensor.re_expose(raw, jax.random.key(1), camera=camera, light=0.5)
    for dark, noise in ((raw, 8), (noisier, 3 * 8), (dimmed, 8)):
        sites = np.asarray(cfa.space_to_depth(dark), np.float64).reshape(-1, 4)
        black = np.array(camera.black_level)
        np.testing.assert_allclose(sites.mean(0), black, atol=4 * noise / 2000 / np.sqrt(len(sites)))
        spread = sites.std(0) / (1 - black) * 2000
        np.testing.assert_allclose(spread, noise, rtol=4 / np.sqrt(2 * len(sites)))


@pytest.mark.shows("isp.sensor.re_expose(kept, lost)")
def test_noise_that_smoothing_has_taken_is_added_again():
    """7500 photons and the read-out have a variance of 7500 + 4² electrons, of which smoothing has left a quarter."""
    black, lost = 128 / 4095, np.random.default_rng(0).normal(size=(256, 256))
    raw = jnp.full((256, 256), black + (1 - black) * 0.5)
    noise = np.sqrt(0.75 * (7500 + 4**2)) / 15000 * (1 - black)
    again = sensor.re_expose(raw, KEY, camera=CAMERA, kept=0.25, lost=jnp.float32(lost))
    np.testing.assert_allclose(again - raw, noise * lost, atol=1e-6)
    independent = np.asarray(sensor.re_expose(raw, KEY, camera=CAMERA, kept=0.25), np.float64)
    assert independent.std() == pytest.approx(noise, rel=4 / np.sqrt(2 * raw.size))


@pytest.mark.shows("isp.sensor.expose_sites(bits)")
def test_values_lie_on_the_steps_of_the_converter():
    light = jax.random.uniform(KEY, (64, 64, 3))
    steps = np.asarray(sensor.expose(light, KEY, camera=CAMERA, bits=5), np.float64) * 31
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert (steps.min(), steps.max()) == pytest.approx((1, 31))


def test_gradient_is_that_of_the_clipped_mean():
    light = jnp.stack([gray(level, 2) for level in (0.4, 1.5, -0.3)])
    exposed, pull = jax.vjp(lambda light: sensor.expose(light, KEY, camera=CAMERA, read_noise=0.0), light)
    np.testing.assert_allclose(exposed[1:], np.array([1, 128 / 4095])[:, None, None] * np.ones((2, 2)), atol=0.5 / 4095)
    gradient = pull(jnp.ones_like(exposed))[0].sum(-1)
    np.testing.assert_allclose(gradient[0], 1 - 128 / 4095, rtol=1e-5)
    np.testing.assert_array_equal(gradient[1:], 0)


@pytest.mark.shows("isp.Camera(bits, full_well, read_noise)")
def test_noise_is_the_cameras_or_typical_unless_an_argument_says_otherwise():
    noisy = dataclasses.replace(CAMERA, full_well=500.0, read_noise=2.0, bits=10)

    def expose(camera=CAMERA, **noise):
        return np.asarray(sensor.expose(gray(0.5, 16), KEY, camera=camera, **noise))

    # The compiler may round constants differently, by one step of the converter at most.
    given = {"full_well": 500.0, "read_noise": 9.0, "bits": 10}
    np.testing.assert_allclose(expose(noisy, read_noise=9.0), expose(**given), atol=1.01 / 1023)
    np.testing.assert_allclose(expose(), expose(full_well=15000.0, read_noise=4.0, bits=12), atol=1.01 / 4095)


def test_electrons_are_counted_in_32_bits():
    """Half precision ends at 65504."""
    camera = dataclasses.replace(CAMERA, full_well=1e5, read_noise=0.0)
    exposed = sensor.expose_sites(jnp.full((64, 64), 0.5, jnp.float16), KEY, camera=camera, exposure=0.5)
    again = sensor.re_expose(exposed, KEY, camera=camera, light=0.5)
    assert exposed.dtype == again.dtype == jnp.float16
    for raw, mean in ((exposed, 0.25), (again, 0.125)):
        assert sensor.site_light(raw.astype(jnp.float32), camera).mean() == pytest.approx(mean, abs=mean / 8)
