"""Common corruptions of finished images at five severities, which most tests of robustness use.

The corruptions are those of D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to common
corruptions and perturbations, ICLR (2019). They have the strengths of CIFAR-10-C, and match the functions of
scikit-image, SciPy and OpenCV that its published code calls. They ignore the raw data and the processing, and serve as
the baseline for drift in these.

Each corruption is a function of images `(..., H, W, 3)` in [0, 1], which may be a NumPy array, a key and a severity
from 1 to 5. It returns images in [0, 1]. The same key gives the same noise, which differs between the images of a
batch; corruptions without noise ignore the key. The severity is an int or a traced whole number: all five share one
compiled function.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from isp import color, sensor
from isp._engine import stencil
from isp._engine.checks import check_image, is_traced
from r2l_jax.drift.warps import between_pixels, elastic_warp
from r2l_jax.runtime.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)

# Within a corruption, all arguments are arrays.
ImageArray = Float[Array, "*batch height width 3"]
SeverityArray = Int[Array, ""]

Images = Float[Array | np.ndarray, "*batch height width 3"]
Severity = int | np.integer | SeverityArray
Corruption = Callable[[Images, PRNGKeyArray, Severity], ImageArray]


def _corruption(function: Callable[[Array, PRNGKeyArray, Array], Array]) -> Corruption:
    """Checks a function's arguments, computes in at least 32 bits, and compiles it once for all severities."""

    @jax.jit
    @functools.wraps(function)
    def compiled(images, key, severity):
        exact = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        return function(exact, key, severity).astype(images.dtype)

    @functools.wraps(function)
    def corrupt(images, key, severity):
        if not is_traced(severity) and severity not in SEVERITIES:
            raise InputError(f"severity must be a whole number from 1 to 5, got {severity}")
        images = jnp.asarray(images)
        check_image(images)
        # The type is always the same, because each type would compile the function again.
        return compiled(images, key, jnp.asarray(severity, jnp.int32))

    return corrupt


def _strength(severity: Array, strengths: Sequence) -> Array:
    """Selects the strengths of one severity. It is clipped to 1 to 5, because a traced severity cannot be checked."""
    return jnp.asarray(strengths, float)[jnp.clip(severity - 1, 0, len(SEVERITIES) - 1)]


