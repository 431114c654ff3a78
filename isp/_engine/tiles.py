"""Values laid out by the sites of a color filter array."""

import numpy as np
from jaxtyping import Array, Float

from isp import cfa
from isp._engine import stencil


def rows_of_sites(values: Float[Array, "3"], pattern: str, height: int, width: int) -> Float[Array, "rows width"]:
    """Lays out one value a channel along the rows of a tile, as wide as a mosaic.

    The gradient of a product with full rows sums whole rows, which vectorizes. Where the rows of a tile do not divide
    the height, all rows of the mosaic are laid out. Without color filters, the value of the first channel counts.
    """
    colors = cfa.tile(pattern)
    if height % len(colors):
        colors = np.tile(colors, (-(-height // len(colors)), 1))[:height]
    columns = np.arange(width) % colors.shape[1]
    # A unit of its own, because XLA would look up the color of each site of the mosaic.
    return stencil.apart(lambda values: values[colors[:, columns]])(values)
