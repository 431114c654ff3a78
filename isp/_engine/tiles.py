"""Values laid out by the sites of a color filter array."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from isp._engine import units


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
    return units.apart(repeated)(by_site)
