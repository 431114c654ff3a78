import jax
import numpy as np
import pytest
from scipy import ndimage

from isp import color, sharpen

RNG = np.random.default_rng(0)
IMAGES = [
    RNG.random((13, 10, 3), np.float32),
    np.pad(np.ones((1, 1, 3), np.float32), ((6, 6), (9, 0), (0, 0))),  # An impulse.
    RNG.random((2, 3, 3), np.float32),  # Smaller than the support.
]


def on_luma(function, rgb):
    """Filters the luma of an image by way of YUV, in float64."""
    yuv = rgb.astype(np.float64) @ color.RGB_TO_YUV.T
    yuv[..., 0] = function(yuv[..., 0])
    return yuv @ color.YUV_TO_RGB.T


@pytest.mark.parametrize("rgb", IMAGES)
def test_sharpening_filter_agrees_with_scipy(rgb):
    expected = on_luma(lambda y: ndimage.convolve(y, sharpen.SHARPENING_KERNEL, mode="constant"), rgb)
    np.testing.assert_allclose(sharpen.sharpening_filter(rgb), expected, atol=2e-6)


@pytest.mark.parametrize("rgb", IMAGES)
@pytest.mark.parametrize(("radius", "amount"), [(0.4, 2.5), (2, -0.5)])
def test_unsharp_masking_agrees_with_skimage_and_in_each_column_with_scipy(rgb, radius, amount):
    from skimage.filters import unsharp_mask

    def by_column(luma):
        return luma + amount * (luma - ndimage.gaussian_filter1d(luma, radius, axis=0))

    expected = on_luma(lambda luma: unsharp_mask(luma, radius, amount, preserve_range=True), rgb)
    np.testing.assert_allclose(sharpen.unsharp_masking(rgb, radius, amount), expected, atol=1e-6)
    vertical = sharpen.unsharp_masking_vertical(rgb, radius, amount)
    np.testing.assert_allclose(vertical, on_luma(by_column, rgb), atol=1e-6)


def test_refuses_a_traced_radius_without_a_size():
    with pytest.raises(ValueError, match="size must be given if radius is traced: a shape cannot depend on its"):
        jax.jit(lambda radius: sharpen.unsharp_masking(IMAGES[0], radius))(1.0)