@_corruption
def identity(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Returns the images unchanged, as the reference for the other corruptions.

    Raises:
        InputError: a severity that is neither 1 to 5 nor traced, as in every corruption.
        ValueError: images that are not floating point `(..., H, W, 3)`, as in every corruption.
    """
    return images


@_corruption
def gaussian_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds Gaussian noise with a standard deviation from 0.04 to 0.10, the same everywhere."""
    return _add_normal(images, key, _strength(severity, (0.04, 0.06, 0.08, 0.09, 0.10)))


@_corruption
def shot_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Replaces each value by a Poisson count of photons, where white is 500 photons down to 50.

    Values become multiples of 1 / photons. Counts with a mean of 16 or more are rounded normal numbers, see
    `isp.sensor.poisson`, whose variance is greater by 1/12. The gradient is that of the mean.
    """
    return _count(images, key, _strength(severity, (500, 250, 100, 75, 50)))


@_corruption
def impulse_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Replaces 1 to 7 percent of the values independently by 0 or 1, with equal probability (salt and pepper)."""
    return _replace(images, key, _strength(severity, (0.01, 0.02, 0.03, 0.05, 0.07)))


@_corruption
def speckle_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Multiplies each value by 1 plus Gaussian noise with a standard deviation from 0.06 to 0.2."""
    return _multiply_normal(images, key, _strength(severity, (0.06, 0.1, 0.12, 0.16, 0.2)))


# Random numbers are drawn inside these functions, which work on vectors: drawing them in the shape of images takes
# three times as long on a CPU.
@stencil.pointwise
def _add_normal(values, key, std):
    return jnp.clip(values + std * jax.random.normal(key, values.shape, values.dtype), 0, 1)


@stencil.pointwise
def _multiply_normal(values, key, std):
    return jnp.clip(values * (1 + std * jax.random.normal(key, values.shape, values.dtype)), 0, 1)


@stencil.pointwise
def _count(values, key, photons):
    counted = jnp.round(sensor.poisson(key, jax.lax.stop_gradient(values) * photons)) / photons
    return jnp.clip(values + jax.lax.stop_gradient(counted - values), 0, 1)


@stencil.pointwise
def _replace(values, key, amount):
    drawn = jax.random.uniform(key, values.shape, values.dtype)
    return jnp.where(drawn < amount, (drawn < amount / 2).astype(values.dtype), values)


@_corruption
def gaussian_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Blurs by a Gaussian with a standard deviation from 0.4 to 1 pixel, truncated at 4 standard deviations.

    The border is extended by its outermost pixels, as in `skimage.filters.gaussian`.
    """
    taps = _strength(severity, [_gaussian_taps(sigma) for sigma in (0.4, 0.6, 0.7, 0.8, 1.0)])
    # The stencil cannot repeat the outermost pixels: the planes are padded first, and its own border is cut off.
    reach = len(taps) // 2
    margins = [(0, 0)] * (images.ndim - 2) + [(reach, reach)] * 2
    planes = jnp.pad(jnp.moveaxis(images, -1, -3), margins, "edge")
    planes = stencil.correlate(planes, taps[:, None], "zero")[..., reach:-reach, :]
    planes = stencil.correlate(planes, taps[None, :], "zero")[..., reach:-reach]
    return jnp.clip(jnp.moveaxis(planes, -3, -1), 0, 1)


def _gaussian_taps(sigma: float) -> np.ndarray:
    """Computes SciPy's weights for a sigma of at most 1, padded by zeros to the support of a sigma of 1."""
    offsets = np.arange(-4, 5)
    taps = np.exp(-((offsets / sigma) ** 2) / 2) * (abs(offsets) <= int(4 * sigma + 0.5))
    return taps / taps.sum()


# Each severity uses the first few of these factors. The steps are floating-point numbers as in the published code,
# because their rounding decides how many factors there are (1.06 is among the first) and how sizes are rounded.
_ZOOM_FACTORS = np.arange(1, 1.26, 0.01)
_ZOOMS = tuple(len(np.arange(1, end, 0.01)) for end in (1.06, 1.11, 1.16, 1.21, 1.26))


@_corruption
def zoom_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Averages the image and its zooms into the center, by factors in steps of 0.01.

    The largest factor is from 1.06 to 1.25. A zoom crops the middle of the image and interpolates linearly, as
    `scipy.ndimage.zoom` does. In an image that is not square, which the published code refuses, each axis is zoomed
    independently.
    """
    height, width, channels = images.shape[-3:]
    # Each pixel becomes a vector over batch and channels: on a CPU, this is ten times as fast as matrix products or as
    # one image after the other, which vmap would lead to.
    pixels = jnp.moveaxis(images.reshape(-1, *images.shape[-3:]), 0, 2)
    depth = pixels.shape[2] * channels
    pixels = pixels.reshape(height, width, depth)

    def add(total, zoom):
        used, rows, columns = zoom
        rows, columns = [axis[:, None] for axis in rows], [axis[None, :] for axis in columns]
        return total + used * between_pixels(pixels, rows, columns), None

    count = _strength(severity, _ZOOMS)
    used = (jnp.arange(len(_ZOOM_FACTORS)) < count).astype(images.dtype)
    total, _ = jax.lax.scan(add, pixels, (used, _zoom_positions(height), _zoom_positions(width)))
    mean = (total / (count + 1)).reshape(height, width, -1, channels)
    return jnp.clip(jnp.moveaxis(mean, 2, 0).reshape(images.shape), 0, 1)


def _zoom_positions(size: int) -> tuple[Array, Array, Array]:
    """Computes where the pixels of an axis lie in the image for each zoom.

    Returns:
        The index of the pixel before the position, that of the pixel after it, and the fraction of the way to the
        latter, each `(zooms, size)`.
    """
    positions = []
    for factor in _ZOOM_FACTORS:
        cropped = math.ceil(size / factor)
        zoomed = round(cropped * factor)
        start, trimmed = (size - cropped) // 2, (zoomed - size) // 2
        # The zoom keeps the first and the last pixel of the crop at its ends.
        positions.append(start + (np.arange(size) + trimmed) * ((cropped - 1) / max(zoomed - 1, 1)))
    before = np.floor(positions)
    after = np.minimum(before + 1, size - 1)
    # Positions are split in float64, because a float32 position has too few digits left for the fraction.
    return jnp.asarray(before, jnp.int32), jnp.asarray(after, jnp.int32), jnp.asarray(positions - before, float)


@_corruption
def contrast(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Reduces the distance of values from their channel's mean over the image, to 0.75 down to 0.15 of it."""
    share = _strength(severity, (0.75, 0.5, 0.4, 0.3, 0.15))
    mean = images.mean((-3, -2), keepdims=True)
    return jnp.clip((images - mean) * share + mean, 0, 1)


@_corruption
def brightness(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds 0.05 to 0.3 to the value (V of HSV), which is clipped to 1; hue and saturation stay."""
    return _change_hsv(images, jnp.ones(3), jnp.zeros(3).at[2].set(_strength(severity, (0.05, 0.1, 0.15, 0.2, 0.3))))


@_corruption
def saturate(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Changes the saturation (S of HSV) by a linear function, clipped to 1; hue and value stay.

    The first two severities reduce the saturation to 0.3 and 0.1 of the original. The others multiply it by 1.5, 2 and
    2.5. The last two also add a constant, which turns grays red, the color of hue 0.
    """
    factor, more = _strength(severity, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)))
    return _change_hsv(images, jnp.ones(3).at[1].set(factor), jnp.zeros(3).at[1].set(more))


