import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import isp
from isp import tone

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


def test_precision_is_kept_and_vmap_equals_batch_axes():
    def correct(rgb):
        return tone.gamma_correct(rgb, 2.2)

    np.testing.assert_array_equal(jax.vmap(correct)(RGB), correct(RGB))
    assert correct(RGB).dtype == jnp.float32
    with jax.enable_x64(True):
        assert correct(jnp.array(RGB)).dtype == jnp.float32
        assert correct(jnp.array(RGB, jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(3, 8, 8\)"),
        (np.zeros((8, 3), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), "rgb must be floating point with white at 1, got uint8: divide by its white"),
    ],
)
def test_refuses_arrays_that_are_not_images(rgb, message, unchecked):
    with pytest.raises(ValueError, match=message):
        tone.gamma_correct(rgb, 2.2)


def test_color_exports_the_published_name():
    assert isp.color.gamma_correct is tone.gamma_correct
