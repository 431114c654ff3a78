"""The sites of a mosaic: which color each one sees, and at which level it is dark."""

import numpy as np
from jaxtyping import Float32, Int

import isp


def color_tile(pattern: str) -> Int[np.ndarray, "rows cols"]:
    """Returns the channel that each site of a pattern's tile sees; the tile repeats over the mosaic.

    Args:
        pattern: the name of the pattern, such as "RGGB".

    Returns:
        0 for red, 1 for green and 2 for blue, in the shape of the tile.
    """
    return np.reshape(isp.bayer.PATTERNS[pattern], (2, 2))


def black_levels(camera: isp.Camera, rows: int, cols: int) -> Float32[np.ndarray, "{rows} {cols}"]:
    """Returns the black level of every site of a mosaic of this size."""
    height, width = color_tile(camera.pattern).shape
    levels = np.reshape(camera.black_level, (height, width)).astype(np.float32)
    return np.tile(levels, (-(-rows // height), -(-cols // width)))[:rows, :cols]
