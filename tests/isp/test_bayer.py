import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from isp import bayer, cfa, demosaic

RGB = np.random.default_rng(0).random((2, 6, 10, 3), np.float32)
RAW = np.random.default_rng(1).random((2, 6, 10), np.float32)
SITES = ((0, 0), (0, 1), (1, 0), (1, 1))


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_mosaic_samples_the_named_color_at_each_site(pattern):
    mosaic = cfa.mosaic(RGB, pattern)
    for (row, col), letter in zip(SITES, pattern, strict=True):
        np.testing.assert_array_equal(mosaic[:, row::2, col::2], RGB[:, row::2, col::2, "RGB".index(letter)])


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_spread_keeps_every_site_once_in_its_plane(pattern):
    planes = cfa.spread(RAW, pattern)
    np.testing.assert_array_equal(planes.sum(-1), RAW)
    np.testing.assert_array_equal((planes != 0).sum(-1), 1)
    np.testing.assert_array_equal(cfa.mosaic(planes, pattern), RAW)


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_half_size_averages_the_greens(pattern):
    phases = dict(zip(SITES, pattern, strict=True))
    expected = [
        np.mean([RAW[:, r::2, c::2] for (r, c), letter in phases.items() if letter == channel], 0) for channel in "RGB"
    ]
    np.testing.assert_allclose(demosaic.binned(RAW, pattern), np.stack(expected, -1), rtol=1e-6)


def test_space_to_depth_is_in_cfa_order_and_can_be_undone():
    phases = bayer.space_to_depth(RAW)
    for i, (row, col) in enumerate(SITES):
        np.testing.assert_array_equal(phases[..., i], RAW[:, row::2, col::2])
    np.testing.assert_array_equal(bayer.depth_to_space(phases), RAW)


def test_black_level_is_subtracted_in_cfa_order_without_clipping():
    level = jnp.array([0.1, 0.2, 0.3, 2.0])
    black = cfa.subtract_black_level(RAW, level)
    for i, (row, col) in enumerate(SITES):
        np.testing.assert_allclose(black[:, row::2, col::2], RAW[:, row::2, col::2] - level[i], atol=1e-7)
    assert black.min() < -1


def test_rescaling_keeps_white_at_one():
    level = jnp.array([0.1, 0.2, 0.3, 0.5])
    np.testing.assert_allclose(cfa.subtract_black_level(jnp.ones((2, 4)), level, rescale=True), 1, rtol=1e-6)
    plain = cfa.subtract_black_level(RAW, level)
    expected = bayer.depth_to_space(bayer.space_to_depth(plain) / (1 - level))
    np.testing.assert_allclose(cfa.subtract_black_level(RAW, level, rescale=True), expected, atol=1e-6)


def test_gradients_of_rescaling_agree_with_finite_differences():
    with jax.enable_x64(True):
        arguments = jnp.array(RAW, jnp.float64), jnp.array([0.1, 0.2, 0.3, 0.5])
        check_grads(lambda raw, level: cfa.subtract_black_level(raw, level, rescale=True), arguments, 1, eps=1e-6)


@pytest.mark.parametrize("function", [bayer.space_to_depth, cfa.spread, demosaic.binned])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((4, 4), np.uint16), "raw must be floating point with the white level at 1, got uint16: divide by"),
        (np.zeros(4, np.float32), r"raw must be \(..., H, W\), got shape \(4,\)"),
        (np.zeros((5, 4), np.float32), r"raw must have an even height and width, got shape \(5, 4\)"),
        (np.zeros((4, 7), np.float32), r"raw must have an even height and width, got shape \(4, 7\)"),
        (np.zeros((0, 4), np.float32), r"raw must have an even height and width, got shape \(0, 4\)"),
    ],
)
def test_refuses_arrays_that_are_not_mosaics(function, raw, message, unchecked):
    with pytest.raises(ValueError, match=message):
        function(raw)


@pytest.mark.parametrize("function", [cfa.spread, demosaic.binned, lambda raw, p: cfa.mosaic(RGB, p)])
def test_refuses_unknown_patterns(function):
    with pytest.raises(ValueError, match=r"pattern must be one of RGGB, .*, MONO, or rows of .*, got 'RGBG'"):
        function(RAW, "RGBG")


def test_refuses_another_number_of_levels(unchecked):
    with pytest.raises(
        ValueError, match=r"black_level must have shape \(4,\), one level a site in CFA order, got \(3,\)"
    ):
        cfa.subtract_black_level(RAW, jnp.zeros(3))


def test_vmap_equals_batch_axes():
    np.testing.assert_array_equal(jax.vmap(cfa.spread)(RAW), cfa.spread(RAW))
