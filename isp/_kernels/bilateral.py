"""The bilateral filter: weighted means over square windows, with each pair of pixels compared only once."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isp._kernels import padding, stencil, xla
from isp._kernels.checks import Scalar, check_image
from isp._kernels.xla import with_gradient

# Width of a bin of color distances, and the distance between the values that neighboring bins stand for.
Rounding = tuple[Array, Array]


class _Residuals(NamedTuple):
    padded: tuple[padding.Padded, ...]
    means: tuple[Array, ...]
    total: Array
    spatial_rate: Array
    color_rate: Array
    rounding: Rounding | None


@jax.jit(static_argnames=("size", "bins", "centered"))
def bilateral_filter(
    rgb: Array, sigma_spatial: Scalar, sigma_color: Scalar | None, size: int, bins: int | None, centered: bool
) -> Array:
    """Applies `isp.denoise.bilateral` with checked arguments and a given window size."""
    check_image(rgb)
    # The squares of small differences need more than the range of float16.
    dtype, rgb = rgb.dtype, rgb.astype(jnp.promote_types(rgb.dtype, jnp.float32))
    values = rgb.reshape(*rgb.shape[:-3], math.prod(rgb.shape[-3:]))
    low, high = (extreme(values, -1)[..., None, None] for extreme in (jnp.min, jnp.max))
    # A constant image has a spread and a deviation of 0. They are replaced, and the image is returned unchanged.
    constant = low == high
    if sigma_color is None:
        variance = jnp.var(values, -1)[..., None, None]
        # Where the variance underflows, so do color distances, so all colors count as equal.
        constant |= variance < jnp.finfo(rgb.dtype).tiny
        sigma_color = jnp.sqrt(jnp.where(constant, 1, variance))
    black = jnp.minimum(low, 0)
    spread = jnp.where(constant, 1, high - black)
    color_rate = (high / spread / 3 / sigma_color) ** 2 / 2
    spatial_rate = jnp.asarray(sigma_spatial, rgb.dtype) ** -2 / 2
    # scikit-image divides integers to find a bin, which makes bins a little wider than the distances they stand for.
    rounding = None if bins is None else (spread / (bins // 3), spread * 3 / bins)
    planes = tuple(rgb[..., c] - black for c in range(3))
    means = _window_means(size, centered, planes, spatial_rate, color_rate, rounding)
    return jnp.stack([jnp.where(constant, rgb[..., c], mean + black) for c, mean in enumerate(means)], -1).astype(dtype)


def _forward(
    size: int,
    centered: bool,
    planes: tuple[Array, ...],
    spatial_rate: Array,
    color_rate: Array,
    rounding: Rounding | None,
) -> tuple[tuple[Array, ...], _Residuals]:
    """Computes means weighted by exp(-rate * distance^2) in space and in color; `rounding` bins color distances."""
    padded = tuple(padding.pad(plane, size // 2, size // 2, "zero") for plane in planes)
    color_weights = xla.unfused_with(_color_weights, size)(padded, color_rate, rounding)
    means, total = xla.unfused_with(_means, size, centered)(padded, color_weights, spatial_rate)
    return means, _Residuals(padded, means, total, spatial_rate, color_rate, rounding)


def _backward(
    size: int, centered: bool, residuals: _Residuals, gradients: tuple[Array, ...]
) -> tuple[tuple[Array, ...], Array, Array, Rounding | None]:
    """Gathers the gradients from the same windows; JAX would scatter the gradient of each shift into its own image."""
    # A mean is m = sum_o s_o w_o v_o / t over offsets o, with s_o and w_o the weights in space and color, and t their
    # sum. With a = (gradient for m) / t, the gradient for log w_o is s_o w_o (a.v_o - a.m), where the dot is a sum over
    # channels. Seen from the pixel at o, this pixel has the same w; the s, a and m of that pixel give the other half.
    padded, means, total, spatial_rate, color_rate, rounding = residuals
    scaled = _scaled(gradients, means, total)
    scaled = tuple(padding.pad(plane, size // 2, size // 2, "zero") for plane in scaled)
    # The gradient ignores the rounding, whose derivative is 0 almost everywhere.
    color_weights = xla.unfused_with(_color_weights, size)(padded, color_rate, None)
    planes_gradient, spatial_gradient, color_gradient = xla.unfused_with(_gathered, size, centered)(
        padded, color_weights, scaled, spatial_rate, color_rate
    )
    color_gradient = color_gradient.sum((-2, -1), keepdims=True)
    return planes_gradient, spatial_gradient.sum(), color_gradient, jax.tree.map(jnp.zeros_like, rounding)


def _means(
    size: int, centered: bool, padded: tuple[padding.Padded, ...], color_weights: list[Array], spatial_rate: Array
) -> tuple[tuple[Array, ...], Array]:
    spatial = _spatial_weights(size, centered, spatial_rate)
    weights = [s * w for s, w in zip(spatial, _in_reading_order(size, color_weights, padded[0].plane), strict=True)]
    total = stencil.total(weights)
    return tuple(_dot(weights, padding.windows(plane, size)) / total for plane in padded), total


@xla.unfused
def _scaled(gradients: tuple[Array, ...], means: tuple[Array, ...], total: Array) -> tuple[Array, ...]:
    """Computes a for each channel, and a.m."""
    scaled = tuple(gradient / total for gradient in gradients)
    return (*scaled, _dot(scaled, means))


def _gathered(
    size: int,
    centered: bool,
    padded: tuple[padding.Padded, ...],
    color_weights: list[Array],
    scaled: tuple[padding.Padded, ...],
    spatial_rate: Array,
    color_rate: Array,
) -> tuple[tuple[Array, ...], Array, Array]:
    """Computes the gradients for the planes, and each pixel's terms of the gradients for the two rates."""
    distances, spatial = _squared_distances(size, centered), _spatial_weights(size, centered, spatial_rate)
    weights = _in_reading_order(size, color_weights, padded[0].plane)
    values = list(zip(*(padding.windows(plane, size) for plane in padded), strict=True))
    scaled_windows = list(zip(*(padding.windows(plane, size) for plane in scaled), strict=True))
    v, (*a, am) = values[size**2 // 2], scaled_windows[size**2 // 2]
    zero = jnp.zeros((), padded[0].plane.dtype)
    gradients, spatial_gradient, color_gradient = [zero] * 3, zero, zero
    for distance, s, s_back, w, v_o, (*a_o, am_o) in zip(
        distances, spatial, reversed(spatial), weights, values, scaled_windows, strict=True
    ):
        own = s * w * (_dot(a, v_o) - am)
        other = s_back * w * (_dot(a_o, v) - am_o)
        difference = [there - here for there, here in zip(v_o, v, strict=True)]
        pull = 2 * color_rate * (own + other)
        gradients = [g + s_back * w * x + pull * d for g, x, d in zip(gradients, a_o, difference, strict=True)]
        spatial_gradient -= distance * own
        color_gradient -= _dot(difference, difference) * own
    return tuple(gradients), spatial_gradient, color_gradient


_window_means = with_gradient(lambda *args: _forward(*args)[0], _backward, static_argnums=(0, 1), forward=_forward)


def _squared_distances(size: int, centered: bool) -> list[int]:
    """Lists the squared distances to a window's pixels in reading order; scikit-image's distances unless `centered`."""
    side = size if centered else size + 1
    offsets = np.arange(side) - side // 2
    return np.add.outer(offsets**2, offsets**2).ravel()[: size**2].tolist()


def _spatial_weights(size: int, centered: bool, spatial_rate: Array) -> list[Array]:
    return [jnp.exp(-spatial_rate * distance) for distance in _squared_distances(size, centered)]


def _following(size: int) -> list[tuple[int, int]]:
    """Lists the offsets from a pixel to the pixels of its window that follow it in reading order."""
    offsets = itertools.product(range(-(size // 2), size // 2 + 1), repeat=2)
    return [(y, x) for y, x in offsets if (y, x) > (0, 0)]


def _color_weights(
    size: int, padded: Sequence[padding.Padded], color_rate: Array, rounding: Rounding | None
) -> list[Array]:
    """Computes the color weights of pixel pairs at `_following` offsets; the earlier pixel may be beyond the border."""
    radius = size // 2
    height, width = (side - 2 * radius for side in padded[0].plane.shape[-2:])
    weights = []
    for y, x in _following(size):
        left, right = radius - max(x, 0), radius - min(x, 0) + width
        shape, earlier, later = (height + y, right - left), (radius - y, left), (radius, left + x)
        differences = [
            padding.window(each.plane, later, shape) - padding.window(each.plane, earlier, shape) for each in padded
        ]
        squares = _dot(differences, differences)
        if rounding is not None:
            width_of_bin, value_of_bin = rounding
            squares = (jnp.floor(jnp.sqrt(squares) / width_of_bin) * value_of_bin) ** 2
        weights.append(jnp.exp(-color_rate * squares))
    return weights


def _in_reading_order(size: int, color_weights: Sequence[Array], padded: Array) -> list[Array]:
    """Lists the color weights of each window's pixels in reading order; a pair's weight serves both of its pixels."""
    height, width = (side - (size - 1) for side in padded.shape[-2:])
    following = list(zip(_following(size), color_weights, strict=True))
    after = [padding.window(w, (y, max(x, 0)), (height, width)) for (y, x), w in following]
    before = [padding.window(w, (0, max(-x, 0)), (height, width)) for (_, x), w in following]
    return [*reversed(before), jnp.ones((), padded.dtype), *after]


def _dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    return stencil.total(x * y for x, y in zip(a, b, strict=True))
