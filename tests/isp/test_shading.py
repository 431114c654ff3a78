import numpy as np
import pytest
from oracles import isp as oracle

from isp import shading

RNG = np.random.default_rng(0)
RGB = RNG.random((2, 6, 10, 3), np.float32)
COEFFICIENTS = np.float32([[0.5, -0.2, 0.1], [0.3, 0.1, -0.1], [0.4, 0.0, 0.2]])


def gains(height, width):
    """Computes the gains (H, W, 3) in float64 by the formula of the documentation."""
    y, x = np.mgrid[:height, :width]
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    r2 = (y**2 + x**2) / (((height - 1) ** 2 + (width - 1) ** 2) / 4)
    k = COEFFICIENTS.astype(np.float64)
    return 1 + np.stack([k[c, 0] * r2 + k[c, 1] * r2**2 + k[c, 2] * r2**3 for c in range(3)], -1)


@pytest.mark.parametrize("size", [(6, 10), (5, 3), (1, 4)])
def test_images_follow_the_formula(size):
    rgb = RNG.random((2, *size, 3), np.float32)
    np.testing.assert_allclose(shading.correct(rgb, coefficients=COEFFICIENTS), rgb * gains(*size), rtol=1e-5)
    pixel = np.ones((1, 1, 3), np.float32)
    np.testing.assert_array_equal(shading.correct(pixel, coefficients=COEFFICIENTS), pixel)


@pytest.mark.shows("isp.shading.correct(pattern)")
@pytest.mark.parametrize("pattern", ["GBRG", "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"])
def test_a_mosaic_of_a_corrected_image_is_the_corrected_mosaic(pattern):
    expected = oracle.mosaic(RGB * gains(6, 10), pattern)
    result = shading.correct(oracle.mosaic(RGB, pattern), pattern=pattern, coefficients=COEFFICIENTS)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
