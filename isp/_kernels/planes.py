"""The channels of images, and the sites of mosaics, as planes."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from isp._kernels import xla


def split(rgb: Array) -> tuple[Array, Array, Array]:
    """Returns the three channels of images `(..., H, W, 3)` as planes `(..., H, W)`.

    The gradient of a split is a concatenation, which cancels with the stacking of channels at the end of the previous
    function. The gradients of `rgb[..., 0]` and so on would be three images, mostly of zeros, to add up.
    """
    red, green, blue = (lax.squeeze(plane, (plane.ndim - 1,)) for plane in lax.split(rgb, (1, 1, 1), rgb.ndim - 1))
    return red, green, blue


def rows_of_sites(by_site: Float[Array, "rows cols"], height: int, width: int) -> Float[Array, "repeated width"]:
    """Repeats the values of a tile's sites along its rows, up to the width of a mosaic.

    The gradient of a product with full rows sums whole rows, which vectorizes. Where the rows of a tile do not divide
    the height, they are repeated up to it.
    """
    rows, cols = by_site.shape
    count = height if height % rows else rows

    def repeated(by_site: Array) -> Array:
        return jnp.tile(by_site, (-(-count // rows), -(-width // cols)))[:count, :width]

    # A unit of its own, because XLA would look up the value of each site of the mosaic.
    return xla.apart(repeated)(by_site)


def squared_radii(height: int, width: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Computes the shares of rows and columns in the squared radius: 0 in the middle, 1 in the corners."""
    y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    corner = max(y[-1] ** 2 + x[-1] ** 2, 0.25)  # A single pixel is at radius 0.
    return jnp.asarray(y**2 / corner, dtype), jnp.asarray(x**2 / corner, dtype)
