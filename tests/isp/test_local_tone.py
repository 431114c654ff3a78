import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from jax.test_util import check_grads
from scipy import ndimage

from isp import tone

RNG = np.random.default_rng(0)
RGB = RNG.random((2, 16, 24, 3), np.float32)
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


@pytest.mark.parametrize("size", [(16, 24), (17, 22), (3, 5), (2, 2), (1, 1)])
@pytest.mark.parametrize(
    "settings", variants.quick(2, [{}, {"cell": 3, "size": 3, "smoothness": 0.01}, {"cell": 1, "size": 5}])
)
def test_agrees_with_a_direct_computation(size, settings):
    rgb = RNG.random((*size, 3), np.float32) ** 3
    expected = directly(rgb, 0.4, 1.3, **settings)
    np.testing.assert_allclose(tone.local_tone_map(rgb, 0.4, 1.3, **settings), expected, rtol=2e-4)


def test_no_strength_and_whole_detail_change_nothing():
    np.testing.assert_allclose(tone.local_tone_map(RGB, 0.0, 1.0), RGB, rtol=1e-5)


@pytest.mark.parametrize("level", [0.01, 0.2, 1.0])
def test_a_constant_image_is_brightened_by_its_logarithm(level):
    rgb = np.full((8, 12, 3), level, np.float32)
    np.testing.assert_allclose(tone.local_tone_map(rgb, 0.3), level * (level + 1e-3) ** -0.3, rtol=1e-5)


def test_a_strong_edge_is_compressed_and_texture_is_kept():
    texture = 1 + 0.02 * np.tile([[1.0, -1.0], [-1.0, 1.0]], (32, 32))
    light = np.where(np.arange(64) < 32, 1.0, 0.01) * texture
    rgb = np.repeat(light[..., None], 3, -1).astype(np.float32)
    mapped = np.asarray(tone.local_tone_map(rgb, 0.5))[..., 0]
    bright, dark = mapped[24:40, 2:14], mapped[24:40, -14:-2]
    # The floor of 0.001 makes the edge of 100 one of 91, whose root is removed. A texture of 2 % stays one of 2 %.
    assert bright.mean() / dark.mean() == pytest.approx(100 / 91**0.5, rel=0.02)
    for part in (bright, dark):
        assert part.std() / part.mean() == pytest.approx(0.02, rel=0.15)


def test_the_ratios_of_channels_stay():
    mapped = np.asarray(tone.local_tone_map(RGB + 0.01, 0.5, 1.5))
    np.testing.assert_allclose(
        mapped[..., :2] / mapped[..., 2:], (RGB[..., :2] + 0.01) / (RGB[..., 2:] + 0.01), rtol=1e-4
    )


@pytest.mark.parametrize("value", [0.0, -0.5, 1.0])
@pytest.mark.parametrize("size", variants.quick(1, [(2, 2), (8, 8)]))
def test_black_negative_and_saturated_images_have_finite_values_and_gradients(size, value):
    rgb = jnp.full((*size, 3), value)
    assert np.isfinite(tone.local_tone_map(rgb)).all()
    gradients = jax.grad(lambda *a: tone.local_tone_map(*a).sum(), (0, 1, 2))(rgb, 0.3, 1.2)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("size", variants.quick(1, [(8, 12), (7, 10)]))
def test_gradients_agree_with_finite_differences(size):
    with jax.enable_x64(True):
        rgb = jnp.array(RGB[:, : size[0], : size[1]], jnp.float64)
        arguments = rgb, jnp.array(0.4), jnp.array(1.3)
        check_grads(lambda *a: tone.local_tone_map(*a, size=3), arguments, 1, ["rev"], eps=1e-6)


def test_vmap_equals_batch_axes_and_precision_is_kept():
    expected = np.stack([tone.local_tone_map(rgb) for rgb in RGB])
    np.testing.assert_allclose(tone.local_tone_map(RGB), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(tone.local_tone_map)(RGB), expected, rtol=1e-5)
    assert tone.local_tone_map(RGB).dtype == jnp.float32
    assert tone.local_tone_map(RGB[:0]).shape == (0, 16, 24, 3)
    with jax.enable_x64(True):
        assert tone.local_tone_map(jnp.array(RGB)).dtype == jnp.float32
        assert tone.local_tone_map(jnp.array(RGB, jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothness": 0.0}, "smoothness must be positive, got 0.0"),
        ({"floor": -1.0}, "floor must be positive, got -1.0"),
        ({"cell": 0}, "cell must be positive, got 0"),
        ({"size": 4}, "size must be an odd number of pixels, got 4"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        tone.local_tone_map(RGB, **settings)
