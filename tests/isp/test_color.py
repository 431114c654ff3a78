import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import isp as oracle

from isp import cfa, color

RGB = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
# Every way in which channels can be equal, including grays, primaries and secondaries.
TIES = np.array(list(itertools.product((0, 0.25, 0.5, 1), repeat=3)), np.float32)[None]
GAINS = np.float32([1.0, 2.0, 1.5])  # Red has the least gain.
RAISED = RGB * GAINS


def test_color_matrix_has_outputs_in_rows():
    matrix = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    np.testing.assert_allclose(color.color_correct(RGB, jnp.array(matrix)), RGB @ matrix.T, atol=1e-6)


def test_yuv_of_gray_and_back():
    np.testing.assert_allclose(color.rgb_to_yuv(jnp.full((1, 1, 3), 0.5)), [[[0.5, 0, 0]]], atol=1e-7)
    np.testing.assert_allclose(color.yuv_to_rgb(color.rgb_to_yuv(jnp.array(RGB))), RGB, atol=1e-6)


def test_saturation_multiplies_u_and_v():
    yuv = color.rgb_to_yuv(jnp.array(RGB)) * jnp.array([1, 1.7, 1.7])
    np.testing.assert_allclose(color.saturation(RGB, 1.7), color.yuv_to_rgb(yuv), atol=1e-6)


@pytest.mark.parametrize("rgb", [RGB, TIES], ids=["random", "ties"])
def test_hsv_agrees_with_skimage(rgb):
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = color.rgb_to_hsv(rgb)
    np.testing.assert_allclose(hsv, rgb2hsv(rgb), atol=1e-6)
    np.testing.assert_allclose(color.hsv_to_rgb(rgb), hsv2rgb(rgb), atol=1e-6)
    np.testing.assert_allclose(color.hsv_to_rgb(hsv), rgb, atol=1e-6)
    np.testing.assert_allclose(color.hsv_to_rgb(hsv + jnp.array([-2, 0, 0])), rgb, atol=5e-6)


@pytest.mark.parametrize("function", [color.rgb_to_hsv, color.hsv_to_rgb])
def test_hsv_has_finite_gradients_everywhere(function):
    jacobians = jax.jit(jax.vmap(jax.vmap(jax.jacrev(lambda pixel: function(pixel[None, None])[0, 0]))))
    for image in (TIES, 1e-30 * TIES, 0.5 + 1e-7 * TIES, -TIES):
        assert np.isfinite(jacobians(image)).all()


@pytest.mark.shows("isp.color.balance_mosaic(pattern, clip)")
@pytest.mark.parametrize("pattern", ["GBRG", "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"])
def test_a_balanced_mosaic_is_the_mosaic_of_the_balanced_image(pattern):
    expected = oracle.mosaic(RAISED, pattern)
    raw = cfa.mosaic(RGB, pattern)
    np.testing.assert_array_equal(color.balance_mosaic(raw, pattern=pattern, gains=GAINS), expected)
    np.testing.assert_array_equal(
        color.balance_mosaic(raw, pattern=pattern, gains=GAINS, clip=True), np.minimum(expected, 1)
    )


@pytest.mark.parametrize("mode", ["clip", "desaturate"])
def test_saturated_pixels_become_white_at_the_least_gain(mode):
    gains = jnp.array([1.2, 1.4, 0.7])
    saturated = jnp.ones((2, 3, 3)) * gains
    np.testing.assert_array_equal(color.highlights(saturated, gains, mode), gains.min())


@pytest.mark.shows("isp.color.highlights(mode, start)")
@pytest.mark.parametrize("start", [0.8, 0.3])
def test_desaturate_fades_with_the_fullest_channel(start):
    levels = RGB.max(-1, keepdims=True).astype(np.float64)
    rise = np.clip((levels - start) / (1 - start), 0, 1)
    fade = rise**2 * (3 - 2 * rise)
    clipped = np.minimum(RAISED, 1)
    np.testing.assert_array_equal(color.highlights(RAISED, GAINS), clipped)
    faded = color.highlights(RAISED, GAINS, "desaturate", **{"start": start} if start != 0.8 else {})
    np.testing.assert_allclose(faded, clipped + fade * (1 - clipped), atol=1e-6)


def test_lab_agrees_with_skimage():
    from skimage.color import rgb2lab

    for rgb in (RGB, TIES, 0.05 * TIES):
        np.testing.assert_allclose(color.srgb_to_lab(rgb), rgb2lab(rgb), atol=2e-4)


# Pairs of Sharma, Wu and Dalal (2005), table 1: colors beside a gray, opposite hues on both sides of half a turn, hues
# on both sides of a full turn, large and small differences, and dark colors.
SHARMA = np.array(
    [
        [50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425],
        [50, 0, 0, 50, -1, 2, 2.3669],
        [50, 2.49, -0.001, 50, -2.49, 0.0009, 7.1792],
        [50, 2.49, -0.001, 50, -2.49, 0.0011, 7.2195],
        [50, -0.001, 2.49, 50, 0.0011, -2.49, 4.7461],
        [50, 2.5, 0, 50, 0, -2.5, 4.3065],
        [50, 2.5, 0, 56, -27, -3, 31.9030],
        [60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644],
        [22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373],
        [2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082],
    ],
    np.float32,
)


def test_color_differences_are_the_published_ones():
    first, second, expected = SHARMA[:, None, :3], SHARMA[:, None, 3:6], SHARMA[:, 6:]
    np.testing.assert_allclose(color.ciede2000(first, second), expected, atol=1e-4)
    np.testing.assert_allclose(color.ciede2000(second, first), expected, atol=1e-4)


def test_color_differences_have_finite_gradients_everywhere():
    def difference(first, second):
        return color.ciede2000(color.srgb_to_lab(first), color.srgb_to_lab(second)).sum()

    for first, second in ((TIES, TIES), (TIES, TIES[:, ::-1]), (TIES, 0 * TIES)):
        assert all(np.isfinite(each).all() for each in jax.grad(difference, (0, 1))(first, second))
