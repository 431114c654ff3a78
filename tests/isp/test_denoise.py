import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from isp import color, denoise

RNG = np.random.default_rng(0)
# Most have one shape, so that functions are compiled for it only once.
IMAGES = {
    "random": RNG.random((13, 10, 3)),
    "with negative values": RNG.random((13, 10, 3)) - 0.3,
    "edge": np.tile(np.repeat([0.1, 0.9], [4, 6])[:, None] * [1.0, 0.5, 0.2], (13, 1, 1)),
    "impulse": np.pad(np.ones((1, 1, 3)), ((6, 6), (9, 0), (0, 0))),
    "constant": np.full((13, 10, 3), 0.4),
    "all values below zero": RNG.random((13, 10, 3)) - 2,
    "smaller than the window": RNG.random((2, 3, 3)),
}
IMAGES = {name: image.astype(np.float32) for name, image in IMAGES.items()}
# Images of different spread, for settings that follow from each image.
BATCH = RNG.random((2, 2, 8, 7, 3), np.float32) * np.float32([[0.1, 0.5], [1, 3]])[..., None, None, None]
DENOISERS = {
    "gaussian_denoising": denoise.gaussian_denoising,
    "median_denoising": denoise.median_denoising,
    "fft_denoising": denoise.fft_denoising,
    "soft fft_denoising": lambda rgb: denoise.fft_denoising(rgb, softness=2.0),
    "bilateral": lambda rgb: denoise.bilateral(rgb, size=3),
    "chroma_denoising": denoise.chroma_denoising,
    "nlm_denoising": lambda rgb: denoise.nlm_denoising(rgb, 0.2, 3, 2),
}


def on_luma(function, rgb):
    """Filters the luma of an image by way of YUV, in float64."""
    yuv = rgb.astype(np.float64) @ color.RGB_TO_YUV.T
    yuv[..., 0] = function(yuv[..., 0])
    return yuv @ color.YUV_TO_RGB.T


@pytest.mark.parametrize("name", DENOISERS)
def test_batches_and_vmap_equal_one_by_one(name):
    function = DENOISERS[name]
    expected = np.stack([[function(image) for image in row] for row in BATCH])
    np.testing.assert_allclose(function(BATCH), expected, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(function)(BATCH), expected, atol=2e-6)


@pytest.mark.parametrize("name", DENOISERS)
def test_precision_is_kept(name):
    function = DENOISERS[name]
    assert function(BATCH).dtype == jnp.float32
    with jax.enable_x64(True):
        assert function(jnp.array(BATCH)).dtype == jnp.float32
        assert function(jnp.array(BATCH, jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1, 1e-3])
@pytest.mark.parametrize("name", DENOISERS)
def test_short_formats_agree_with_float32(name, scale, dtype):
    rgb = jnp.array(scale * BATCH, dtype)
    result, expected = DENOISERS[name](rgb), DENOISERS[name](rgb.astype(jnp.float32))
    assert result.dtype == dtype
    np.testing.assert_allclose(result.astype(jnp.float32), expected, atol=20 * scale * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", DENOISERS)
def test_an_empty_batch_stays_empty(name):
    rgb = jnp.zeros((0, 4, 4, 3))
    assert DENOISERS[name](rgb).shape == rgb.shape
    assert jax.grad(lambda rgb: DENOISERS[name](rgb).sum())(rgb).shape == rgb.shape


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"rgb must be \(..., H, W, 3\), channels last, got shape \(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), "rgb must be floating point with white at 1, got uint8: divide by its white"),
    ],
)
def test_refuses_arrays_that_are_not_images(name, rgb, message, unchecked):
    with pytest.raises(ValueError, match=message):
        DENOISERS[name](rgb)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rgb: denoise.gaussian_denoising(rgb, -1.0), "sigma must be positive, got -1.0"),
        (lambda rgb: denoise.gaussian_denoising(rgb, size=2), "size must be an odd number of pixels, got 2"),
        (lambda rgb: denoise.median_denoising(rgb, 4), "size must be an odd number of pixels, got 4"),
        (lambda rgb: denoise.fft_denoising(rgb, 1.5), r"keep_fraction must be in \[0, 1\], got 1.5"),
        (lambda rgb: denoise.fft_denoising(rgb, softness=0.0), "softness must be positive, got 0.0"),
        (lambda rgb: denoise.bilateral(rgb, 0.0), "sigma_spatial must be positive, got 0.0"),
        (lambda rgb: denoise.bilateral(rgb, sigma_color=0.0), "sigma_color must be positive, got 0.0"),
        (lambda rgb: denoise.bilateral(rgb, size=6), "size must be an odd number of pixels, got 6"),
        (lambda rgb: denoise.bilateral(rgb, bins=2), "bins must be at least 3, one a channel, got 2"),
        (lambda rgb: denoise.chroma_denoising(rgb, -1.0), "sigma must be positive, got -1.0"),
        (lambda rgb: denoise.nlm_denoising(rgb, 0.0), "strength must be positive, got 0.0"),
        (lambda rgb: denoise.nlm_denoising(rgb, patch_size=4), "patch_size must be an odd number of pixels, got 4"),
        (
            lambda rgb: denoise.nlm_denoising(rgb, patch_distance=0),
            "patch_distance must be a positive number of pixels, got 0",
        ),
    ],
)
def test_refuses(function, message):
    with pytest.raises(ValueError, match=message):
        function(BATCH)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (denoise.gaussian_denoising, "size must be given where sigma is traced: a shape cannot follow from its value"),
        (denoise.bilateral, "size must be given where sigma_spatial is traced: a shape cannot follow from its value"),
        (denoise.fft_denoising, "softness must be given where keep_fraction is traced: a hard cut has no derivative"),
    ],
)
def test_refuses_a_traced_parameter_that_decides_a_shape_or_a_cut(function, message):
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda parameter: function(BATCH, parameter))(0.3)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("sigma", [0.5, 2])
def test_gaussian_denoising_agrees_with_scipy(image, sigma):
    expected = on_luma(lambda y: ndimage.gaussian_filter(y, sigma), IMAGES[image])
    np.testing.assert_allclose(denoise.gaussian_denoising(IMAGES[image], sigma), expected, atol=1e-6)


