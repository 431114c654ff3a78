import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from isp import sensor_drift
from r2l_jax.drift.monitoring.statistics import IMAGE, MOSAIC, _image_statistics, mosaic_statistics

CAMERA = isp.CAMERAS["drone"]


def mosaics():
    """Eight noisy mosaics of smooth scenes."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 3, 64), np.linspace(0, 3, 64), indexing="ij")
    light = 0.25 + 0.1 * np.sin(y[None] * rng.uniform(1, 3, (8, 1, 1)) + x)
    return np.float32(0.0625 + 0.9375 * light + rng.normal(0, 0.004, (8, 64, 64)))


def of(raws):
    """The means of the statistics by name."""
    return dict(zip(MOSAIC, np.asarray(mosaic_statistics(jnp.asarray(raws), CAMERA)).mean(0), strict=True))


def drifted(name, amount):
    return np.asarray(getattr(sensor_drift, name)(mosaics(), jax.random.key(0), amount, camera=CAMERA))


@pytest.mark.parametrize(
    ("drift", "statistic", "sign"),
    [
        (("overexposure", 1.0), "mean of green", 1),
        (("overexposure", 2.5), "saturated sites", 1),
        (("black_level", -1500.0), "sites at black", 1),
        (("color_balance", 0.4), "red to green", 1),
        (("color_balance", 0.4), "blue to green", -1),
        (("vignetting", 1.0), "corners to middle", -1),
        (("read_noise", 60.0), "noise of dark sites", 1),
        (("read_noise", 60.0), "spectrum, octave 1", 1),
    ],
)
def test_a_drift_moves_the_statistic_that_is_named_after_it(drift, statistic, sign):
    before, after = of(mosaics()), of(drifted(*drift))
    assert sign * (after[statistic] - before[statistic]) > 0.05


SCENE = np.random.default_rng(0).uniform(0.1, 0.6, (3, 64, 96)).astype(np.float32)


def of_colors(raws):
    """The statistics of each color, in the order of `MOSAIC`."""
    return np.asarray(mosaic_statistics(jnp.asarray(raws), CAMERA))[:, :33]


def test_a_factor_on_the_light_adds_the_same_to_all_tones():
    black = float(np.mean(CAMERA.black_level))
    change = of_colors(SCENE) - of_colors(black + (SCENE - black) / 2)
    # Quantiles, means, and the variance, noise and gradient of each color.
    np.testing.assert_allclose(change[:, :24], np.log(2) / np.arcsinh(512), atol=6e-3)
    assert np.abs(change[:, 24:] - np.log10([4, 2, 2]).repeat(3) / 6).max() < 1e-3


def test_statistics_of_colors_do_not_depend_on_the_size():
    # The same gradient of light over mosaics of two sizes, with noise of the same strength at each site.
    noise = np.random.default_rng(1).normal(0, 0.01, (1, 256, 256)).astype(np.float32)

    def scene(side):
        ramp = 0.2 + 0.4 * (np.arange(side, dtype=np.float32) + 0.5) / side
        return np.broadcast_to(ramp, (1, side, side)) + noise[:, :side, :side]

    np.testing.assert_allclose(of_colors(scene(64)), of_colors(scene(256)), atol=0.02)


def test_rows_and_columns_are_told_apart():
    rows, columns = of(drifted("row_noise", 300.0)), of(drifted("column_noise", 300.0))
    assert rows["variation of rows"] > columns["variation of rows"] + 0.3
    assert columns["variation of columns"] > rows["variation of columns"] + 0.3


def test_images_have_statistics_of_their_names():
    rng = np.random.default_rng(0)
    gray = np.repeat(rng.uniform(0.3, 0.5, (2, 16, 16, 1)), 3, -1).astype(np.float32)

    def of_image(image):
        return dict(zip(IMAGE, np.asarray(_image_statistics(jnp.asarray(image, jnp.float32)))[0], strict=True))

    before = of_image(gray)
    assert before["red of the image"] == pytest.approx(gray[0, ..., 0].mean(), rel=1e-5)
    assert before["colorfulness"] == pytest.approx(0, abs=1e-6)
    assert of_image(gray * np.float32([1, 1, 0.5]))["colorfulness"] > 0.05
    assert of_image(gray + 0.6)["saturated pixels"] > before["saturated pixels"]
    assert of_image(gray * 0)["dark pixels"] > before["dark pixels"]
    assert of_image((gray + np.roll(gray, 1, 1)) / 2)["sharpness"] < before["sharpness"]
