"""Smoothing of planes with a separable Gaussian."""

import jax.numpy as jnp
from jaxtyping import Array

from isp._kernels import stencil
from isp._kernels.checks import Scalar


def smooth(plane: Array, sigma: Scalar, size: int) -> Array:
    """Smooths a plane `(..., H, W)` with a Gaussian cut off at `size`; the border repeats the outermost pixels."""
    return _smooth_along(smooth_columns(plane, sigma, size), sigma, size, -1)


def smooth_columns(plane: Array, sigma: Scalar, size: int) -> Array:
    """Smooths each column of a plane `(..., H, W)` by itself, as `smooth` does along both axes."""
    return _smooth_along(plane, sigma, size, -2)


def _smooth_along(plane: Array, sigma: Scalar, size: int, axis: int) -> Array:
    offsets = jnp.expand_dims(jnp.arange(size, dtype=plane.dtype) - size // 2, 1 if axis == -2 else 0)
    bell = jnp.exp(-((offsets / sigma) ** 2) / 2)
    return stencil.correlate(plane, bell / bell.sum(), "symmetric")
