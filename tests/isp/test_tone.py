import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import isp
from isp import tone

RISES = np.float32([0.5, -1.0, 0.3, 2.0, 0.0])
RGB = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)


def test_gamma():
    np.testing.assert_allclose(tone.gamma_correct(RGB + 0.01, 2.2), (RGB + 0.01) ** (1 / 2.2), rtol=1e-6)


def test_gamma_is_flat_at_and_below_black():
    dark = jnp.array([[[-1.0, -1e-20, 0.0]]])
    np.testing.assert_array_equal(tone.gamma_correct(dark, 2.2), 0)
    rgb_gradient, gamma_gradient = jax.grad(lambda rgb, gamma: tone.gamma_correct(rgb, gamma).sum(), (0, 1))(dark, 2.2)
    np.testing.assert_array_equal(rgb_gradient, 0)
    assert gamma_gradient == 0


def test_gamma_keeps_nan():
    np.testing.assert_array_equal(tone.gamma_correct(jnp.array([[[np.nan, -1.0, 1.0]]]), 2.2), [[[np.nan, 0, 1]]])


def test_gamma_can_be_learned():
    with jax.enable_x64(True):
        rgb = jnp.array(RGB, jnp.float64).at[0].set(0)
        check_grads(lambda gamma: tone.gamma_correct(rgb, gamma), (jnp.array(2.2),), 1)


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        check_grads(lambda rgb: tone.gamma_correct(rgb, 2.2), (jnp.array(RGB, jnp.float64),), 1, eps=1e-6)


CURVES = {
    "gamma_correct": lambda rgb: tone.gamma_correct(rgb, 2.2),
    "srgb": tone.srgb,
    "contrast": lambda rgb: tone.contrast(rgb, 1.2, 0.4),
    "curve": lambda rgb: tone.curve(rgb, RISES),
}


@pytest.mark.parametrize("name", CURVES)
def test_precision_is_kept_and_vmap_equals_batch_axes(name):
    correct = CURVES[name]
    np.testing.assert_array_equal(jax.vmap(correct)(RGB), correct(RGB))
    assert correct(RGB).dtype == jnp.float32
    with jax.enable_x64(True):
        assert correct(jnp.array(RGB)).dtype == jnp.float32
        assert correct(jnp.array(RGB, jnp.float64)).dtype == jnp.float64


def test_srgb_follows_its_standard():
    values = np.linspace(-0.5, 2, 2001)[:, None, None] * np.ones(3)
    expected = np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(tone.srgb(values.astype(np.float32)), expected, atol=1e-6)
    ends = tone.srgb(jnp.array([[[0.0, 1.0, 0.5]]]))
    np.testing.assert_allclose(ends, [[[0, 1, 0.735357]]], atol=1e-6)


def test_srgb_has_no_jump_and_a_finite_slope_at_black():
    around = jnp.array([[[0.00313079, 0.00313081, 0.0]]])
    assert abs(float(tone.srgb(around)[0, 0, 1] - tone.srgb(around)[0, 0, 0])) < 1e-6
    np.testing.assert_allclose(jax.grad(lambda rgb: tone.srgb(rgb).sum())(jnp.zeros((1, 1, 3))), 12.92, rtol=1e-6)


def test_contrast_keeps_the_pivot_and_an_amount_of_one_changes_nothing():
    np.testing.assert_allclose(tone.contrast(jnp.full((1, 2, 3), 0.4), 3.0, 0.4), 0.4, rtol=1e-6)
    np.testing.assert_allclose(tone.contrast(RGB, 1.0), RGB, atol=1e-7)
    np.testing.assert_allclose(tone.contrast(RGB, 1.5, 0.4), 0.4 + 1.5 * (RGB - 0.4), atol=1e-6)


def test_curve_goes_through_its_knots_and_on_beyond_them():
    rises = np.exp(RISES.astype(np.float64)) / np.exp(RISES.astype(np.float64)).sum()
    values = np.linspace(-0.5, 1.5, 101)
    expected = np.interp(values, np.linspace(0, 1, 6), np.concatenate([[0], rises.cumsum()]))
    expected += 5 * (rises[0] * np.minimum(values, 0) + rises[-1] * np.maximum(values - 1, 0))
    rgb = np.repeat(values, 3).reshape(1, -1, 3).astype(np.float32)
    np.testing.assert_allclose(tone.curve(rgb, RISES), np.repeat(expected, 3).reshape(1, -1, 3), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_equal_rises_change_nothing(count):
    np.testing.assert_allclose(tone.curve(2 * RGB - 0.5, np.full(count, 0.7, np.float32)), 2 * RGB - 0.5, atol=1e-6)


def test_a_curve_rises_whatever_its_parameters():
    values = np.sort(np.random.default_rng(1).random(3000, np.float32) * 1.4 - 0.2)
    for scale in (1, 10, 100):
        for seed in range(5):
            rises = np.random.default_rng(seed).normal(scale=scale, size=8).astype(np.float32)
            curve = np.asarray(tone.curve(values.reshape(1, -1, 3), rises)).ravel()
            assert (np.diff(curve) >= 0).all()
            np.testing.assert_allclose(tone.curve(jnp.array([[[0.0, 0.0, 1.0]]]), rises), [[[0, 0, 1]]], atol=1e-6)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [(tone.srgb, ()), (tone.contrast, (1.2, 0.4)), (tone.curve, (RISES,))],
)
def test_gradients_of_each_curve_agree_with_finite_differences(function, parameters):
    with jax.enable_x64(True):
        rgb = jnp.array(2 * RGB - 0.5, jnp.float64)
        check_grads(function, (rgb, *(jnp.array(each, jnp.float64) for each in parameters)), 1, eps=1e-7)


def test_a_curve_without_segments_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"rises must have shape \(segments,\), got \(0,\)"):
        tone.curve(RGB, np.zeros(0, np.float32))


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(3, 8, 8\)"),
        (np.zeros((8, 3), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), "rgb must be floating point with white at 1, got uint8: divide by its white"),
    ],
)
@pytest.mark.parametrize("name", CURVES)
def test_refuses_arrays_that_are_not_images(name, rgb, message, unchecked):
    with pytest.raises(ValueError, match=message):
        CURVES[name](rgb)


def test_color_exports_the_published_name():
    assert isp.color.gamma_correct is tone.gamma_correct
