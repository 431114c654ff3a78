"""Products of matrices with the channels of all pixels, in forms that XLA:CPU computes fast."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tasks._units import apart


@jax.custom_vjp
def each_pixel_times(
    x: Float[Array, "*pixels inputs"], matrix: Float[Array, "inputs outputs"]
) -> Float[Array, "*pixels outputs"]:
    """Multiplies the channels of each pixel by a matrix. Forward mode does not work.

    Args:
        x: Images `(..., inputs)`.
        matrix: Weights `(inputs, outputs)`.

    Returns:
        Images `(..., outputs)`.
    """
    # As matrices: XLA:CPU would copy the images to an order in which it can contract several axes.
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
    """Computes the products of the channels of two images, summed over all pixels.

    Args:
        x: Images `(..., first)`.
        y: Images `(..., second)`.

    Returns:
        The sums `(first, second)`, in the precision of the images.
    """
    x, y = (image.reshape(-1, image.shape[-1]) for image in (x, y))
    if jax.default_backend() != "cpu":
        return x.T @ y
    # XLA:CPU is up to twice as fast if one side is transposed in memory first, above all the one with fewer channels.
    # Units, because XLA would undo the transposition.
    if x.shape[1] > y.shape[1]:
        return apart(jnp.transpose)(apart(jnp.transpose)(y) @ x)
    return apart(jnp.transpose)(x) @ y
