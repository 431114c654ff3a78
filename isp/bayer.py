"""The 2x2 tiles of a Bayer mosaic as channels, and back.

A Bayer mosaic `(..., H, W)` has an even height and width. "In CFA order" means the order (0, 0), (0, 1), (1, 0), (1, 1)
of the sites of a tile.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from isp.cfa import check_mosaic


@jax.jit
def space_to_depth(raw: Shaped[Array, "..."]) -> Float[Array, "*batch rows cols 4"]:
    """Gathers the four sites of each tile into a last axis, in CFA order.

    Args:
        raw: A mosaic `(..., H, W)`.

    Returns:
        The sites `(..., H / 2, W / 2, 4)`.

    Raises:
        ValueError: If `raw` is not a mosaic.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> raw = jnp.arange(8.0).reshape(2, 4)
        >>> isp.bayer.space_to_depth(raw)
        Array([[[0., 1., 4., 5.],
                [2., 3., 6., 7.]]], dtype=float32)
    """
    check_mosaic(raw)
    *batch, height, width = raw.shape
    tiles = raw.reshape(*batch, height // 2, 2, width // 2, 2)
    return jnp.moveaxis(tiles, -3, -2).reshape(*batch, height // 2, width // 2, 4)


@jax.jit
def depth_to_space(phases: Float[Array, "*batch rows cols 4"]) -> Float[Array, "*batch height width"]:
    """Puts the sites of each tile back into a mosaic; undoes `space_to_depth`.

    Args:
        phases: The sites of each tile in CFA order, `(..., H / 2, W / 2, 4)`.

    Returns:
        The mosaic `(..., H, W)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.bayer.depth_to_space(jnp.array([[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]))
        Array([[0., 1., 2., 3.],
               [4., 5., 6., 7.]], dtype=float32)
    """
    *batch, rows, cols, _ = phases.shape
    tiles = jnp.moveaxis(phases.reshape(*batch, rows, cols, 2, 2), -2, -3)
    return tiles.reshape(*batch, 2 * rows, 2 * cols)
