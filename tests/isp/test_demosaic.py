import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isp import bayer, demosaic

RAW = np.random.default_rng(0).random((14, 10), np.float32)
RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4


def bilinear_by_scipy(raw, pattern, mode):
    """colour-demosaicing's bilinear algorithm with the border handling named, in float64."""
    masks = np.zeros((*raw.shape, 3))
    for site, letter in enumerate(pattern):
        masks[site // 2 :: 2, site % 2 :: 2, "RGB".index(letter)] = 1
    kernels = (RED_BLUE, GREEN, RED_BLUE)
    return np.stack([ndimage.convolve(raw * masks[..., c], kernels[c], mode=mode) for c in range(3)], -1)


@pytest.mark.parametrize("pattern", bayer.PATTERNS)
def test_bilinear_agrees_with_the_reference_borders_included(pattern):
    expected = bilinear_by_scipy(RAW.astype(np.float64), pattern, "reflect")
    np.testing.assert_allclose(demosaic.bilinear(RAW, pattern), expected, atol=1e-6)


@pytest.mark.parametrize("pattern", bayer.PATTERNS)
def test_interpolate_mirrors_the_border(pattern):
    planes = demosaic.interpolate(bayer.spread(RAW, pattern), jnp.array(demosaic.BILINEAR_KERNEL))
    expected = bilinear_by_scipy(RAW.astype(np.float64), pattern, "mirror")
    np.testing.assert_allclose(planes, expected, atol=1e-6)


@pytest.mark.parametrize("pattern", bayer.PATTERNS)
def test_a_colour_ramp_is_reproduced(pattern):
    rows, cols = np.mgrid[:12, :16].astype(np.float32)
    ramp = np.stack([0.02 * rows, 0.01 * cols, 0.3 - 0.01 * rows + 0.02 * cols], -1)
    rgb = demosaic.bilinear(bayer.mosaic(ramp, pattern), pattern)
    np.testing.assert_allclose(rgb[1:-1, 1:-1], ramp[1:-1, 1:-1], atol=1e-6)
