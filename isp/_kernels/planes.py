"""The channels of images, and the sites of mosaics, as planes."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from isp._kernels import xla


def split(rgb: Array) -> tuple[Array, Array, Array]:
    """Splits images into planes; its gradient, a concatenation, cancels the stacking of the previous function."""
    red, green, blue = (lax.squeeze(plane, (plane.ndim - 1,)) for plane in lax.split(rgb, (1, 1, 1), rgb.ndim - 1))
    return red, green, blue


def rows_of_sites(by_site: Float[Array, "rows cols"], height: int, width: int) -> Float[Array, "repeated width"]:
    """Repeats a tile along rows, since full rows vectorize, and over the height only if its rows do not divide it."""
    rows, cols = by_site.shape
    count = height if height % rows else rows

    def repeated(by_site: Array) -> Array:
        return jnp.tile(by_site, (-(-count // rows), -(-width // cols)))[:count, :width]

    # A separate unit, because XLA would otherwise look up the value of each site of the mosaic.
    return xla.unfused(repeated)(by_site)


def squared_radii(height: int, width: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Computes the shares of rows and columns in the squared radius: 0 in the middle, 1 in the corners."""
    y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    corner = max(y[-1] ** 2 + x[-1] ** 2, 0.25)  # A single pixel is at radius 0.
    return jnp.asarray(y**2 / corner, dtype), jnp.asarray(x**2 / corner, dtype)
