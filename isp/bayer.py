"""The color filter array: which color each site of a mosaic sees.

A site is one element of the sensor. It sees red, green or blue, and the colors repeat in tiles of 2x2 sites, so a
mosaic `(..., H, W)` has an even height and width. "In CFA order" means the order (0, 0), (0, 1), (1, 0), (1, 1) of the
sites of a tile.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp._engine import stencil
from isp._engine.checks import check_image

# Channel (0 red, 1 green, 2 blue) of each site, in CFA order.
PATTERNS = {"RGGB": (0, 1, 1, 2), "BGGR": (2, 1, 1, 0), "GRBG": (1, 0, 2, 1), "GBRG": (1, 2, 0, 1)}


def check_pattern(pattern: str) -> None:
    """Checks that `pattern` is the name of a Bayer pattern.

    Args:
        pattern: The colors of a tile in CFA order.

    Raises:
        ValueError: If `pattern` is not one of "RGGB", "BGGR", "GRBG" and "GBRG".

    Example:
        >>> import isp
        >>> isp.bayer.check_pattern("RGGB")
        >>> isp.bayer.check_pattern("RGBG")
        Traceback (most recent call last):
        ValueError: pattern must be one of RGGB, BGGR, GRBG, GBRG, got 'RGBG'
    """
    if not isinstance(pattern, str) or pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")


def check_mosaic(raw: Shaped[Array | np.ndarray, "..."]) -> None:
    """Checks that an array is a mosaic.

    Args:
        raw: The array, which may be traced.

    Raises:
        ValueError: If `raw` is not floating point, or not `(..., H, W)` with even H and W.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.bayer.check_mosaic(jnp.zeros((4, 6)))
        >>> isp.bayer.check_mosaic(jnp.zeros((4, 5)))
        Traceback (most recent call last):
        ValueError: raw must have an even height and width, got shape (4, 5)
    """
    if not jnp.issubdtype(raw.dtype, jnp.floating):
        raise ValueError(
            f"raw must be floating point with the white level at 1, got {raw.dtype}: divide by the white level first"
        )
    if raw.ndim < 2:
        raise ValueError(f"raw must be (..., H, W), got shape {raw.shape}")
    if raw.shape[-2] % 2 or raw.shape[-1] % 2 or 0 in raw.shape[-2:]:
        raise ValueError(f"raw must have an even height and width, got shape {raw.shape}")


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


@jax.jit(static_argnames="rescale")
def subtract_black_level(
    raw: Shaped[Array, "..."], black_level: Float[Array, "4"], rescale: bool = False
) -> Float[Array, "*batch height width"]:
    """Subtracts the black level of each site, without clipping: noise around black keeps its mean.

    Args:
        raw: A mosaic `(..., H, W)`.
        black_level: One level per site of the tile, in CFA order.
        rescale: Whether to divide by 1 - black_level, so that white stays at 1. The pipelines of the study do not.

    Returns:
        The mosaic `(..., H, W)`, with black at 0.

    Raises:
        ValueError: If `raw` is not a mosaic, or `black_level` does not have four values.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.bayer.subtract_black_level(jnp.ones((2, 4)), jnp.array([0.25, 0.5, 0.5, 0.75]))
        Array([[0.75, 0.5 , 0.75, 0.5 ],
               [0.5 , 0.25, 0.5 , 0.25]], dtype=float32)
    """
    check_mosaic(raw)
    if black_level.shape != (4,):
        raise ValueError(f"black_level must have shape (4,), one level a site in CFA order, got {black_level.shape}")
    *batch, height, width = raw.shape
    # Rows are taken in pairs against a full row of levels, so that the gradient sums whole rows, which vectorizes.
    levels = _tiled_rows(black_level, width)
    above_black = raw.reshape(*batch, height // 2, 2, width) - levels
    if rescale:
        above_black *= _tiled_rows(1 / (1 - black_level), width)
    return above_black.reshape(raw.shape)


def _tiled_rows(by_site: Array, width: int) -> Array:
    """Repeats the two rows of a tile up to a width; a unit of its own, or XLA would look up each site of a mosaic."""
    return stencil.apart(lambda by_site: jnp.tile(by_site.reshape(2, 2), width // 2))(by_site)


def _site_masks(height: int, width: int, pattern: str) -> Float[Array, "height width 3"]:
    """Makes masks that are 1 where a site sees the channel and 0 elsewhere."""
    tile = jax.nn.one_hot(jnp.array(PATTERNS[pattern]), 3).reshape(2, 2, 3)
    return jnp.tile(tile, (height // 2, width // 2, 1))


@jax.jit(static_argnames="pattern")
def spread(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Spreads a mosaic over three planes that are zero where the site sees another color.

    Args:
        raw: A mosaic `(..., H, W)`.
        pattern: The colors of a tile in CFA order.

    Returns:
        The planes `(..., H, W, 3)`.

    Raises:
        ValueError: If `raw` is not a mosaic, or the pattern is unknown.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> red, green, blue = jnp.moveaxis(isp.bayer.spread(jnp.ones((2, 4))), -1, 0)
        >>> green
        Array([[0., 1., 0., 1.],
               [1., 0., 1., 0.]], dtype=float32)
    """
    check_mosaic(raw)
    check_pattern(pattern)
    height, width = raw.shape[-2:]
    return raw[..., None] * _site_masks(height, width, pattern).astype(raw.dtype)


@jax.jit(static_argnames="pattern")
def mosaic(rgb: Float[Array, "*batch height width 3"], pattern: str = "RGGB") -> Float[Array, "*batch height width"]:
    """Samples an image as a sensor does: each site keeps the one color that it sees.

    Args:
        rgb: Images `(..., H, W, 3)` with even H and W.
        pattern: The colors of a tile in CFA order.

    Returns:
        The mosaic `(..., H, W)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image of even height and width, or the pattern is unknown.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.bayer.mosaic(jnp.broadcast_to(jnp.array([0.25, 0.5, 0.75]), (2, 4, 3)))
        Array([[0.25, 0.5 , 0.25, 0.5 ],
               [0.5 , 0.75, 0.5 , 0.75]], dtype=float32)
    """
    check_pattern(pattern)
    check_image(rgb)
    height, width = rgb.shape[-3:-1]
    if height % 2 or width % 2:
        raise ValueError(f"rgb must have an even height and width, got shape {rgb.shape}")
    return (rgb * _site_masks(height, width, pattern).astype(rgb.dtype)).sum(-1)


@jax.jit(static_argnames="pattern")
def half_size(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch rows cols 3"]:
    """Makes one RGB pixel of each tile; the two greens are averaged.

    Args:
        raw: A mosaic `(..., H, W)`.
        pattern: The colors of a tile in CFA order.

    Returns:
        Images `(..., H / 2, W / 2, 3)`.

    Raises:
        ValueError: If `raw` is not a mosaic, or the pattern is unknown.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.bayer.half_size(jnp.array([[0.25, 0.5], [1.0, 0.125]]))
        Array([[[0.25 , 0.75 , 0.125]]], dtype=float32)
    """
    check_pattern(pattern)
    phases = space_to_depth(raw)
    channels = [[site for site, c in enumerate(PATTERNS[pattern]) if c == channel] for channel in range(3)]
    return jnp.stack([phases[..., jnp.array(sites)].mean(-1) for sites in channels], -1)
