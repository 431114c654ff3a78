"""Digital processing of finished pictures: elastic warps, fewer pixels, and JPEG files."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from isp.filter import total
from r2l_jax.drift.corruptions import jpeg
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, strength
from r2l_jax.drift.warps import elastic_warp


@corruption("digital")
def elastic_transform(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Slightly shifts, shears and wobbles the image with uniform random numbers, see `elastic_warp`.

    The strengths, which CIFAR-10-C gives for 32 pixels, are fractions of the shorter side. The noise is drawn for each
    pixel, so that smoothing averages over more of it in a larger image: there, the wobble has the same amplitude in
    pixels, but longer waves.
    """
    *batch, height, width, _ = images.shape
    # The greatest shift of points, the standard deviation of the smoothing, and the factor on the noise in [-1, 1].
    strengths = ((0.08, 0, 0), (0.07, 0.2, 0.05), (0.06, 0.06, 0.08), (0.05, 0.04, 0.1), (0.03, 0.03, 0.1))
    reach, sigma, amplitude = strength(severity, strengths) * min(height, width)
    # All random numbers are drawn as one vector, which is faster to draw and to compile than more axes or two parts.
    points = 3 * 2
    count = points + 2 * height * width
    drawn = jax.random.uniform(key, (math.prod(batch) * count,), images.dtype, -1, 1).reshape(*batch, count)
    shifts = reach * drawn[..., :points].reshape(*batch, 3, 2)
    noise = drawn[..., points:].reshape(*batch, 2, height, width)
    return jnp.clip(elastic_warp(images, shifts, noise, sigma, amplitude), 0, 1)


@corruption("digital")
def pixelate(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Shrinks the image to 0.95, 0.9, 0.85, 0.75 and 0.65 of its sides, and enlarges it by repeating pixels.

    Both are Pillow's `resize` with the filter `BOX`, which averages whole pixels, without its rounding to 8 bits.
    """
    for axis in (-3, -2):
        images = _pixelated(images, axis, severity)
    return images


def _pixelated(images: Array, axis: int, severity: Array) -> Array:
    size = images.shape[axis]
    first, weights = (strength(severity, each, kind) for each, kind in zip(_boxes(size), (int, float), strict=True))
    shape = [1] * images.ndim
    shape[axis] = size
    return total(
        weights[offset].reshape(shape) * jnp.take(images, jnp.minimum(first + offset, size - 1), axis, mode="clip")
        for offset in range(weights.shape[0])
    )


def _boxes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes which pixels of an axis are averaged for each pixel of the pixelated axis, for each severity.

    Returns the index of the first one, `(5, size)`, and the weights of it and the next ones, `(5, offsets, size)`.
    """
    averages = []
    for share in (0.95, 0.9, 0.85, 0.75, 0.65):
        small = max(int(size * share), 1)
        shrunk = _box_average(size, small)
        averages.append(_box_average(small, size) @ shrunk)
    first = np.array([(average > 0).argmax(1) for average in averages])
    count = max(int((average > 0).sum(1).max()) for average in averages)
    places = np.minimum(first[:, None] + np.arange(count)[:, None], size - 1)
    weights = np.stack(
        [np.take_along_axis(average.T, place, 0) for average, place in zip(averages, places, strict=True)]
    )
    # At the end of the axis, the last pixel must not be counted twice.
    return first, weights * (first[:, None] + np.arange(count)[:, None] < size)


def _box_average(size: int, resized: int) -> np.ndarray:
    """Computes the matrix `(resized, size)` of Pillow's `BOX` along an axis: equal weights of whole pixels."""
    scale = size / resized
    centers = (np.arange(resized)[:, None] + 0.5) * scale
    # Pixels may lie exactly at the border of a box. The order of operations is Pillow's, so that they round alike.
    reach, pixels = 0.5 * max(scale, 1), np.arange(size)
    distances = (pixels - centers + 0.5) * (1 / max(scale, 1))
    weights = (distances > -0.5) & (distances <= 0.5)
    weights &= (pixels >= np.floor(centers - reach + 0.5)) & (pixels < np.floor(centers + reach + 0.5))
    return weights / weights.sum(1, keepdims=True)


@corruption("digital")
def jpeg_compression(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Writes the image as a JPEG file of quality 80, 65, 58, 50 and 40, and reads it again; see `jpeg.compressed`.

    In a 256x256 image, 9 in 10 values equal Pillow's and the others differ by 2 of 255 on average, because libjpeg
    computes its transforms with rounded whole numbers. The gradient is zero.
    """
    return jpeg.compressed(images, strength(severity, [jpeg.quantization(each) for each in (80, 65, 58, 50, 40)]))
