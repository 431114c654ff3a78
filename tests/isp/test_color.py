import jax.numpy as jnp
import numpy as np
import pytest

from isp import bayer, color, denoise, sharpen

RGB = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)


def test_white_balance_scales_channels():
    np.testing.assert_allclose(color.white_balance(RGB, jnp.array([2.0, 1, -0.5])), RGB * [2, 1, -0.5], rtol=1e-6)


def test_color_matrix_has_outputs_in_rows():
    matrix = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    np.testing.assert_allclose(color.color_correct(RGB, jnp.array(matrix)), RGB @ matrix.T, atol=1e-6)


def test_yuv_of_grey_and_primaries():
    np.testing.assert_allclose(color.rgb_to_yuv(jnp.full((1, 1, 3), 0.5)), [[[0.5, 0, 0]]], atol=1e-7)
    np.testing.assert_allclose(color.rgb_to_yuv(jnp.eye(3)[None]), color.RGB_TO_YUV.T[None], atol=1e-7)


def test_yuv_round_trip():
    np.testing.assert_allclose(color.yuv_to_rgb(color.rgb_to_yuv(jnp.array(RGB))), RGB, atol=1e-6)


def test_with_luma_equals_the_way_through_yuv():
    luma = np.random.default_rng(2).random(RGB.shape[:-1], np.float32)
    yuv = color.rgb_to_yuv(jnp.array(RGB)).at[..., 0].set(luma)
    np.testing.assert_allclose(color.with_luma(RGB, luma), color.yuv_to_rgb(yuv), atol=1e-6)


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(3, 8, 8\)"),
        (np.zeros((8, 3), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), "rgb must be floating point with white at 1, got uint8: divide by its white"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        lambda rgb: color.white_balance(rgb, jnp.ones(3)),
        lambda rgb: color.color_correct(rgb, jnp.eye(3)),
        color.luma,
        color.rgb_to_yuv,
        lambda rgb: color.gamma_correct(rgb, 2.2),
        sharpen.sharpening_filter,
        lambda rgb: denoise.gaussian_blur(rgb, jnp.ones((5, 5))),
        bayer.mosaic,
    ],
)
def test_refuses_what_is_no_image(function, rgb, message, unchecked):
    with pytest.raises(ValueError, match=message):
        function(rgb)


def test_gamma():
    np.testing.assert_allclose(color.gamma_correct(RGB + 0.01, 2.2), (RGB + 0.01) ** (1 / 2.2), rtol=1e-6)
