"""Facts that drifts of the sensor share; their amounts are measured back in tests/r2l_jax/drift/test_sensor.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp import sensor, sensor_drift
from isp.camera import Camera

KEY = jax.random.key(1)
CAMERA = Camera(
    black_level=(0.05, 0.06, 0.07, 0.08), white_balance=(2, 1, 1.5), color_matrix=np.eye(3), read_noise=6.0, bits=10
)
X_TRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
# The amount of each drift that changes nothing.
NOTHING = {
    **dict.fromkeys(("row_noise", "column_noise", "hot_sites", "dead_sites", "vignetting", "defocus", "motion"), 0.0),
    **dict.fromkeys(("lamp_color", "flicker", "overexposure", "underexposure", "black_level", "color_balance"), 0.0),
    **dict.fromkeys(("chromatic_aberration", "pattern_shift"), 0.0),
    **dict.fromkeys(("read_noise", "photon_noise"), 1.0),
    "bits": 10.0,
}


@pytest.mark.parametrize("name", NOTHING)
def test_an_amount_of_nothing_changes_nothing(name):
    steps = jax.random.randint(KEY, (2, 24, 36), 100, 900)
    raw = steps / 1023
    drifted = getattr(sensor_drift, name)(raw, KEY, NOTHING[name], camera=CAMERA)
    np.testing.assert_allclose(drifted, raw, atol=3e-6)


@pytest.mark.parametrize("light", [0.02, 0.3])
def test_a_dimmed_mosaic_has_the_noise_of_a_real_exposure(light):
    """Noise that is only scaled, or that is added whole, differs from it by a third or more."""
    settings = {"camera": CAMERA, "full_well": 15000.0, "bits": 16}
    bright = sensor.expose_sites(jnp.full((512, 512), 0.8), jax.random.key(2), **settings)
    dimmed = sensor.expose_again(bright, KEY, camera=CAMERA, light=light)
    real = sensor.expose_sites(jnp.full((512, 512), 0.8 * light), KEY, **settings)
    noise = [np.asarray(sensor.site_light(raw, CAMERA), np.float64) for raw in (dimmed, real)]
    assert noise[0].mean() == pytest.approx(0.8 * light, rel=0.005)
    assert noise[0].var() == pytest.approx(noise[1].var(), rel=0.02)
    if light < 0.1:
        return
    scaled = noise[1].var() * (1 - light)
    assert noise[0].var() != pytest.approx(scaled, rel=0.1)


@pytest.mark.parametrize("pixels", [1.5, 3.0])
def test_other_patterns_are_blurred_by_about_as_much(pixels):
    camera = Camera(black_level=(0.0,) * 3, white_balance=(1, 1, 1), color_matrix=np.eye(3), pattern=X_TRANS)
    edge = np.where(np.arange(96) < 48, 0.2, 0.7) * np.ones((96, 1), np.float32)
    spread = np.diff(np.asarray(sensor_drift.defocus(edge, KEY, pixels, camera=camera)).mean(0))
    at = np.arange(len(spread))
    mean = (spread * at).sum() / spread.sum()
    assert np.sqrt((spread * (at - mean) ** 2).sum() / spread.sum()) == pytest.approx(pixels, rel=0.15)


def test_one_compilation_serves_all_amounts():
    raw = jnp.full((4, 8), 0.5)
    for amount in (0.5, 2.0):
        sensor_drift.defocus(raw, KEY, amount, camera=CAMERA)
    size = sensor_drift.defocus._cache_size()
    sensor_drift.defocus(raw, KEY, 3.0, camera=CAMERA)
    assert sensor_drift.defocus._cache_size() == size
