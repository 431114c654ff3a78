"""Blurs of planes along both axes or along a line, and the noise that they leave."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isp._kernels import xla

# Below this share of its variance, a function of the cosine transform lacks no noise.
_LEAST = 1e-12


def smoothed(planes: Array, variance: Array) -> Array:
    """Smooths planes with a discrete Gaussian of exactly this variance; borders are reflected."""
    down, along = (_heat_kernel(side, variance, planes.dtype) for side in planes.shape[-2:])
    return jnp.matmul(jnp.matmul(down, planes, precision="highest"), along, precision="highest")


def _heat_kernel(side: int, variance: Array, dtype: jnp.dtype) -> Array:
    """Computes the matrix of the discrete Gaussian: T. Lindeberg, "Scale-space for discrete signals", PAMI (1990)."""
    cosines = _cosines(side, dtype)
    decay = jnp.exp(-variance * _rates(side, dtype)[:, None])
    return jnp.matmul(cosines.T, decay * cosines, precision="highest")


def _cosines(side: int, dtype: jnp.dtype) -> Array:
    """Returns the matrix of the orthonormal cosine transform, whose functions a reflected Gaussian only scales."""
    frequencies, places = np.arange(side)[:, None], np.arange(side) + 0.5
    cosines = np.cos(np.pi * frequencies * places / side) * np.sqrt(2 / side)
    cosines[0] /= np.sqrt(2)
    return jnp.asarray(cosines, dtype)


def _rates(side: int, dtype: jnp.dtype) -> Array:
    """Returns the rates at which a growing variance dampens the functions of `_cosines`."""
    return jnp.asarray(1 - np.cos(np.pi * np.arange(side) / side), dtype)


def lost_noise(white: Array, variance: Array) -> Array:
    """Turns independent normal numbers into noise that makes smoothed independent noise independent again.

    Smoothing by K leaves noise with the covariance K K'. This noise has the covariance I - K K', so both together have
    I, up to the border. `white` is taken as the noise's cosine transform, which has independent numbers as well.
    """
    rows, columns = (_rates(side, white.dtype) for side in white.shape[-2:])

    # A separate unit: fused with the noise, it would be computed for each site.
    @xla.unfused
    def amplitude(variance: Array) -> Array:
        share = -jnp.expm1(-2 * variance * (rows[:, None] + columns))
        # A root has no finite slope at 0.
        return jnp.where(share > _LEAST, jnp.sqrt(jnp.maximum(share, _LEAST)), 0)

    scaled = white * amplitude(variance)
    down, along = (_cosines(side, white.dtype) for side in white.shape[-2:])
    return jnp.matmul(jnp.matmul(down.T, scaled, precision="highest"), along, precision="highest")


def moved(planes: Array, steps: Array, taps: Array) -> Array:
    """Smooths planes along lines, by weights at distances of 0, 1, ... steps (rows, columns); borders repeat."""
    reach = taps.shape[-1] - 1
    batch = steps.shape[:-1]
    count = int(np.prod(batch))

    def one(planes: Array, step: Array, taps: Array) -> Array:
        padded = jnp.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="edge")

        def add(total: Array, at: Array) -> tuple[Array, None]:
            start = (0, *(reach + at * step))
            return total + taps[abs(at)] * jax.lax.dynamic_slice(padded, start, planes.shape), None

        return jax.lax.scan(add, jnp.zeros_like(planes), jnp.arange(-reach, reach + 1))[0]

    each = (array.reshape(count, *array.shape[len(batch) :]) for array in (planes, steps, taps))
    return jax.vmap(one)(*each).reshape(planes.shape)


def line(variance: Array, reach: int) -> Array:
    """Computes the weights of lines with exactly this variance, at distances of 0 to `reach` steps."""
    variance, distances = variance[..., None], jnp.arange(reach + 1)
    # A line of m whole steps to both sides has the variance m (m + 1) / 3.
    whole = jnp.floor((jnp.sqrt(1 + 12 * variance) - 1) / 2)
    squares = whole * (whole + 1) * (2 * whole + 1) / 3
    share = (variance * (1 + 2 * whole) - squares) / (2 * ((whole + 1) ** 2 - variance))
    weights = jnp.clip(whole + 1 - distances, 0, 1) + share * (distances == whole + 1)
    return weights / (2 * weights.sum(-1, keepdims=True) - weights[..., :1])


def remaining_noise(variance: Array, steps: Array, taps: Array) -> Array:
    """Computes the share of the variance of independent noise that a Gaussian and a line leave, one after the other.

    It is the sum of the squared weights of both together, the overlap of their autocorrelations.

    Args:
        variance: of the discrete Gaussian, see `smoothed`.
        steps: the steps of the lines (rows, columns) `(..., 2)`.
        taps: their weights at distances of 0, 1, ... steps `(..., reach)`.
    """
    lags = jnp.arange(2 * taps.shape[-1] - 1)
    whole = jnp.concatenate([taps[..., :0:-1], taps], -1)
    batch = taps.shape[:-1]
    rows = whole.reshape(int(np.prod(batch)), whole.shape[-1])
    of_line = jax.vmap(jnp.convolve)(rows, rows)[:, whole.shape[-1] - 1 :]
    of_line = of_line.reshape(*batch, len(lags)) * jnp.where(lags == 0, 1, 2)
    # The autocorrelation of a discrete Gaussian by its Fourier series.
    angles = 2 * np.pi * np.arange(256) / 256
    decay = jnp.exp(-2 * variance * jnp.asarray(1 - np.cos(angles), taps.dtype))
    at = (decay * jnp.cos(lags[:, None, None] * steps[..., None, :, None] * angles)).mean(-1).prod(-1)
    return (of_line * at).sum(-1)
