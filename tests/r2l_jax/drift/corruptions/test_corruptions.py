"""Against the published code's answers in corruptions.npz, SciPy, and the distributions that the noise should have."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy_warps
from variants import quick

from r2l_jax import names
from r2l_jax.drift.corruptions import CORRUPTIONS, GROUPS
from r2l_jax.drift.corruptions.blur import zoom_blur
from r2l_jax.names import SEVERITIES

GOLDEN = np.load(pathlib.Path(__file__).with_name("corruptions.npz"))
IMAGE = GOLDEN["image"].astype(np.float32)
KEY = jax.random.key(0)
DETERMINISTIC = (
    *("gaussian_blur", "zoom_blur", "contrast", "brightness", "saturate"),
    *("defocus_blur", "jpeg_compression", "pixelate"),
)
RANDOM = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "elastic_transform"),
    *("glass_blur", "motion_blur", "fog", "frost", "snow", "spatter"),
)
PHOTONS = (500, 250, 100, 75, 50)
# With values at both ends of the range. All tests together use few shapes, as each is compiled for.
BATCH = np.random.default_rng(0).choice(np.linspace(0, 1, 9, dtype=np.float32), (1, 3, 12, 9, 3))

every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)
every_severity = pytest.mark.parametrize("severity", SEVERITIES)


def gray(level):
    return np.full(IMAGE.shape, level, np.float32)


def noise(name, image, severity):
    """What a corruption adds to an image."""
    return np.asarray(CORRUPTIONS[name](image, KEY, severity), np.float64) - image


def test_names_and_severities():
    assert ("identity", *RANDOM[:4], *DETERMINISTIC[:5], "elastic_transform") == names.CORRUPTIONS_OF_THE_STUDY
    assert tuple(CORRUPTIONS) == names.CORRUPTIONS
    assert sorted(CORRUPTIONS) == sorted(["identity", *RANDOM, *DETERMINISTIC])
    assert GROUPS.keys() == {*CORRUPTIONS}
    assert [name for name, group in GROUPS.items() if group is None] == ["identity"]


@every_severity
@pytest.mark.parametrize("name", DETERMINISTIC[:5])
def test_published_answers(name, severity):
    # A few roundings of float32, of 6e-8 each near 1. Saturation is a quotient of small differences, times up to 2.5;
    # others are sums of many pixels or of up to 26 images, which round by up to 26 * 2**-24.
    atol = 3e-7 if name == "brightness" else 2e-6
    np.testing.assert_allclose(CORRUPTIONS[name](IMAGE, KEY, severity), GOLDEN[f"{name}.{severity}"], rtol=0, atol=atol)


@every_severity
@pytest.mark.parametrize(
    ("name", "stds"),
    [("gaussian_noise", (0.04, 0.06, 0.08, 0.09, 0.10)), ("speckle_noise", (0.03, 0.05, 0.06, 0.08, 0.1))],
)
def test_normal_noise_has_its_moments(name, stds, severity):
    # Of a gray of 1/2, 4 to 17 standard deviations away from where it is clipped.
    added, std = noise(name, gray(0.5), severity), stds[severity - 1]
    assert added.mean() == pytest.approx(0, abs=4 * std / math.sqrt(added.size))
    assert added.std() == pytest.approx(std, rel=4 / math.sqrt(2 * added.size))
    assert (abs(added) < std).mean() == pytest.approx(math.erf(math.sqrt(1 / 2)), abs=4 * 0.47 / math.sqrt(added.size))


def test_speckle_grows_with_the_light():
    stds = [noise("speckle_noise", gray(level), 1).std() for level in (0, 0.25, 0.5)]
    np.testing.assert_allclose(stds, [0, 0.015, 0.03], rtol=0.02)


@every_severity
@pytest.mark.parametrize("level", [0.02, 0.5])
def test_shot_noise_counts_photons(level, severity):
    photons = PHOTONS[severity - 1]
    counts = (noise("shot_noise", gray(level), severity) + gray(level)) * photons
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    mean = level * photons
    assert counts.mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / counts.size))
    # Rounding to whole photons adds 1/12 where the noise was not whole before.
    rounding = 1 / 12 if mean >= 16 else 0
    assert counts.var() == pytest.approx(mean + rounding, rel=4 * math.sqrt((2 + 1 / mean) / counts.size))


@every_severity
def test_impulse_noise_is_as_much_salt_as_pepper_on_single_values(severity):
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    result = np.asarray(CORRUPTIONS["impulse_noise"](gray(0.3), KEY, severity))
    assert set(np.unique(result)) == {0, np.float32(0.3), 1}
    spread = 4 * math.sqrt(amount / 2 / result.size)
    assert (result == 0).mean() == pytest.approx(amount / 2, abs=spread)
    assert (result == 1).mean() == pytest.approx(amount / 2, abs=spread)
    changed = result != np.float32(0.3)
    both = changed[..., 0] & changed[..., 1]
    assert both.mean() == pytest.approx(amount**2, abs=4 * amount / math.sqrt(both.size))


@pytest.mark.parametrize(("size", "width"), [(9, 9), (32, 32), (45, 20)])
def test_zooms_are_those_of_scipy_at_any_size(size, width):
    """Each axis of a rectangle is zoomed as that of a square: here, one whose columns are equal."""
    image = np.random.default_rng(0).random((size, size, 3))
    image = image if width == size else image[:, :1].repeat(size, 1)
    zooms = []
    for factor in np.arange(1, 1.11, 0.01):
        crop = math.ceil(size / factor)
        start = (size - crop) // 2
        middle = image[start : start + crop, start : start + crop]
        zoomed = scipy.ndimage.zoom(middle, (factor, factor, 1), order=1)
        start = (len(zoomed) - size) // 2
        zooms.append(zoomed[start : start + size, start : start + size])
    mean = (image + sum(zooms)) / (len(zooms) + 1)
    blurred = zoom_blur(image[:, :width].astype(np.float32), KEY, 2)
    np.testing.assert_allclose(blurred, mean[:, :width], atol=1e-6)


@every_severity
def test_elastic_transform_moves_pixels_as_cifar_10_c_scaled_to_the_image(severity):
    # Strengths count from the shorter side of wide and of tall images.
    (height, width), size, count = ((40, 64), (64, 40))[severity % 2], 40, 100
    ramps = np.stack([*np.mgrid[:height, :width], np.zeros((height, width))], -1).astype(np.float32) / 64
    reach, sigma, amplitude = (
        size * strengths[severity - 1]
        for strengths in ((0.08, 0.07, 0.06, 0.05, 0.03), (0, 0.2, 0.06, 0.04, 0.03), (0, 0.05, 0.08, 0.1, 0.1))
    )
    rng = np.random.default_rng(severity)
    expected = [
        scipy_warps.warp(
            ramps, rng.uniform(-reach, reach, (3, 2)), rng.uniform(-1, 1, (2, height, width)), sigma, amplitude
        )
        for _ in range(count)
    ]
    result = CORRUPTIONS["elastic_transform"](np.tile(ramps, (count, 1, 1, 1)), KEY, severity)

    def statistics(images):
        # A ramp shows where each pixel came from, but for where reflections did.
        moved = 64 * (np.asarray(images, np.float64) - ramps)[:, 12:-12, 12:-12, :2]
        bent = np.diff(moved, 2, axis=2)
        return np.stack([*moved.mean((1, 2)).T, *(moved**2).mean((1, 2)).T, (bent**2).mean((1, 2, 3))])

    ours, theirs = statistics(result), statistics(expected)
    spread = np.sqrt((ours.var(1) + theirs.var(1)) / count)
    assert (abs(ours.mean(1) - theirs.mean(1)) <= 4 * spread + 1e-8).all()


@every_corruption
def test_results_are_images_of_any_size_and_severities_share_a_compiled_function(name, caplog):
    with jax.log_compiles():
        for severity in (1, 5, np.int64(3), jnp.int32(4)):
            result = np.asarray(CORRUPTIONS[name](BATCH, KEY, severity))
            assert (result.shape, result.dtype) == (BATCH.shape, BATCH.dtype)
            assert result.min() >= 0
            assert result.max() <= 1
    assert caplog.text.count(f"Compiling jit({name})") <= 1
    small = CORRUPTIONS[name](np.full((1, 3, 3), 0.5, np.float32), KEY, 4)
    assert small.shape == (1, 3, 3)
    assert ((small >= 0) & (small <= 1)).all()


@every_corruption
def test_the_key_decides_the_noise_of_each_image(name):
    images = BATCH[:, :1].repeat(3, 1)
    result, again, other = (CORRUPTIONS[name](images, key, 3) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(result, again)
    assert (result != other).any() == (name in RANDOM)
    assert (result[0, 0] != result[0, 1]).any() == (name in RANDOM)
    # An image does not depend on those that follow it.
    others = np.concatenate([images[:, :1], 1 - images[:, 1:]], 1)
    np.testing.assert_allclose(CORRUPTIONS[name](others, KEY, 3)[0, 0], result[0, 0], atol=1e-5)


@pytest.mark.parametrize("name", quick(5, CORRUPTIONS))
def test_vmap_is_a_loop_over_images_keys_and_severities(name):
    images, keys, severities = BATCH[0], jax.random.split(KEY, 3), np.array([1, 3, 5])
    looped = [CORRUPTIONS[name](*one) for one in zip(images, keys, severities, strict=True)]
    mapped = jax.vmap(CORRUPTIONS[name])(images, keys, jnp.asarray(severities))
    np.testing.assert_allclose(mapped, looped, atol=1e-5)


@pytest.mark.parametrize("name", ["shot_noise", "elastic_transform"])
def test_gradients_are_finite_and_on_average_those_of_the_mean(name):
    gradient = jax.grad(lambda images: CORRUPTIONS[name](images, KEY, 1).sum())(jnp.asarray(BATCH))
    assert np.isfinite(gradient).all()
    # Clipped values have none.
    assert 0.5 < gradient.mean() < 1.2
