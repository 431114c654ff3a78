"""Against the published code's answers in published.npz (OpenCV, imagecorruptions 1.1.2) and its loop over pixels."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.drift.corruptions.blur import defocus_blur, glass_blur, motion_blur, replaced_by_neighbors
from r2l_jax.drift.corruptions.filters import streak_taps, streaked
from r2l_jax.names import SEVERITIES

PUBLISHED = np.load(pathlib.Path(__file__).with_name("published.npz"))
IMAGE, KEY = PUBLISHED["image"], jax.random.key(0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_that_of_opencv(severity):
    expected = PUBLISHED[f"defocus_blur.{severity}"]
    # 25 weights, which add up to 1, round by up to 25 * 2**-24.
    np.testing.assert_allclose(defocus_blur(IMAGE, KEY, severity), expected, atol=1.5e-6)


@pytest.mark.parametrize("key", [key for key in PUBLISHED.files if key.startswith("streak")])
def test_streaks_are_those_of_imagecorruptions(key):
    radius, sigma, angle = re.fullmatch(r"streak\.(\d+)\.([\d.]+)\.(-?\d+)", key).groups()
    taps = jnp.asarray(streak_taps([int(radius)], [float(sigma)])[0], jnp.float32)
    result = streaked(jnp.asarray(IMAGE), jnp.deg2rad(float(angle)), taps)
    np.testing.assert_allclose(result, PUBLISHED[key], atol=1e-6)


def test_motion_blur_moves_each_image_within_45_degrees_of_the_horizontal():
    # The center of a spot moves to the right by the mean of the weights, and by less up or down.
    spots = np.zeros((64, 31, 31, 3), np.float32)
    spots[:, 15, 15] = 1
    result = np.asarray(motion_blur(spots, KEY, 5), np.float64)[..., 0]
    np.testing.assert_allclose(result.sum((1, 2)), 1, atol=1e-5)
    down, right = (np.einsum("nhw,hw->n", result, grid - 15) for grid in np.mgrid[:31, :31])
    assert ((abs(down) <= abs(right) + 0.1) & (abs(right) > 0.9)).all()
    assert np.unique(np.round(np.degrees(np.arctan2(down, abs(right))))).size > 20
    assert np.ptp(np.degrees(np.arctan2(down, abs(right)))) > 60


def test_motion_blur_smears_a_pixel_over_as_many_as_stated():
    """One key draws the same direction at each severity."""
    spot = np.zeros((1, 41, 41, 3), np.float32)
    spot[:, 20, 20] = 1
    smeared = [np.asarray(motion_blur(spot, KEY, severity))[0, ..., 0] for severity in SEVERITIES]
    reach = [np.hypot(*(np.argwhere(each) - 20).T).max() for each in smeared]
    # The farthest weight lies between up to four pixels.
    assert reach == pytest.approx([12, 12, 12, 16, 18], abs=1.5)
    assert reach[0] == reach[1] == reach[2]
    # The first weight, which does not move the pixel, is the greatest one of a Gaussian's side.
    sides = [np.exp(-(np.arange(20) ** 2) / 2 / sigma**2) for sigma in (1, 1.5, 2, 2, 2.5)]
    assert [each[20, 20] for each in smeared] == pytest.approx([1 / side.sum() for side in sides], abs=1e-5)


def test_pixels_are_replaced_as_by_the_published_loop():
    moves = np.random.default_rng(0).integers(-1, 1, (*IMAGE.shape[:2], 2))
    expected = IMAGE.copy()
    for row in range(IMAGE.shape[0] - 1, 1, -1):
        for column in range(IMAGE.shape[1] - 1, 1, -1):
            other = tuple(np.array([row, column]) + moves[row, column])
            expected[row, column], expected[other] = expected[other], expected[row, column]
    np.testing.assert_array_equal(replaced_by_neighbors(jnp.asarray(IMAGE), jnp.asarray(moves)), expected)


@pytest.mark.parametrize(("severity", "farthest"), [(1, 1), (4, 2)])
def test_glass_blur_replaces_pixels_once_or_twice(severity, farthest):
    size = 24
    ramps = np.stack([*np.mgrid[:size, :size], np.zeros((size, size))], -1).astype(np.float32) / size
    moved = size * (ramps - np.asarray(glass_blur(ramps, KEY, severity)))[4:-4, 4:-4, :2]
    assert moved.min() == pytest.approx(0, abs=0.2)
    assert moved.max() == pytest.approx(farthest, abs=0.2)
    assert moved.mean() == pytest.approx(farthest / 2, abs=0.1)