def test_a_learned_sigma_agrees_with_a_fixed_one():
    sigmas = jnp.array([0.5, 1.2])
    result = jax.vmap(lambda sigma: denoise.gaussian_denoising(BATCH, sigma, size=5))(sigmas)
    for i, sigma in enumerate((0.5, 1.2)):
        np.testing.assert_allclose(result[i], denoise.gaussian_denoising(BATCH, sigma, size=5), atol=2e-6)
    np.testing.assert_allclose(result[0], denoise.gaussian_denoising(BATCH, 0.5), atol=2e-6)


@pytest.mark.parametrize(("image", "size"), [*itertools.product(IMAGES, (1, 3, 5)), ("random", 7)])
def test_median_denoising_agrees_with_scipy(image, size):
    expected = on_luma(lambda y: ndimage.median_filter(y, size), IMAGES[image])
    np.testing.assert_allclose(denoise.median_denoising(IMAGES[image], size), expected, atol=1e-6)


@pytest.mark.parametrize("size", [3, 5])
def test_pixels_that_tie_for_the_median_share_its_gradient(size):
    def total_luma(rgb):
        return color.luma(denoise.median_denoising(rgb, size)).sum()

    # All pixels tie. Each is seen size^2 times, because windows that reach over the border see some pixels repeatedly.
    gradient = jax.grad(total_luma)(IMAGES["constant"])
    np.testing.assert_allclose(gradient, np.broadcast_to(color.RGB_TO_YUV[0], gradient.shape), atol=1e-6)
    # However many pixels tie, the median rises as much as the brightness of the image.
    levels = np.round(IMAGES["random"][..., :1] * 4).repeat(3, -1) / 4
    assert jax.grad(total_luma)(levels).sum() == pytest.approx(levels[..., 0].size, rel=1e-5)


def fft_by_numpy(rgb, keep_fraction):
    spectrum, width = np.fft.fft(rgb.astype(np.float64), axis=-2), rgb.shape[-2]
    spectrum[..., int(width * keep_fraction) : int(width * (1 - keep_fraction)), :] = 0
    return np.fft.ifft(spectrum, axis=-2).real


@pytest.mark.parametrize("width", [1, 10, 13, 64])
@pytest.mark.parametrize("keep_fraction", [0, 0.1, 0.3, 0.45, 0.5, 0.8])
def test_fft_denoising_agrees_with_numpy(width, keep_fraction):
    rgb = RNG.normal(size=(2, 4, width, 3)).astype(np.float32)
    expected = fft_by_numpy(rgb, keep_fraction)
    np.testing.assert_allclose(denoise.fft_denoising(rgb, keep_fraction), expected, atol=1e-6)
    with jax.enable_x64(True):
        soft = denoise.fft_denoising(jnp.array(rgb, jnp.float64), keep_fraction, softness=1e-6)
    np.testing.assert_allclose(soft, expected, atol=1e-9)


