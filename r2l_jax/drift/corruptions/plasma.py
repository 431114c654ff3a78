"""Plasma fractals: random height maps whose roughness follows from one number, by the diamond-square algorithm."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# The square of this number is the wobble of the first level, as in the published code; maps are scaled to [0, 1].
_WOBBLE = 100.0


def plasma_fractal(
    key: PRNGKeyArray, height: int, width: int, decay: Float[Array, ""] | float
) -> Float[Array, "height width"]:
    """Draws a height map in [0, 1], the corner of a square map whose side is the next power of two.

    Args:
        key: the key.
        height: the number of rows.
        width: the number of columns.
        decay: the factor by which the wobble falls from one level to the next finer one; greater is smoother.
    """
    levels = max(max(height, width) - 1, 1).bit_length()
    drawn = jax.random.uniform(key, (4**levels - 1,), minval=-1, maxval=1)
    sizes = [2 ** (level // 3) for level in range(3 * levels)]
    ends = list(itertools.accumulate(size**2 for size in sizes))
    draws = [drawn[end - size**2 : end].reshape(size, size) for end, size in zip(ends, sizes, strict=True)]
    return diamond_square(draws, decay)[:height, :width]


def diamond_square(draws: Sequence[Array], decay: Float[Array, ""] | float) -> Array:
    """Computes a square height map in [0, 1] from uniform random numbers.

    This is `plasma_fractal` of the published code, for the numbers that it draws, in its order.

    Args:
        draws: for each level three arrays `(side, side)` of numbers in [-1, 1]: for the middles of squares, and for
            the middles of their upper and their left edges. The sides are 1, 2, 4, ...
        decay: see `plasma_fractal`.
    """
    corners, wobble = jnp.zeros((1, 1)), _WOBBLE
    for squares, upper, left in zip(draws[::3], draws[1::3], draws[2::3], strict=True):

        def mean(total, drawn, wobble=wobble):
            return total / 4 + wobble**2 * drawn

        pairs = corners + jnp.roll(corners, -1, 0)
        middles = mean(pairs + jnp.roll(pairs, -1, 1), squares)
        above = mean(middles + jnp.roll(middles, 1, 0) + corners + jnp.roll(corners, -1, 1), upper)
        beside = mean(middles + jnp.roll(middles, 1, 1) + corners + jnp.roll(corners, -1, 0), left)
        side = 2 * len(corners)
        blocks = jnp.stack([jnp.stack([corners, above], -1), jnp.stack([beside, middles], -1)], 1)
        corners, wobble = blocks.reshape(side, side), wobble / decay
    heights = corners - corners.min()
    return heights / heights.max()
