import dataclasses

import numpy as np
import pytest
from oracles import isp as oracle

import isp
from isp import unprocessing
from isp.camera import CAMERAS, Camera

DRONE = CAMERAS["drone"]


@pytest.mark.parametrize("camera", [*CAMERAS.values(), dataclasses.replace(DRONE, pattern="GBRG")])
def test_flat_colors_are_recovered(camera):
    # Before the tone curve, float32 is exact to 1e-6. The slope of the curve is 5 at the darkest color here.
    colors = np.random.default_rng(0).uniform(0.1, 1, (8, 1, 1, 3)).astype(np.float32)
    pictures = np.broadcast_to(colors, (8, 6, 8, 3))
    nothing = {"sharpening_filter": np.eye(9)[4].reshape(3, 3), "gaussian_blur": np.eye(25)[12].reshape(5, 5)}
    back = isp.parametrized(camera).with_values(nothing)(isp.unprocess(pictures, camera))
    np.testing.assert_allclose(back, pictures, atol=1e-5)


@pytest.mark.shows("isp.unprocessing.unprocess(gamma)")
def test_another_tone_curve_is_undone():
    camera = dataclasses.replace(DRONE, pattern="GBRG")
    picture = np.random.default_rng(0).random((2, 6, 8, 3), np.float32)
    expected = oracle.unprocess(picture.astype(np.float64), dataclasses.asdict(camera), gamma=1.7)
    np.testing.assert_allclose(isp.unprocess(picture, camera, gamma=1.7), expected, atol=1e-6)


def test_values_beyond_white_and_below_black_are_kept():
    camera = Camera((0.1,) * 4, (2, 1, 1), [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    green, dark = (np.broadcast_to(np.float32(color), (2, 2, 3)) for color in ([0, 1, 0], [-0.5, 0, -1e-9]))
    np.testing.assert_allclose(isp.unprocess(green, camera), [[0.1 - 0.5 / 2, 1.1], [1.1, 0.1]], rtol=1e-5)
    np.testing.assert_allclose(isp.unprocess(dark, DRONE).ravel(), DRONE.black_level, rtol=1e-6)


def test_a_matrix_that_float32_cannot_invert_is_refused():
    """Its condition is 1e8, of which float32 with its 1.2e-7 keeps no digit, while float64 keeps eight."""
    camera = dataclasses.replace(DRONE, color_matrix=np.diag([1, 1, 1e-8]))
    with pytest.raises(ValueError, match="color_matrix must have an inverse, got the singular"):
        isp.unprocess(np.ones((2, 2, 3), np.float32), camera)
    unprocessing.check_invertible(dataclasses.replace(DRONE, color_matrix=np.diag([1, 1, 1e-6])))
