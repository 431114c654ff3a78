"""The colour filter array: which colour each site of a mosaic sees, and moving between sites, phases and planes.

A mosaic is `(..., H, W)` with even H and W. Its sites repeat in 2x2 tiles; everything that is listed "in CFA order" is
in the order (0,0) (0,1) (1,0) (1,1) of the tile's sites.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

# Channel (0 red, 1 green, 2 blue) of each site, in CFA order.
PATTERNS = {"RGGB": (0, 1, 1, 2), "BGGR": (2, 1, 1, 0), "GRBG": (1, 0, 2, 1), "GBRG": (1, 2, 0, 1)}


def check_pattern(pattern: str) -> None:
    """Raises a ValueError unless `pattern` is one of the four Bayer patterns."""
    if not isinstance(pattern, str) or pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")


def check_mosaic(raw: Shaped[Array, "..."]) -> None:
    """Raises a ValueError unless `raw` is a floating-point mosaic `(..., H, W)` with even H and W."""
    if not jnp.issubdtype(raw.dtype, jnp.floating):
        raise ValueError(
            f"raw must be floating point with the white level at 1, got {raw.dtype}: divide by the white level first"
        )
    if raw.ndim < 2:
        raise ValueError(f"raw must be (..., H, W), got shape {raw.shape}")
    if raw.shape[-2] % 2 or raw.shape[-1] % 2 or 0 in raw.shape[-2:]:
        raise ValueError(f"raw must have an even height and width, got shape {raw.shape}")


def check_image(rgb: Shaped[Array, "..."]) -> None:
    """Raises a ValueError unless `rgb` is a floating-point image `(..., H, W, 3)`."""
    if not jnp.issubdtype(rgb.dtype, jnp.floating):
        raise ValueError(f"rgb must be floating point with white at 1, got {rgb.dtype}: divide by its white first")
    if rgb.ndim < 3 or rgb.shape[-1] != 3:
        raise ValueError(f"rgb must be (..., H, W, 3), channels last, got shape {rgb.shape}")


@jax.jit
def space_to_depth(raw: Shaped[Array, "..."]) -> Float[Array, "*batch rows cols 4"]:
    """Gathers each 2x2 tile of `(..., H, W)` into the last axis of `(..., H/2, W/2, 4)`, in CFA order."""
    check_mosaic(raw)
    *batch, height, width = raw.shape
    tiles = raw.reshape(*batch, height // 2, 2, width // 2, 2)
    return jnp.moveaxis(tiles, -3, -2).reshape(*batch, height // 2, width // 2, 4)


@jax.jit
def depth_to_space(phases: Float[Array, "*batch rows cols 4"]) -> Float[Array, "*batch height width"]:
    """Undoes `space_to_depth`: `(..., H/2, W/2, 4)` to `(..., H, W)`."""
    *batch, rows, cols, _ = phases.shape
    tiles = jnp.moveaxis(phases.reshape(*batch, rows, cols, 2, 2), -2, -3)
    return tiles.reshape(*batch, 2 * rows, 2 * cols)


@jax.jit
def subtract_black_level(
    raw: Shaped[Array, "..."], black_level: Float[Array, "4"]
) -> Float[Array, "*batch height width"]:
    """Subtracts the black level of each site (in CFA order). Does not clip: noise around black stays unbiased."""
    check_mosaic(raw)
    if black_level.shape != (4,):
        raise ValueError(f"black_level must have shape (4,), one level a site in CFA order, got {black_level.shape}")
    *batch, height, width = raw.shape
    # Rows in pairs, and the level of every site along them: so its gradient sums whole rows, which vectorises.
    levels = jnp.tile(black_level.reshape(2, 2), width // 2)
    return (raw.reshape(*batch, height // 2, 2, width) - levels).reshape(raw.shape)


def _site_masks(height: int, width: int, pattern: str) -> Float[Array, "height width 3"]:
    """One where the site sees that channel, zero elsewhere."""
    tile = jax.nn.one_hot(jnp.array(PATTERNS[pattern]), 3).reshape(2, 2, 3)
    return jnp.tile(tile, (height // 2, width // 2, 1))


@functools.partial(jax.jit, static_argnames="pattern")
def spread(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Spreads a mosaic `(..., H, W)` over three planes `(..., H, W, 3)`, zero where the site sees another colour."""
    check_mosaic(raw)
    check_pattern(pattern)
    return raw[..., None] * _site_masks(*raw.shape[-2:], pattern).astype(raw.dtype)


@functools.partial(jax.jit, static_argnames="pattern")
def mosaic(rgb: Float[Array, "*batch height width 3"], pattern: str = "RGGB") -> Float[Array, "*batch height width"]:
    """Samples an image `(..., H, W, 3)` as a sensor does: each site `(..., H, W)` keeps the one colour it sees."""
    check_pattern(pattern)
    check_image(rgb)
    if rgb.shape[-3] % 2 or rgb.shape[-2] % 2:
        raise ValueError(f"rgb must have an even height and width, got shape {rgb.shape}")
    return (rgb * _site_masks(*rgb.shape[-3:-1], pattern).astype(rgb.dtype)).sum(-1)


@functools.partial(jax.jit, static_argnames="pattern")
def half_size(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch rows cols 3"]:
    """One RGB pixel for each 2x2 tile, `(..., H, W)` to `(..., H/2, W/2, 3)`; the two greens are averaged."""
    check_pattern(pattern)
    phases = space_to_depth(raw)
    channels = [[site for site, c in enumerate(PATTERNS[pattern]) if c == channel] for channel in range(3)]
    return jnp.stack([phases[..., jnp.array(sites)].mean(-1) for sites in channels], -1)
