"""Separate compilation units and matrix products, in forms that XLA:CPU computes fast."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float


@functools.cache
def apart(function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
    """Makes a function of static arguments, followed by arrays, a separate unit on CPUs, traced once for its shapes.

    Otherwise, XLA:CPU may compute a function again for each of its readers.
    """

    def inner(*arrays: Any) -> Any:
        # Without this, the functions called inside would inherit "false".
        with set_xla_metadata(inlineable="true"):
            return function(*static, *arrays)

    unit = jax.jit(inner)

    def outer(*arrays: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*static, *arrays)
        with set_xla_metadata(inlineable="false"):
            return unit(*arrays)

    return outer


@jax.custom_vjp
def each_pixel_times(
    x: Float[Array, "*pixels inputs"], matrix: Float[Array, "inputs outputs"]
) -> Float[Array, "*pixels outputs"]:
    """Multiplies the channels of each pixel by a matrix. Forward mode does not work."""
    # As matrices, because XLA:CPU would copy the images to reorder axes if it had to contract several of them.
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _forward(x: Array | np.ndarray, matrix: Array | np.ndarray) -> tuple[Array, tuple[Array, Array]]:
    x, matrix = jnp.asarray(x), jnp.asarray(matrix)
    return each_pixel_times(x, matrix), (x, matrix)


def _backward(residuals: tuple[Array, Array], gradient: Array | np.ndarray) -> tuple[Array, Array]:
    (x, matrix), gradient = map(jnp.asarray, residuals), jnp.asarray(gradient)
    return each_pixel_times(gradient, matrix.T), summed_products(x, gradient)


each_pixel_times.defvjp(_forward, _backward)


def summed_products(
    x: Float[Array, "*pixels first"], y: Float[Array, "*pixels second"]
) -> Float[Array, "first second"]:
    """Computes the products of the channels of two images, summed over all pixels, in the precision of the images."""
    x, y = (image.reshape(-1, image.shape[-1]) for image in (x, y))
    if jax.default_backend() != "cpu":
        return x.T @ y
    # XLA:CPU is up to twice as fast if one side is transposed in memory first, ideally the one with fewer channels.
    # Units, because XLA would undo the transposition.
    if x.shape[1] > y.shape[1]:
        return apart(jnp.transpose)(apart(jnp.transpose)(y) @ x)
    return apart(jnp.transpose)(x) @ y
