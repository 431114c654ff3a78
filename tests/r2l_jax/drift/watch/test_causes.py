"""Mosaics under causes: what each does, in its unit."""

import jax
import numpy as np
import pytest

import isp
from r2l_jax.drift.watch.causes import UNITS, under
from r2l_jax.drift.watch.results import Cause

CAMERA = isp.Camera(
    black_level=(0.05,) * 4,
    white_balance=(2, 1, 1.5),
    color_matrix=np.eye(3),
    pattern="GBRG",
    full_well=1e9,
    read_noise=100.0,
    bits=16,
)
LIGHT = 0.4
MOSAICS = np.full((2, 64, 64), 0.05 + 0.95 * LIGHT, np.float32)


def of(**amounts):
    return [Cause(name, value, value, value, UNITS[name], 1.0) for name, value in amounts.items()]


def light(causes):
    return np.asarray(isp.sensor.site_light(under(causes, MOSAICS, CAMERA), CAMERA), np.float64)


def test_no_cause_and_no_camera_change_nothing():
    assert np.array_equal(under((), MOSAICS, CAMERA), MOSAICS)
    assert np.array_equal(under(of(scene=0.3, unexplained=2.0), MOSAICS, CAMERA), MOSAICS)


def test_light():
    assert light(of(exposure=-1.0)) == pytest.approx(LIGHT / 2, rel=1e-3)
    colors = np.asarray(isp.cfa.tiled(isp.cfa.tile("GBRG"), 64, 64))
    gains = light(of(**{"white_balance.red": -1.0, "white_balance.blue": 0.5}))
    assert [gains[:, colors == color].mean() / LIGHT for color in range(3)] == pytest.approx([0.5, 1, 2**0.5], rel=1e-3)
    corners = light(of(vignetting=1.0))
    assert corners[0, 0, 0] == pytest.approx(LIGHT / 2, rel=0.02)
    assert corners[0, 32, 32] == pytest.approx(LIGHT, rel=0.02)


def test_delivered_values():
    assert under(of(black_level=41.0), MOSAICS, CAMERA) == pytest.approx(MOSAICS + 41 / 4095, abs=1e-6)
    assert under(of(gamma=0.5), MOSAICS, CAMERA) == pytest.approx(np.sqrt(MOSAICS), abs=1e-6)
    # Saturation is the sensor's, gamma the file's, whatever the order of the causes.
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
    camera = isp.Camera(**{**vars(CAMERA), "full_well": 1000.0, "read_noise": 10.0})
    noisy = np.asarray(under(of(**dict.fromkeys(names, 3.0)), MOSAICS, camera), np.float64).std() / 0.95 * 1000
    # Mosaics are free of noise here, and get what an exposure of them lacks.
    assert noisy == pytest.approx(lacking**0.5, rel=0.05)
    assert np.array_equal(under(of(**dict.fromkeys(names, 0.5)), MOSAICS, camera), MOSAICS)


def test_rows_and_sites():
    rows = light(of(row_noise=2e7))
    assert (rows == rows[..., :1]).mean() > 0.99
    assert rows[..., 0].std() == pytest.approx(0.02, rel=0.2)
    dead, hot = under(of(dead_sites=5e4, hot_sites=5e4), MOSAICS, CAMERA), under(of(hot_sites=5e4), MOSAICS, CAMERA)
    assert (np.asarray(dead) < 0.06).mean() == pytest.approx(0.05, abs=0.01)
    assert (np.asarray(hot) == 1).mean() == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(np.asarray(dead)[0] < 0.06, np.asarray(dead)[1] < 0.06)


def test_a_seed_gives_the_same_mosaics():
    first, again, other = (under(of(exposure=-1.0), MOSAICS, CAMERA, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert isinstance(first, jax.Array)