def test_fft_denoising_keeps_low_frequencies_and_removes_high_ones():
    cols = np.arange(64)
    low, high = (np.cos(2 * np.pi * k * cols / 64 + 0.3).astype(np.float32)[None, :, None] for k in (5, 25))
    rgb = np.float32([1, 0.5, 0.2]) * (low + high) + np.float32([0.1, 0.2, 0.3])
    expected = rgb - np.float32([1, 0.5, 0.2]) * high
    np.testing.assert_allclose(denoise.fft_denoising(rgb), expected, atol=1e-6)
    np.testing.assert_allclose(denoise.fft_denoising(rgb, softness=3.0), expected, atol=1e-6)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(("sigma_spatial", "sigma_color"), [(0.6, None), (1.0, 0.1)])
def test_bilateral_agrees_with_skimage(image, sigma_spatial, sigma_color):
    from skimage.restoration import denoise_bilateral

    rgb = IMAGES[image].astype(np.float64)
    expected, exact = (
        denoise_bilateral(rgb, None, sigma_color, sigma_spatial, bins, channel_axis=-1) for bins in (10_000, 3_000_000)
    )
    result = denoise.bilateral(IMAGES[image], sigma_spatial, sigma_color)
    np.testing.assert_allclose(result, exact, atol=1e-5)
    np.testing.assert_allclose(result, expected, atol=1e-3)
    with jax.enable_x64(True):
        rounded = denoise.bilateral(jnp.array(rgb), sigma_spatial, sigma_color, bins=10_000)
    np.testing.assert_allclose(rounded, expected, atol=1e-12)


def test_a_centered_bilateral_filter_of_all_colors_is_a_gaussian():
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 2 / 0.8**2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    expected = ndimage.correlate(IMAGES["random"].astype(np.float64), kernel[..., None], mode="constant")
    result = denoise.bilateral(IMAGES["random"], 0.8, 1e6, 5, centered=True)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_centered_bilateral_filter_keeps_edges():
    smooth = denoise.bilateral(IMAGES["edge"], 2.0, 0.01, 7, centered=True)
    np.testing.assert_allclose(smooth[3:-3, 3:-3], IMAGES["edge"][3:-3, 3:-3], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.4, -0.4])
def test_an_image_of_one_value_and_its_gradient_do_not_change(value):
    rgb, weight = jnp.full((6, 5, 3), value), RNG.normal(size=(6, 5, 3)).astype(np.float32)

    def loss(rgb, sigma_spatial):
        return (denoise.bilateral(rgb, sigma_spatial, size=3) * weight).sum()

    np.testing.assert_array_equal(denoise.bilateral(rgb), rgb)
    rgb_gradient, sigma_gradient = jax.grad(loss, (0, 1))(rgb, 0.6)
    np.testing.assert_array_equal(rgb_gradient, weight)
    assert sigma_gradient == 0


@pytest.mark.parametrize("scale", [1e-25, 1e-20])
@pytest.mark.parametrize("bins", [None, 10_000])
def test_an_image_whose_variance_underflows_does_not_change(scale, bins):
    rgb = jnp.array(scale * IMAGES["random"])
    np.testing.assert_array_equal(denoise.bilateral(rgb, bins=bins), rgb)
    gradient = jax.grad(lambda rgb: denoise.bilateral(rgb, bins=bins).sum())(rgb)
    np.testing.assert_array_equal(gradient, np.ones_like(rgb))


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (lambda rgb, sigma: denoise.gaussian_denoising(rgb, sigma, 5), (0.7,)),
        (lambda rgb, sigma: denoise.chroma_denoising(rgb, sigma, 5), (0.7,)),
        (lambda rgb, strength: denoise.nlm_denoising(rgb, strength, 3, 2, centered=True), (0.3,)),
        (lambda rgb, strength: denoise.nlm_denoising(rgb, strength, 3, 2), (0.9,)),
        (denoise.median_denoising, ()),
        (lambda rgb: denoise.median_denoising(rgb, 5), ()),
        (denoise.fft_denoising, ()),
        (denoise.fft_denoising, (0.23, 1.5)),
        pytest.param(lambda rgb, spatial: denoise.bilateral(rgb, spatial, None, 5), (0.9,), marks=pytest.mark.slow),
        (lambda rgb, spatial, color: denoise.bilateral(rgb, spatial, color, 3, centered=True), (0.9, 0.2)),
    ],
)
def test_gradients_agree_with_finite_differences(function, parameters):
    with jax.enable_x64(True):
        rgb = jnp.array(np.random.default_rng(1).random((2, 7, 6, 3)) - 0.2)
        check_grads(function, (rgb, *map(jnp.array, parameters)), 1, ["rev"], eps=1e-6)


