import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from scipy import ndimage

from isp import color, tone

RISES = np.float32([0.5, -1.0, 0.3, 2.0, 0.0])
RNG = np.random.default_rng(0)
RGB = RNG.random((2, 4, 6, 3), np.float32)


def test_gamma_is_flat_at_and_below_black():
    dark = jnp.array([[[-1.0, -1e-20, 0.0]]])
    np.testing.assert_array_equal(color.gamma_correct(dark, 2.2), 0)
    gradients = jax.grad(lambda rgb, gamma: color.gamma_correct(rgb, gamma).sum(), (0, 1))(dark, 2.2)
    assert not any(np.any(gradient) for gradient in gradients)
    np.testing.assert_array_equal(color.gamma_correct(jnp.array([[[np.nan, -1.0, 1.0]]]), 2.2), [[[np.nan, 0, 1]]])


def test_srgb_follows_its_standard():
    values = np.linspace(-0.5, 2, 2001)[:, None, None] * np.ones(3)
    expected = np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(tone.srgb(values.astype(np.float32)), expected, atol=1e-6)


@pytest.mark.shows("isp.tone.contrast(pivot)")
def test_contrast_stretches_values_away_from_the_pivot():
    np.testing.assert_allclose(tone.contrast(RGB, 1.5, 0.4), 0.4 + 1.5 * (RGB - 0.4), atol=1e-6)


def test_curve_goes_through_its_knots_and_on_beyond_them():
    rises = np.exp(RISES.astype(np.float64)) / np.exp(RISES.astype(np.float64)).sum()
    values = np.linspace(-0.5, 1.5, 101)
    expected = np.interp(values, np.linspace(0, 1, 6), np.concatenate([[0], rises.cumsum()]))
    expected += 5 * (rises[0] * np.minimum(values, 0) + rises[-1] * np.maximum(values - 1, 0))
    rgb = np.repeat(values, 3).reshape(1, -1, 3).astype(np.float32)
    np.testing.assert_allclose(tone.curve(rgb, RISES), np.repeat(expected, 3).reshape(1, -1, 3), atol=1e-6)


def test_a_curve_rises_whatever_its_parameters():
    values = np.sort(RNG.random(3000, np.float32) * 1.4 - 0.2).reshape(1, -1, 3)
    for scale in (1, 10, 100):
        for _ in range(5):
            rises = RNG.normal(scale=scale, size=8).astype(np.float32)
            assert (np.diff(np.ravel(tone.curve(values, rises))) >= 0).all()
            np.testing.assert_allclose(tone.curve(jnp.array([[[0.0, 0.0, 1.0]]]), rises), [[[0, 0, 1]]], atol=1e-6)


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def bilinear(cells, cell, size):
    """Interpolates the values at the centers of cells to pixels; beyond the outer centers they go on unchanged."""
    for axis in (0, 1):
        places = (np.arange(size[axis]) + 0.5) / cell - 0.5
        known = np.arange(cells.shape[axis])
        cells = np.apply_along_axis(lambda values, p=places, k=known: np.interp(p, k, values), axis, cells)
    return cells


def directly(rgb, strength, detail, smoothness=0.1, size=9, cell=4, floor=1e-3):
    """Computes the local tone map in float64: He, Sun and Tang's filter, with SciPy's means over windows."""
    rgb = rgb.astype(np.float64)
    guide = np.log(np.maximum(rgb @ LUMINANCE, 0) + floor)
    height, width = guide.shape
    whole = np.pad(guide, ((0, -height % cell), (0, -width % cell)), mode="edge")
    cells = whole.reshape(whole.shape[0] // cell, cell, -1, cell).mean((1, 3))

    def mean(plane):
        return ndimage.uniform_filter(plane, size, mode="reflect")

    variance = mean(cells**2) - mean(cells) ** 2
    slope = variance / (variance + smoothness)
    slope, intercept = mean(slope), mean((1 - slope) * mean(cells))
    base = bilinear(slope, cell, guide.shape) * guide + bilinear(intercept, cell, guide.shape)
    return rgb * np.exp((1 - strength) * base + detail * (guide - base) - guide)[..., None]


@pytest.mark.shows("isp.tone.local_tone_map(strength, detail, smoothness, size, cell, floor)")
@pytest.mark.parametrize("size", [(17, 22), (1, 1), (2, 5)])
@pytest.mark.parametrize(
    "settings", variants.quick(1, [{"cell": 3, "size": 3, "smoothness": 0.01, "floor": 0.02}, {}, {"cell": 1}])
)
def test_agrees_with_a_direct_computation(size, settings):
    rgb = RNG.random((*size, 3), np.float32) ** 3
    expected = directly(rgb, 0.4, 1.3, **settings)
    np.testing.assert_allclose(tone.local_tone_map(rgb, 0.4, 1.3, **settings), expected, rtol=2e-4)


def test_refuses(unchecked):
    with pytest.raises(ValueError, match="smoothness must be positive, got 0"):
        tone.local_tone_map(RGB, smoothness=0.0)
    with pytest.raises(ValueError, match=r"rises must have shape \(segments,\), got \(0,\)"):
        tone.curve(RGB, np.zeros(0, np.float32))
