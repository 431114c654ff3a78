import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from isp import cfa, color, denoise, sharpen

RGB = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
# Every way in which channels can be equal, including grays, primaries and secondaries.
TIES = np.array(list(itertools.product((0, 0.25, 0.5, 1), repeat=3)), np.float32)[None]


def test_white_balance_scales_channels():
    np.testing.assert_allclose(color.white_balance(RGB, jnp.array([2.0, 1, -0.5])), RGB * [2, 1, -0.5], rtol=1e-6)


def test_color_matrix_has_outputs_in_rows():
    matrix = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    np.testing.assert_allclose(color.color_correct(RGB, jnp.array(matrix)), RGB @ matrix.T, atol=1e-6)


def test_yuv_of_gray_and_primaries():
    np.testing.assert_allclose(color.rgb_to_yuv(jnp.full((1, 1, 3), 0.5)), [[[0.5, 0, 0]]], atol=1e-7)
    np.testing.assert_allclose(color.rgb_to_yuv(jnp.eye(3)[None]), color.RGB_TO_YUV.T[None], atol=1e-7)


def test_yuv_round_trip():
    np.testing.assert_allclose(color.yuv_to_rgb(color.rgb_to_yuv(jnp.array(RGB))), RGB, atol=1e-6)


def test_with_luma_equals_replacing_y_in_yuv():
    luma = np.random.default_rng(2).random(RGB.shape[:-1], np.float32)
    yuv = color.rgb_to_yuv(jnp.array(RGB)).at[..., 0].set(luma)
    np.testing.assert_allclose(color.with_luma(RGB, luma), color.yuv_to_rgb(yuv), atol=1e-6)


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.0, 1.7])
def test_saturation_multiplies_u_and_v(amount):
    yuv = color.rgb_to_yuv(jnp.array(RGB)) * jnp.array([1, amount, amount])
    np.testing.assert_allclose(color.saturation(RGB, amount), color.yuv_to_rgb(yuv), atol=1e-6)
    gray = np.repeat(RGB[..., :1], 3, -1)
    np.testing.assert_allclose(color.saturation(gray, amount), gray, atol=1e-6)


def test_gradients_of_saturation_agree_with_finite_differences():
    with jax.enable_x64(True):
        check_grads(color.saturation, (jnp.array(RGB, jnp.float64), jnp.array(1.3)), 1, eps=1e-6)


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
        color.rgb_to_hsv,
        color.hsv_to_rgb,
        sharpen.sharpening_filter,
        lambda rgb: denoise.gaussian_blur(rgb, jnp.ones((5, 5))),
        cfa.mosaic,
    ],
)
def test_refuses_arrays_that_are_not_images(function, rgb, message, unchecked):
    with pytest.raises(ValueError, match=message):
        function(rgb)


@pytest.mark.parametrize("rgb", [RGB, TIES], ids=["random", "ties"])
def test_hsv_agrees_with_skimage(rgb):
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = color.rgb_to_hsv(rgb)
    np.testing.assert_allclose(hsv, rgb2hsv(rgb), atol=1e-6)
    np.testing.assert_allclose(color.hsv_to_rgb(rgb), hsv2rgb(rgb), atol=1e-6)
    np.testing.assert_allclose(color.hsv_to_rgb(hsv), rgb, atol=1e-6)


def test_hue_is_an_angle_in_turns():
    hsv = color.rgb_to_hsv(RGB)
    for turns in (-2, 1, 3):
        np.testing.assert_allclose(color.hsv_to_rgb(hsv + jnp.array([turns, 0, 0])), RGB, atol=5e-6)


@pytest.mark.parametrize("function", [color.rgb_to_hsv, color.hsv_to_rgb])
@pytest.mark.parametrize(
    "image", [TIES, 1e-30 * TIES, 0.5 + 1e-7 * TIES, -TIES], ids=["ties", "nearly black", "nearly gray", "negative"]
)
def test_hsv_has_finite_gradients_everywhere(function, image):
    rows = jax.vmap(jax.vmap(jax.jacrev(lambda pixel: function(pixel[None, None])[0, 0])))(image)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("function", [color.rgb_to_hsv, color.hsv_to_rgb])
def test_gradients_agree_with_finite_differences(function):
    with jax.enable_x64(True):
        check_grads(function, (jnp.array(RGB, jnp.float64),), 1, eps=1e-6)


@pytest.mark.parametrize("function", [color.rgb_to_hsv, color.hsv_to_rgb])
def test_precision_is_kept_and_vmap_equals_batch_axes(function):
    np.testing.assert_array_equal(jax.vmap(function)(RGB), function(RGB))
    assert function(RGB).dtype == jnp.float32
    with jax.enable_x64(True):
        assert function(jnp.array(RGB)).dtype == jnp.float32
        assert function(jnp.array(RGB, jnp.float64)).dtype == jnp.float64
