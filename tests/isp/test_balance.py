import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from isp import balance, cfa, color

GAINS = np.float32([1.0, 2.0, 1.5])  # The least is that of red.
RGB = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)


@pytest.mark.parametrize("pattern", [*cfa.BAYER, "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"])
def test_a_balanced_mosaic_is_the_mosaic_of_the_balanced_image(pattern):
    expected = cfa.mosaic(color.white_balance(RGB, GAINS), pattern)
    raw = cfa.mosaic(RGB, pattern)
    np.testing.assert_array_equal(balance.balance_mosaic(raw, GAINS, pattern), expected)
    np.testing.assert_array_equal(balance.balance_mosaic(raw, GAINS, pattern, clip=True), np.minimum(expected, 1))


def test_a_saturated_mosaic_becomes_white():
    for channels in itertools.permutations(0.5 * GAINS):
        np.testing.assert_array_equal(balance.balance_mosaic(jnp.ones((2, 2)), jnp.array(channels), clip=True), 0.5)


@pytest.mark.parametrize("power", [1.0, 2.5, 6.0, 60.0])
def test_gains_follow_the_minkowski_norm(power):
    norms = (RGB.astype(np.float64) ** power).mean((1, 2)) ** (1 / power)
    np.testing.assert_allclose(color.shades_of_gray(RGB, power), norms[:, 1:2] / norms, rtol=2e-5)


def test_a_power_of_one_is_the_gray_world_and_a_great_one_the_white_patch():
    means, tops = RGB.mean((1, 2)), RGB.max((1, 2))
    np.testing.assert_allclose(color.shades_of_gray(RGB, 1.0), means[:, 1:2] / means, rtol=1e-5)
    np.testing.assert_allclose(color.shades_of_gray(RGB, 1e4), tops[:, 1:2] / tops, rtol=1e-3)


@pytest.mark.parametrize("light", [(0.4, 1.0, 0.7), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("power", [1.0, 6.0])
def test_a_gray_scene_becomes_gray_under_any_light(power, light):
    scene = RGB[..., :1] * np.float32(light)
    balanced = np.asarray(color.auto_white_balance(scene, power))
    np.testing.assert_allclose(balanced, np.repeat(scene[..., 1:2], 3, -1), rtol=1e-5)


def test_the_light_of_the_estimate_does_not_depend_on_exposure():
    for exposure in (1e-6, 1e-2, 1e3):
        np.testing.assert_allclose(color.shades_of_gray(exposure * RGB), color.shades_of_gray(RGB), rtol=1e-4)


def test_share_mixes_estimate_and_camera_geometrically():
    estimate = color.shades_of_gray(RGB)[:, None, None]
    for share in (0.0, 0.3, 1.0):
        expected = RGB * estimate**share * GAINS ** (1 - share)
        np.testing.assert_allclose(color.auto_white_balance(RGB, 6.0, GAINS, share), expected, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.0])
@pytest.mark.parametrize("size", [(2, 2), (1, 1)])
def test_black_negative_and_saturated_images_stay_and_have_finite_gradients(size, value):
    rgb = jnp.full((*size, 3), value)
    np.testing.assert_array_equal(color.auto_white_balance(rgb), rgb)
    gradients = jax.grad(lambda rgb, power: color.auto_white_balance(rgb, power).sum(), (0, 1))(rgb, 6.0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_channel_without_light_keeps_its_gain_of_one():
    rgb = RGB.copy()
    rgb[..., 2] = 0
    gains = color.shades_of_gray(rgb)
    np.testing.assert_array_equal(gains[:, 1:], 1)
    np.testing.assert_allclose(gains[:, 0], color.shades_of_gray(RGB)[:, 0], rtol=1e-6)
    rgb[..., 1] = 0
    np.testing.assert_array_equal(color.shades_of_gray(rgb), 1)


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        rgb, gains = jnp.array(RGB + 0.05, jnp.float64), jnp.array(GAINS, jnp.float64)
        check_grads(color.shades_of_gray, (rgb, jnp.array(2.5)), 1, eps=1e-6)
        check_grads(color.auto_white_balance, (rgb, jnp.array(2.5), gains, jnp.array(0.4)), 1, eps=1e-6)
        raw = jnp.array(RGB[..., 0], jnp.float64)
        check_grads(lambda raw, gains: balance.balance_mosaic(raw, gains, "GRBG", True), (raw, gains), 1, eps=1e-7)


def test_vmap_equals_batch_axes_and_precision_is_kept():
    batch = np.stack([RGB, 0.5 * RGB**2])
    expected = np.stack([[color.auto_white_balance(image) for image in row] for row in batch])
    np.testing.assert_allclose(color.auto_white_balance(batch), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(color.auto_white_balance)(batch), expected, rtol=1e-6)
    assert color.auto_white_balance(RGB).dtype == jnp.float32
    with jax.enable_x64(True):
        assert color.auto_white_balance(jnp.array(RGB)).dtype == jnp.float32
        assert color.auto_white_balance(jnp.array(RGB, jnp.float64)).dtype == jnp.float64


def test_refuses(unchecked):
    with pytest.raises(ValueError, match=r"rgb must be \(..., H, W, 3\), channels last, got shape \(2, 4, 6\)"):
        color.auto_white_balance(RGB[..., 0])
    with pytest.raises(ValueError, match=r"pattern must be one of RGGB, .*, got 'RGBG'"):
        balance.balance_mosaic(RGB[..., 0], GAINS, "RGBG")
