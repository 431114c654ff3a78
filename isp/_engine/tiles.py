"""The periodic tile of a color filter array, and values laid out by its sites."""

import numpy as np
from jaxtyping import Array, Float, Int

from isp import bayer
from isp._engine import stencil


def tile(pattern: str) -> Int[np.ndarray, "rows cols"]:
    """Returns the channel (0 red, 1 green, 2 blue) that each site of the repeating tile sees."""
    bayer.check_pattern(pattern)
    return np.reshape(bayer.PATTERNS[pattern], (2, 2))


def rows_of_sites(values: Float[Array, "3"], pattern: str, width: int) -> Float[Array, "rows width"]:
    """Lays out one value a channel along the rows of a tile, as wide as a mosaic.

    The gradient of a product with full rows sums whole rows, which vectorizes.
    """
    colors = tile(pattern)
    columns = np.arange(width) % colors.shape[1]
    # A unit of its own, because XLA would look up the color of each site of the mosaic.
    return stencil.apart(lambda values: values[colors[:, columns]])(values)