def test_gradients_ignore_the_rounding_of_the_bilateral_filter():
    rgb = jnp.array(IMAGES["random"])
    gradients = [
        jax.grad(lambda rgb, sigma, bins=bins: (denoise.bilateral(rgb, 0.6, sigma, 3, bins=bins) ** 2).sum(), (0, 1))(
            rgb, 0.2
        )
        for bins in (None, 10_000)
    ]
    np.testing.assert_allclose(gradients[1][0], gradients[0][0], atol=3e-3)
    np.testing.assert_allclose(gradients[1][1], gradients[0][1], rtol=3e-3)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("sigma", [0.5, 2])
def test_chroma_denoising_smooths_u_and_v_as_scipy_does_and_keeps_the_luma(image, sigma):
    yuv = IMAGES[image].astype(np.float64) @ color.RGB_TO_YUV.T
    for channel in (1, 2):
        yuv[..., channel] = ndimage.gaussian_filter(yuv[..., channel], sigma)
    result = denoise.chroma_denoising(IMAGES[image], sigma)
    np.testing.assert_allclose(result, yuv @ color.YUV_TO_RGB.T, atol=2e-6)
    np.testing.assert_allclose(color.luma(result), color.luma(IMAGES[image]), atol=1e-6)


def nlm_by_numpy(rgb, strength, patch_size, patch_distance, centered):
    """Computes non-local means in float64, pixel by pixel."""
    rgb, radius = rgb.astype(np.float64), patch_size // 2
    margin = radius + patch_distance
    padded = np.pad(rgb, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    first = -radius if centered else 1 - radius

    def patch(y, x):
        y, x = y + margin, x + margin
        return padded[y + first : y + radius + 1, x + first : x + radius + 1]

    result = np.empty_like(rgb)
    shifts = list(itertools.product(range(-patch_distance, patch_distance + 1), repeat=2))
    for y, x in np.ndindex(rgb.shape[:2]):
        own = patch(y, x)
        distances = [((patch(y + i, x + j) - own) ** 2).sum() / (3 * (patch_size * strength) ** 2) for i, j in shifts]
        weights = np.exp(-np.array(distances)) * (centered or np.array(distances) <= 5)
        values = [padded[y + margin + i, x + margin + j] for i, j in shifts]
        result[y, x] = weights @ values / weights.sum()
    return result


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("patch_size", "patch_distance"), [(3, 2), (5, 3)])
@pytest.mark.parametrize("image", IMAGES)
def test_nlm_denoising_agrees_with_numpy(image, patch_size, patch_distance, centered):
    arguments = IMAGES[image], 0.3, patch_size, patch_distance
    with jax.enable_x64(True):
        result = denoise.nlm_denoising(jnp.array(arguments[0], jnp.float64), *arguments[1:], centered=centered)
    np.testing.assert_allclose(result, nlm_by_numpy(*arguments, centered), atol=1e-12)
    result = denoise.nlm_denoising(*arguments, centered=centered)
    np.testing.assert_allclose(result, nlm_by_numpy(*arguments, centered), atol=1e-5)


@pytest.mark.parametrize("image", IMAGES)
def test_nlm_denoising_agrees_with_skimage(image):
    from skimage.restoration import denoise_nl_means

    expected = denoise_nl_means(
        IMAGES[image].astype(np.float64), 5, 3, h=0.3, fast_mode=True, channel_axis=-1, preserve_range=True
    )
    result = denoise.nlm_denoising(IMAGES[image], 0.3, 5, 3)
    # scikit-image's exponential is off by up to 4 %, at some pixels to one side and at others to the other.
    np.testing.assert_allclose(result, expected, atol=1e-6 + 0.04 * np.ptp(IMAGES[image]))
    np.testing.assert_allclose(np.mean(result), np.mean(expected), atol=2e-3)


def test_nlm_denoising_removes_noise_and_keeps_an_edge():
    clean = np.tile(np.repeat([0.2, 0.8], 12)[:, None], (24, 1, 3)).astype(np.float32)
    noisy = clean + RNG.normal(scale=0.05, size=clean.shape).astype(np.float32)
    error = np.abs(denoise.nlm_denoising(noisy, 0.1, 5, 5) - clean)
    assert error.mean() < 0.4 * np.abs(noisy - clean).mean()
    assert error.max() < 0.15
