"""JPEG compression and decompression of images, without the lossless part of the codec, which changes nothing.

The steps follow libjpeg with its default settings (ITU-T T.81, JFIF): YCbCr, chroma at half the size along both axes
(4:2:0), a discrete cosine transform of 8x8 blocks, coefficients rounded to multiples of the standard tables, and all of
it backward, where chroma is interpolated linearly ("fancy upsampling").
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp.filter import total, unfused

_SIDE = 8

# The tables K.1 and K.2 of the standard for luminance and chrominance, at quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((_SIDE, _SIDE), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_FREQUENCY, _PLACE = np.mgrid[:_SIDE, :_SIDE]
# The orthonormal cosine transform of 8 values, from which the transform of a block follows along both axes.
_COSINES = np.cos((2 * _PLACE + 1) * _FREQUENCY * np.pi / (2 * _SIDE)) * np.where(_FREQUENCY == 0, 0.5**0.5, 1) / 2

_RGB_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


def quantization(quality: int) -> np.ndarray:
    """Computes libjpeg's quantization steps `(2, 8, 8)` of luminance and chrominance for a quality from 1 to 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.stack([_LUMINANCE, _CHROMINANCE]) * percent + 50) // 100, 1, 255)


def compressed(
    images: Float[Array, "*batch height width 3"], steps: Float[Array, "2 8 8"]
) -> Float[Array, "*batch height width 3"]:
    """Computes images as if rounded to 8 bits, written as JPEG files and read again.

    The steps of the coefficients come from `quantization`.
    """
    height, width = images.shape[-3:-1]
    # Blocks of chroma cover 16x16 pixels.
    below, right = -height % (2 * _SIDE), -width % (2 * _SIDE)
    padded = jnp.pad(images, [(0, 0)] * (images.ndim - 3) + [(0, below), (0, right), (0, 0)], "edge")
    luma, *chroma = _ycbcr(padded)
    luma = _through_coefficients(luma, steps[0])[..., :height, :width]
    rows, columns = -(-height // 2), -(-width // 2)
    blue, red = (
        _doubled(_through_coefficients(_halved(plane), steps[1])[..., :rows, :columns])[..., :height, :width]
        for plane in chroma
    )
    return _rgb(luma, blue, red)


# Each of the following steps is a unit of its own: fused, they would compute values several times, and one by one.


@unfused
def _ycbcr(images: Array) -> list[Array]:
    pixels = _rounded(255 * images)
    return [
        jnp.round(sum(float(weight) * pixels[..., channel] for channel, weight in enumerate(row)) + offset)
        for row, offset in zip(_RGB_TO_YCBCR, (0, 128, 128), strict=True)
    ]


@unfused
def _rgb(luma: Array, blueness: Array, redness: Array) -> Array:
    ycbcr = (luma, blueness - 128, redness - 128)
    rgb = [total(float(weight) * plane for weight, plane in zip(row, ycbcr, strict=True)) for row in _YCBCR_TO_RGB]
    red, green, blue = (_rounded(plane).astype(jnp.uint32) for plane in rgb)
    return _unpacked(red | green << 8 | blue << 16)


@unfused
def _unpacked(pixels: Array) -> Array:
    """Takes three values of 8 bits out of each whole number, which is faster than to put three planes side by side."""
    return (pixels[..., None] >> jnp.array([0, 8, 16], jnp.uint32) & 255).astype(jnp.float32) / 255


def _rounded(values: Array) -> Array:
    """Rounds to whole numbers of 8 bits."""
    return jnp.clip(jnp.round(values), 0, 255)


@unfused
def _halved(plane: Array) -> Array:
    """Averages 2x2 pixels; as in libjpeg, halves are rounded down and up in turn along a row."""
    sums = total(plane[..., row::2, column::2] for row in (0, 1) for column in (0, 1))
    return jnp.floor((sums + 1 + jnp.arange(sums.shape[-1]) % 2) / 4)


def _doubled(plane: Array) -> Array:
    """Interpolates at the places of 2x2 pixels, with 3/4 of the nearer and 1/4 of the next value along each axis.

    Planes of one or two columns are repeated, as libjpeg does.
    """
    if plane.shape[-1] <= 2:
        return plane.repeat(2, -1).repeat(2, -2)
    return _in_16ths(unfused(functools.partial(_interleaved, axis=-2))(plane))


@unfused
def _in_16ths(rows: Array) -> Array:
    sums = _interleaved(rows, -1)
    # libjpeg rounds left pixels half up and right pixels half down.
    return jnp.floor((sums + 8 - jnp.arange(sums.shape[-1]) % 2) / 16)


def _interleaved(plane: Array, axis: int) -> Array:
    """Puts two values in place of each along an axis: 3 times it plus the one before, and plus the one after."""
    size = plane.shape[axis]
    index = jnp.arange(size)
    before, after = (
        jnp.take(plane, jnp.clip(index + shift, 0, size - 1), axis, mode="clip") + 3 * plane for shift in (-1, 1)
    )
    shape = list(plane.shape)
    shape[axis] *= 2
    return jnp.stack([before, after], axis % plane.ndim + 1).reshape(shape)


def _through_coefficients(plane: Array, steps: Array) -> Array:
    """Rounds the cosine coefficients of a plane's blocks of 8x8 values from 0 to 255 to multiples of their steps."""
    *batch, height, width = plane.shape
    rows = plane.reshape(*batch, height // _SIDE, _SIDE, width)
    coefficients = _across(unfused(lambda rows: _down(rows - 128, _COSINES))(rows), _COSINES)
    multiples = _quantized(coefficients, jnp.tile(steps, width // _SIDE))
    # In flat blocks, values lie halfway between whole numbers, and are rounded up despite float32 rounding.
    values = unfused(lambda rows: jnp.clip(jnp.floor(_down(rows, _COSINES.T) + 128.5 + 1e-3), 0, 255))
    return values(_across(multiples, _COSINES.T)).reshape(plane.shape)


@unfused
def _quantized(coefficients: Array, steps: Array) -> Array:
    # libjpeg has coefficients in whole eighths before it rounds them to steps, halves away from zero.
    eighths = jnp.round(8 * coefficients)
    return jnp.sign(eighths) * jnp.floor((abs(eighths) + 4 * steps) / (8 * steps)) * steps


def _down(rows: Array, matrix: np.ndarray) -> Array:
    """Multiplies the columns of blocks `(..., 8, W)` by a matrix, for all W at a time."""
    weights = jnp.asarray(matrix, rows.dtype)
    return total(weights[:, each, None] * rows[..., each : each + 1, :] for each in range(_SIDE))


def _across(rows: Array, matrix: np.ndarray) -> Array:
    """Multiplies each 8 values along rows by a matrix; of several blocks together, as larger products are faster."""
    size = math.gcd(rows.shape[-1], 8 * _SIDE)
    blocks = jnp.asarray(np.kron(np.eye(size // _SIDE), matrix).T, rows.dtype)
    return jnp.matmul(rows.reshape(-1, size), blocks, precision="highest").reshape(rows.shape)
