"""Sharpening and denoising."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from scipy import ndimage

from isp import color, denoise, sharpen

RNG = np.random.default_rng(0)
# Images of one shape, so that functions are compiled for few.
IMAGES = np.stack(
    [
        RNG.random((13, 10, 3)),
        RNG.random((13, 10, 3)) - 0.3,
        np.tile(np.repeat([0.1, 0.9], [4, 6])[:, None] * [1.0, 0.5, 0.2], (13, 1, 1)),  # An edge.
        np.pad(np.ones((1, 1, 3)), ((6, 6), (9, 0), (0, 0))),  # An impulse.
        np.full((13, 10, 3), 0.4),
        RNG.random((13, 10, 3)) - 2,
    ]
).astype(np.float32)
RANDOM, CONSTANT = IMAGES[0], IMAGES[4]
SMALLER_THAN_WINDOWS = RNG.random((1, 2, 3, 3), np.float32)
BATCH = RNG.random((2, 2, 8, 7, 3), np.float32) * np.float32([[0.1, 0.5], [1, 3]])[..., None, None, None]


def by_yuv(rgb, of_luma=None, of_chroma=None):
    """Filters the luma or the chroma planes of each image by way of YUV, in float64."""
    yuv = rgb.astype(np.float64) @ color.RGB_TO_YUV.T
    for channel, function in enumerate((of_luma, of_chroma, of_chroma)):
        if function is not None:
            yuv[..., channel] = [function(plane) for plane in yuv[..., channel]]
    return yuv @ color.YUV_TO_RGB.T


def test_half_precision_agrees_with_float32():
    rgb = jnp.array(1e-3 * BATCH, jnp.float16)
    for function in (functools.partial(denoise.fft_denoising, softness=2.0), denoise.bilateral):
        np.testing.assert_allclose(np.float32(function(rgb)), function(rgb.astype(jnp.float32)), atol=2e-5)


def test_refuses():
    for function, settings, message in (
        (denoise.bilateral, {"size": 6}, "size must be an odd number of pixels, got 6"),
        (denoise.tv_bregman, {"weight": float("nan")}, "weight must be positive, got nan"),
        (denoise.bilateral, {"bins": 2}, "bins must be at least 3, one per channel, got 2"),
        (denoise.fft_denoising, {"softness": 0.0}, "softness must be positive, got 0"),
        (denoise.nlm_denoising, {"patch_distance": 0}, "patch_distance must be a positive number of pixels, got 0"),
        (denoise.tv_bregman, {"rgb": BATCH[0, 0, :1]}, r"rgb must have a height and width of at least 2, got .*\(1, 7"),
        (jax.jit(denoise.fft_denoising), {"keep_fraction": 0.3}, "softness must be given if keep_fraction is traced: "),
        (jax.jit(sharpen.unsharp_masking), {"radius": 1.0}, "size must be given if radius is traced: a shape cannot"),
    ):
        with pytest.raises(ValueError, match=message):
            function(**{"rgb": BATCH} | settings)


@pytest.mark.shows("isp.sharpen.sharpening_filter(kernel)", "isp.sharpen.unsharp_masking(radius, amount, size)")
@pytest.mark.shows("isp.sharpen.unsharp_masking_vertical(radius, amount, size)")
@pytest.mark.parametrize("images", [IMAGES, SMALLER_THAN_WINDOWS], ids=["images", "small"])
def test_sharpening_agrees_with_scipy_and_skimage(images):
    from skimage.filters import unsharp_mask

    # Values of up to 2 times weights whose sizes add up to 9 or so round by 18 * 2**-24, a few times over.
    expected = by_yuv(images, lambda luma: ndimage.correlate(luma, sharpen.SHARPENING_KERNEL, mode="constant"))
    np.testing.assert_allclose(sharpen.sharpening_filter(images), expected, atol=5e-6)
    kernel = RNG.normal(size=(3, 3)).astype(np.float32)
    expected = by_yuv(images, lambda luma: ndimage.correlate(luma, kernel, mode="constant"))
    np.testing.assert_allclose(sharpen.sharpening_filter(images, kernel), expected, atol=5e-6)
    for radius, amount in ((0.4, 2.5), (2, -0.5)):
        expected = by_yuv(images, lambda luma, r=radius, a=amount: unsharp_mask(luma, r, a, preserve_range=True))
        np.testing.assert_allclose(sharpen.unsharp_masking(images, radius, amount), expected, atol=5e-6)
    expected = by_yuv(images, lambda luma: luma + 2.5 * (luma - ndimage.gaussian_filter1d(luma, 0.4, axis=0)))
    np.testing.assert_allclose(sharpen.unsharp_masking_vertical(images, 0.4, 2.5), expected, atol=5e-6)
    # Windows that are narrower than by default.
    cut = {"sigma": 1.5, "radius": 2}
    expected = by_yuv(images, lambda luma: luma + 0.7 * (luma - ndimage.gaussian_filter(luma, **cut)))
    np.testing.assert_allclose(sharpen.unsharp_masking(images, 1.5, 0.7, 5), expected, atol=5e-6)
    expected = by_yuv(images, lambda luma: luma + 0.7 * (luma - ndimage.gaussian_filter1d(luma, **cut, axis=0)))
    np.testing.assert_allclose(sharpen.unsharp_masking_vertical(images, 1.5, 0.7, 5), expected, atol=5e-6)


@pytest.mark.shows("isp.denoise.gaussian_denoising(sigma, size)", "isp.denoise.chroma_denoising(sigma, size)")
@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("sigma", [0.5, 2])
def test_gaussian_and_chroma_denoising_agree_with_scipy(sigma, size):
    images = IMAGES if sigma == 0.5 else SMALLER_THAN_WINDOWS

    def smooth(plane):
        return ndimage.gaussian_filter(plane, sigma, radius=size and size // 2)

    # Values of up to 2, and of chroma times 2, round by 4 * 2**-24, a few times over.
    np.testing.assert_allclose(denoise.gaussian_denoising(images, sigma, size), by_yuv(images, smooth), atol=2e-6)
    result = denoise.chroma_denoising(images, sigma, size)
    np.testing.assert_allclose(result, by_yuv(images, of_chroma=smooth), atol=2e-6)
    np.testing.assert_allclose(color.luma(result), color.luma(images), atol=2e-6)


@pytest.mark.shows("isp.denoise.median_denoising(size)")
@pytest.mark.parametrize("size", variants.quick(2, [3, 5, 7, 1]))
def test_median_denoising_agrees_with_scipy(size):
    for images in (IMAGES, SMALLER_THAN_WINDOWS) if size != 7 else (IMAGES,):
        expected = by_yuv(images, lambda luma: ndimage.median_filter(luma, size))
        np.testing.assert_allclose(denoise.median_denoising(images, size), expected, atol=1e-6)


@pytest.mark.parametrize("size", variants.quick(1, [3, 5]))
def test_pixels_that_tie_for_the_median_share_its_gradient(size):
    gradient = jax.jit(jax.grad(lambda rgb: color.luma(denoise.median_denoising(rgb, size)).sum()))
    # All pixels tie; windows that reach over the border see some of them repeatedly.
    np.testing.assert_allclose(gradient(CONSTANT), np.broadcast_to(color.RGB_TO_YUV[0], CONSTANT.shape), atol=1e-6)
    # However many pixels tie, the median rises as much as the brightness of the image.
    levels = np.round(RANDOM[..., :1] * 4).repeat(3, -1) / 4
    assert gradient(levels).sum() == pytest.approx(levels[..., 0].size, rel=1e-5)


@pytest.mark.shows("isp.denoise.fft_denoising(keep_fraction)")
@pytest.mark.parametrize(("width", "keep_fraction"), [(1, 0.3), (10, 0.3), (10, 0.8), (13, 0), (13, 0.45)])
def test_fft_denoising_agrees_with_numpy(width, keep_fraction):
    rgb = RNG.normal(size=(2, 4, width, 3)).astype(np.float32)
    spectrum = np.fft.fft(rgb.astype(np.float64), axis=-2)
    spectrum[..., int(width * keep_fraction) : int(width * (1 - keep_fraction)), :] = 0
    expected = np.fft.ifft(spectrum, axis=-2).real
    # Sums of up to 13 terms, whose sizes add up to less than 10, round by 10 * sqrt(13) * 2**-24.
    np.testing.assert_allclose(denoise.fft_denoising(rgb, keep_fraction), expected, atol=2e-6)
    with jax.enable_x64(True):
        soft = denoise.fft_denoising(jnp.array(rgb, jnp.float64), keep_fraction, softness=1e-6)
    np.testing.assert_allclose(soft, expected, atol=1e-9)


@pytest.mark.shows("isp.denoise.fft_denoising(softness)")
@pytest.mark.parametrize("softness", [1.5, 4.0])
def test_a_soft_cut_keeps_frequencies_by_a_raised_cosine(softness):
    """From the last kept bin on, the gain falls within so many bins, and rises again from the last removed one on."""
    rgb = RNG.normal(size=(4, 10, 3))
    kept, removed = (
        (1 + np.cos(np.pi * np.clip((np.arange(1, 11) - edge) / softness, 0, 1))) / 2 for edge in (3.2, 6.8)
    )
    gains = 1 - removed * (1 - kept)
    expected = np.fft.ifft(np.fft.fft(rgb, axis=-2) * gains[:, None], axis=-2).real
    np.testing.assert_allclose(denoise.fft_denoising(rgb.astype(np.float32), 0.32, softness), expected, atol=2e-6)


@pytest.mark.shows("isp.denoise.bilateral(sigma_spatial, sigma_color, size, bins)")
@pytest.mark.parametrize(
    ("images", "sigma_spatial", "sigma_color", "size"),
    [
        (IMAGES, 0.6, None, None),
        (IMAGES, 1.0, 0.1, None),
        (IMAGES, 1.0, 0.1, 3),
        (SMALLER_THAN_WINDOWS, 0.6, None, None),
    ],
    ids=["own spread", "given", "narrow", "small"],
)
def test_bilateral_agrees_with_skimage(images, sigma_spatial, sigma_color, size):
    from skimage.restoration import denoise_bilateral

    def by_skimage(bins):
        settings = {"sigma_color": sigma_color, "sigma_spatial": sigma_spatial, "bins": bins, "channel_axis": -1}
        return np.stack([denoise_bilateral(rgb, size, **settings) for rgb in images.astype(np.float64)])

    result = denoise.bilateral(images, sigma_spatial, sigma_color, size)
    np.testing.assert_allclose(result, by_skimage(3_000_000), atol=1e-5)
    if images is SMALLER_THAN_WINDOWS:
        return
    with jax.enable_x64(True):
        rounded = denoise.bilateral(jnp.array(images, jnp.float64), sigma_spatial, sigma_color, size, bins=10_000)
    np.testing.assert_allclose(rounded, by_skimage(10_000), atol=1e-12)


@pytest.mark.shows("isp.denoise.bilateral(centered)")
def test_a_centered_bilateral_filter_of_all_colors_is_a_gaussian():
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 2 / 0.8**2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    expected = ndimage.correlate(RANDOM.astype(np.float64), kernel[..., None], mode="constant")
    np.testing.assert_allclose(denoise.bilateral(RANDOM, 0.8, 1e6, 5, centered=True), expected, atol=1e-6)


def test_the_bilateral_filter_of_one_value_passes_image_and_gradient_through():
    """Also if the variance underflows."""
    weight = RNG.normal(size=RANDOM.shape).astype(np.float32)
    gradients = jax.jit(jax.grad(lambda rgb, sigma: (denoise.bilateral(rgb, sigma, size=3) * weight).sum(), (0, 1)))
    for rgb in (0 * CONSTANT, CONSTANT, -CONSTANT, 1e-20 * RANDOM, 1e-25 * RANDOM):
        np.testing.assert_array_equal(denoise.bilateral(rgb, 0.6, size=3), rgb)
        np.testing.assert_array_equal(gradients(rgb, 0.6)[0], weight)
        assert gradients(rgb, 0.6)[1] == 0


def nlm_by_numpy(rgb, strength, patch_size, patch_distance, centered):
    """Computes non-local means in float64, shift by shift."""
    margin = patch_size // 2 + patch_distance
    padded = np.pad(rgb.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    patch = np.ones((patch_size, patch_size))
    if not centered:
        patch[0] = patch[:, 0] = 0
    total = averaged = 0
    for shift in itertools.product(range(-patch_distance, patch_distance + 1), repeat=2):
        moved = np.roll(padded, shift, (0, 1))
        distance = ndimage.correlate(((padded - moved) ** 2).sum(-1), patch) / (3 * (patch_size * strength) ** 2)
        weight = (np.exp(-distance) * (centered | (distance <= 5)))[..., None]
        total, averaged = total + weight, averaged + weight * moved
    return (averaged / total)[margin:-margin, margin:-margin]


@pytest.mark.shows("isp.denoise.nlm_denoising(strength, patch_size, patch_distance, centered)")
@pytest.mark.parametrize("images", [IMAGES, SMALLER_THAN_WINDOWS], ids=["images", "small"])
@pytest.mark.parametrize("settings", variants.quick(2, [(5, 3, False), (3, 2, True), (3, 2, False)]))
def test_nlm_denoising_agrees_with_numpy(images, settings):
    patch_size, patch_distance, centered = settings
    expected = np.stack([nlm_by_numpy(rgb, 0.25, *settings) for rgb in images])
    with jax.enable_x64(True):
        rgb = jnp.array(images, jnp.float64)
        result = denoise.nlm_denoising(rgb, 0.25, patch_size, patch_distance, centered=centered)
    np.testing.assert_allclose(result, expected, atol=1e-12)


# By total variation: also one channel alone, and a noisy edge out of range; no impulse, at which float32 stops earlier.
VARIED = np.concatenate([np.delete(IMAGES, 3, 0), [RANDOM * [1.0, 0, 0] + [0, 0.4, 0.7], 10 * IMAGES[2] + RANDOM - 5]])


def test_defaults_of_non_local_means_are_those_of_scikit_image():
    from skimage import restoration

    ours, theirs = (
        {name: each.default for name, each in inspect.signature(function).parameters.items()}
        for function in (denoise.nlm_denoising, restoration.denoise_nl_means)
    )
    names = ("patch_size", "patch_distance")
    assert [ours["strength"], *map(ours.get, names)] == [theirs["h"], *map(theirs.get, names)]


@pytest.mark.parametrize("method", [denoise.tv_chambolle, denoise.tv_bregman])
def test_total_variation_takes_a_batch_of_one_image(method):
    np.testing.assert_allclose(method(RANDOM[None], 0.5)[0], method(RANDOM, 0.5), atol=1e-6)


@pytest.mark.shows("isp.denoise.tv_chambolle(weight)", "isp.denoise.tv_bregman(weight, isotropic)")
@pytest.mark.parametrize("dtype", variants.quick(1, [np.float64, np.float32]))
@pytest.mark.parametrize(
    ("method", "settings"), [("chambolle", {}), ("bregman", {}), ("bregman", {"isotropic": False})]
)
def test_total_variation_agrees_with_scikit_image(method, settings, dtype):
    from skimage import restoration

    function, reference = getattr(denoise, f"tv_{method}"), getattr(restoration, f"denoise_tv_{method}")
    eps, *weights = {"chambolle": (2e-4, 0.001, 0.01, 0.1, 1.0), "bregman": (1e-3, 0.5, 5.0, 100.0, 1e4)}[method]
    with jax.enable_x64(dtype == np.float64):
        for weight in weights:
            results = function(VARIED.astype(dtype), np.array(weight, dtype), **settings)
            for rgb, result in zip(VARIED.astype(dtype).astype(np.float64), results, strict=True):
                expected = reference(rgb, weight, eps=eps, channel_axis=-1, **settings)
                scale = max(1, np.abs(expected).max()) * (1e-12 if dtype == np.float64 else 2e-6)
                np.testing.assert_allclose(result, expected, atol=scale, rtol=0)


@pytest.mark.shows("isp.denoise.tv_chambolle(eps, max_iterations)", "isp.denoise.tv_bregman(eps, max_iterations)")
@pytest.mark.parametrize(("eps", "iterations"), [(0.05, 100), (1e-6, 3)])
@pytest.mark.parametrize(("method", "weight"), [("chambolle", 0.1), ("bregman", 5.0)])
def test_total_variation_stops_where_scikit_image_does(method, weight, eps, iterations):
    from skimage import restoration

    reference = getattr(restoration, f"denoise_tv_{method}")
    rgb = RANDOM.astype(np.float64)
    expected = reference(rgb, weight, eps=eps, max_num_iter=iterations, channel_axis=-1)
    with jax.enable_x64(True):
        result = getattr(denoise, f"tv_{method}")(rgb, weight, eps, iterations)
    np.testing.assert_allclose(result, expected, atol=1e-12)
