import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ive

import isp
from isp.sensor import expose_sites, site_light
from r2l_jax.model.augment import re_expose, sample_keys
from r2l_jax.training.settings import PURPOSES

CAMERA = isp.Camera(
    black_level=(0.0,) * 4, white_balance=(1, 1, 1), color_matrix=np.eye(3), full_well=20000, read_noise=5.0, bits=12
)
INDEX = jnp.arange(400)


def re_exposed(raw, purposes, camera=CAMERA, key=0, index=None):
    keys = sample_keys(jax.random.key(key), INDEX[: len(raw)] if index is None else index)
    return np.asarray(re_expose(raw, keys, camera, purposes), np.float64)


@pytest.fixture(scope="module")
def changed():
    """The light of flat raw images that a purpose changes, `(n, 32, 32)`, and the share that it leaves as it is."""
    keys, found = jax.random.split(jax.random.key(9), len(INDEX)), {}
    flats = jax.vmap(lambda key: expose_sites(jnp.full((32, 32), 0.3), key, camera=CAMERA))(keys)
    for purposes in (("exposure",), ("light",), ("exposure", "light"), ("optics",)):
        light = np.asarray(site_light(re_exposed(flats, purposes), CAMERA), np.float64)
        same = np.isclose(light, site_light(flats, CAMERA), atol=1e-6).all((1, 2))
        found[purposes] = light[~same], same.mean()
    return found


@pytest.mark.parametrize(
    ("purposes", "least", "most"),
    [(("light",), -np.log2(24), 1.5), (("exposure",), -0.5, 1.5), (("exposure", "light"), -np.log2(24), 1.5)],
)
def test_light_changes_by_the_stops_of_its_purposes_and_photons_set_its_noise(changed, purposes, least, most):
    light, stays = changed[purposes]
    assert 0.18 < stays < 0.32
    levels = light.mean((1, 2))
    stops = np.log2(levels / 0.3)
    assert stops.min() == pytest.approx(least, abs=0.12)
    assert stops.max() == pytest.approx(most, abs=0.1)
    # Four standard errors of the mean of uniform numbers.
    assert stops.mean() == pytest.approx((least + most) / 2, abs=4 * (most - least) / np.sqrt(12 * len(stops)))
    darker = light[stops < 0]
    electrons = darker.mean((1, 2)) * CAMERA.full_well
    expected = np.sqrt(electrons + CAMERA.read_noise**2) / CAMERA.full_well
    np.testing.assert_allclose(darker.std((1, 2)), expected, rtol=0.15)
    # The gains of the colors stay.
    red, blue = light[:, ::2, ::2].mean((1, 2)), light[:, 1::2, 1::2].mean((1, 2))
    np.testing.assert_allclose(red / blue, 1, atol=0.03)


def test_optics_darken_the_corners_and_blur_the_light(changed):
    light, stays = changed[("optics",)]
    assert 0.18 < stays < 0.32
    corner, middle = light[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1), light[:, 14:18, 14:18].mean((1, 2))
    stops = np.log2(middle / corner)
    assert stops.mean() == pytest.approx(0.5, abs=0.06)
    assert stops.max() < 1.1
    edge = jnp.broadcast_to(jnp.where(jnp.arange(64) < 32, 0.2, 0.6), (len(INDEX), 64, 64))
    quiet = dataclasses.replace(CAMERA, full_well=1e9, read_noise=0.0)
    rows = re_exposed(edge, ("optics",), quiet)[:, 30:34].mean(1)
    # The step between two sites of a color is the middle weight of a discrete Gaussian; the center loses no light.
    step = (rows[:, 33] - rows[:, 31]) / 0.4
    assert step.max() == pytest.approx(1, abs=0.01)
    assert step.min() == pytest.approx(ive(0, 2.0**2 / 4), abs=0.02)
    assert np.median(step[step < 0.999]) == pytest.approx(ive(0, 1.0**2 / 4), abs=0.04)


def test_readout_has_up_to_four_times_the_read_noise_rows_of_their_own_and_another_black_level():
    noisy = dataclasses.replace(CAMERA, read_noise=100.0)
    taken = re_exposed(jnp.full((400, 32, 32), 0.5), ("readout",), noisy)
    taken = taken[taken.std((1, 2)) > 0]
    assert 0.18 < 1 - len(taken) / 400 < 0.32
    assert (taken.mean((1, 2)) - 0.5).std() == pytest.approx(80 / 4095, rel=0.15)
    # The raw image itself has no noise. What is added is up to the root of 4^2 - 1 times the noise of the camera.
    rows = taken.mean(2, keepdims=True)
    added = np.sqrt(((taken - rows) ** 2).mean((1, 2)) * 32 / 31) * CAMERA.full_well / 100
    assert np.median(added) == pytest.approx(np.sqrt(2.5**2 - 1), rel=0.15)
    assert added.max() == pytest.approx(np.sqrt(15), rel=0.1)
    # The mean of a row keeps the root of 1/32 of the noise of its sites.
    of_rows = np.sqrt(np.maximum(rows.var((1, 2), ddof=1) * CAMERA.full_well**2 - (100 * added) ** 2 / 32, 0))
    assert np.median(of_rows) == pytest.approx(75, rel=0.15)
    assert np.quantile(of_rows, 0.95) == pytest.approx(0.95 * 150, rel=0.15)


def test_changes_follow_the_sample_and_the_epoch_and_not_the_batch():
    raw = jax.random.uniform(jax.random.key(1), (6, 16, 16))
    index = jnp.array([3, 14, 15, 92, 65, 35])
    together, order = re_exposed(raw, PURPOSES, index=index), np.array([4, 1, 0, 5])
    np.testing.assert_allclose(re_exposed(raw[order], PURPOSES, index=index[order]), together[order], atol=1e-6)
    assert not np.isclose(re_exposed(raw, PURPOSES, key=1, index=index), together).all((1, 2)).all()


def test_white_keeps_its_ratio_of_signal_to_noise():
    """A camera whose white has 128 electrons is dimmed to 64 of them, by one stop."""
    small = dataclasses.replace(CAMERA, full_well=128, read_noise=0.0)
    light = re_exposed(jnp.full((400, 16, 16), 0.9), ("light",), small)
    assert np.quantile(light.mean((1, 2)), 0.02) == pytest.approx(0.45, abs=0.03)


def test_every_sensor_is_augmented():
    x_trans = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
    for camera in (
        isp.Camera(black_level=(0.0,), pattern="MONO"),
        isp.Camera(black_level=(0.0,) * 3, white_balance=(1, 1, 1), color_matrix=np.eye(3), pattern=x_trans),
    ):
        dark = re_exposed(jnp.zeros((8, 12, 12)), PURPOSES, camera)
        assert np.isfinite(dark).all()
        assert np.ptp(dark.mean((1, 2))) > 1e-3