def _change_hsv(images, factors, more):
    hsv = jnp.clip(color.rgb_to_hsv(images) * factors + more, 0, 1)
    return jnp.clip(color.hsv_to_rgb(hsv), 0, 1)


@_corruption
def elastic_transform(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Shifts, shears and wobbles the image a little by `elastic_warp` with uniform random numbers.

    The strengths, which CIFAR-10-C gives for 32 pixels, are fractions of the shorter side. From severity 1 to 5, points
    are shifted by at most 0.08, 0.07, 0.06, 0.05 and 0.03; the noise, in [-1, 1], is smoothed with a standard deviation
    of 0, 0.2, 0.06, 0.04 and 0.03 and multiplied by 0, 0.05, 0.08, 0.1 and 0.1. The noise is drawn for each pixel, so
    that smoothing averages over more of it in a larger image: the wobble has the same number of pixels in an image of
    any size, but its waves are longer.
    """
    *batch, height, width, _ = images.shape
    strengths = ((0.08, 0, 0), (0.07, 0.2, 0.05), (0.06, 0.06, 0.08), (0.05, 0.04, 0.1), (0.03, 0.03, 0.1))
    reach, sigma, amplitude = _strength(severity, strengths) * min(height, width)
    # All random numbers are drawn as one vector, which is faster to draw and to compile than more axes or two parts.
    points = 3 * 2
    count = points + 2 * height * width
    drawn = jax.random.uniform(key, (math.prod(batch) * count,), images.dtype, -1, 1).reshape(*batch, count)
    shifts = reach * drawn[..., :points].reshape(*batch, 3, 2)
    noise = drawn[..., points:].reshape(*batch, 2, height, width)
    return jnp.clip(elastic_warp(images, shifts, noise, sigma, amplitude), 0, 1)


class _Corruptions(dict[str, Corruption]):
    """Corruptions by name; an unknown name raises an InputError."""

    def __missing__(self, name: str) -> Corruption:
        raise InputError(f"a corruption must be one of {', '.join(self)}, got {name!r}")


# Noise comes first, as in the paper's tables.
CORRUPTIONS: Mapping[str, Corruption] = _Corruptions(
    (corruption.__name__, corruption)
    for corruption in (
        identity,
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        zoom_blur,
        contrast,
        brightness,
        saturate,
        elastic_transform,
    )
)
