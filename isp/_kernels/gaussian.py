"""Smoothing of planes with a separable Gaussian."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from isp._kernels import stencil
from isp._kernels.checks import Scalar
from isp._kernels.xla import is_plain, with_gradient


def smooth(plane: Array, sigma: Scalar, size: int) -> Array:
    """Smooths a plane `(..., H, W)` with a Gaussian cut off at `size`; the border repeats the outermost pixels."""
    return _smooth_along(smooth_columns(plane, sigma, size), sigma, size, -1)


def smooth_columns(plane: Array, sigma: Scalar, size: int) -> Array:
    """Smooths each column of a plane `(..., H, W)` by itself, as `smooth` does along both axes."""
    return _smooth_along(plane, sigma, size, -2)


def _smooth_along(plane: Array, sigma: Scalar, size: int, axis: int) -> Array:
    smoothed = _smoothed if is_plain() else _smoothed_with_gradient
    # Times 1.0, because integers have no derivative.
    return smoothed(plane, 1.0 * jnp.asarray(sigma), size, axis)


def _smoothed(plane: Array, sigma: Array, size: int, axis: int) -> Array:
    kernel, _ = _kernel_and_slope(sigma, size, axis, plane.dtype)
    return stencil.correlate(plane, kernel, "symmetric")


def _forward(plane: Array, sigma: Array, size: int, axis: int) -> tuple[Array, tuple[Array, Array]]:
    return _smoothed(plane, sigma, size, axis), (plane, sigma)


def _backward(size: int, axis: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Computes the gradient for sigma with one more stencil, where JAX would take an inner product for each weight."""
    plane, sigma = residuals
    kernel, slope = _kernel_and_slope(sigma, size, axis, plane.dtype)
    of_plane = stencil.transposed(gradient, kernel, "symmetric")
    of_sigma = stencil.inner_product(stencil.correlate(plane, slope, "symmetric"), gradient)
    return of_plane.astype(plane.dtype), of_sigma.astype(sigma.dtype)


_smoothed_with_gradient = with_gradient(_smoothed, _forward, _backward, static_argnums=(2, 3))


def _kernel_and_slope(sigma: Array, size: int, axis: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Computes the weights of a Gaussian and their derivatives for sigma, `(size, 1)` or `(1, size)`.

    The weights sum to 1.
    """
    offsets = jnp.expand_dims(jnp.arange(size, dtype=dtype) - size // 2, 1 if axis == -2 else 0)
    squares = (offsets / sigma) ** 2
    bell = jnp.exp(-squares / 2)
    kernel = bell / bell.sum()
    return kernel, kernel * (squares - (kernel * squares).sum()) / sigma
