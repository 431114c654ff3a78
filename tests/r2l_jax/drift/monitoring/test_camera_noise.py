"""Exposures in NumPy, of cameras that state no noise."""

import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.drift.monitoring.camera_noise import converted, with_noise

CAMERA = isp.Camera(black_level=(0.05,) * 4, white_balance=(2, 1, 1.5), color_matrix=np.eye(3), pattern="GBRG")
LEVELS = np.linspace(0.02, 0.7, 40)[:, None, None] * np.ones((40, 64, 64))


def exposed(light):
    random = np.random.default_rng(0)
    electrons = random.poisson(light * 1000.0) + random.normal(0, 10, np.shape(light))
    return np.float32(0.05 + 0.95 * electrons / 1000)


def test_the_noise_of_a_camera_that_states_none_is_measured():
    found = with_noise(CAMERA, exposed(LEVELS))
    assert found.full_well == pytest.approx(1000, rel=0.05)
    assert found.read_noise == pytest.approx(10, rel=0.15)
    stated = dataclasses.replace(CAMERA, full_well=500.0, read_noise=3.0)
    assert with_noise(stated, exposed(LEVELS)) is stated


def test_a_state_adds_the_same_noise_in_the_electrons_of_another_camera():
    camera, other = (
        dataclasses.replace(CAMERA, full_well=well, read_noise=noise)
        for well, noise in ((15000.0, 4.0), (1000.0, 10.0))
    )
    state = converted(isp.CameraState(exposure=-1.0, read_noise=50.0, row_noise=30.0), camera, other)
    assert state.exposure == -1
    assert (state.read_noise**2 - 1) * (10 / 1000) ** 2 == pytest.approx((50**2 - 1) * (4 / 15000) ** 2)
    assert state.row_noise / 1000 == pytest.approx(30 / 15000)
    assert converted(isp.CameraState(exposure=-1.0), camera, other) == isp.CameraState(exposure=-1.0)
