"""Metering: auto exposure and auto white balance from the color levels of each raw image.

With a fixed exposure and fixed gains, every change of the light reaches the model. A camera meters instead: it scales
each image until its level and colors are as expected, so that less light, another lamp or other sensor gains change
little. Metering does not undo noise, and it discards differences in overall brightness or color.

The functions scale raw images about the camera's black level, so any pipeline can follow.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._kernels.checks import Scalar
from isp.parameter import LARGEST_FACTOR

# The minimum side of a zone, in pixels.
_ZONE = 8

# The level from which a site counts as nearly saturated, as a fraction of white.
_NEARLY_WHITE = 0.9


@jax.jit(static_argnames=("black_level", "pattern"))
def levels(
    raw: Shaped[Array | np.ndarray, "..."],
    power: Scalar = 1.0,
    *,
    black_level: tuple[float, ...],
    pattern: str = "RGGB",
) -> Float[Array, "*batch colors"]:
    """Computes the Minkowski mean of each color over the zones of a raw image.

    The mean of each color estimates the color of the light: G. D. Finlayson and E. Trezzi, "Shades of gray and colour
    constancy", Color Imaging Conference (2004), who recommend a power of 6. A power of 1 is the gray-world assumption,
    and a large power treats the brightest value of each color as white. Zones are blocks of 8x8 sites, or of 12x12 for
    X-Trans arrays, and are reduced to arithmetic means first, which averages noise before a large power favors its
    peaks. An incomplete zone at the right or lower border is left out, and a smaller image is one zone.

    Saturated sites are included. They lower the level of an overexposed image, but leaving them out would lower it
    more, since the brightest values would be missing.

    Args:
        power: The power of the mean, positive.
        black_level: The level of black, as in `isp.Camera`. Zones below it count as 0.

    Returns:
        The levels of red, green and blue above black `(..., 3)`, or one level `(..., 1)` without color filters.
    """
    above_black = _above(jnp.asarray(raw), black_level, pattern)
    *batch, height, width = above_black.shape
    tile = cfa.tile(pattern)
    rows, cols = (
        side * min(-(-_ZONE // side), size // side) for size, side in zip((height, width), tile.shape, strict=True)
    )
    if not rows * cols:
        raise ValueError(f"raw must have at least one tile of {tile.shape[0]}x{tile.shape[1]} sites, got {raw.shape}")
    down, across = height // rows, width // cols
    zones = above_black.reshape(-1, height, width)[:, : down * rows, : across * cols]
    # Whole rows of the same place in the tile are added first, since that vectorizes.
    by_row = zones.reshape(-1, down, rows // tile.shape[0], tile.shape[0], across * cols).sum(2)
    by_site = by_row.reshape(-1, down, tile.shape[0], across, cols // tile.shape[1], tile.shape[1]).sum(4)
    at_sites = by_site.swapaxes(2, 3).reshape(-1, down * across, tile.size) / (rows * cols / tile.size)
    seen = np.eye(tile.max() + 1, dtype=above_black.dtype)[tile.ravel()]
    means = jnp.matmul(at_sites, seen / seen.sum(0), precision="highest")
    return _minkowski(means, power, axis=1).reshape(*batch, seen.shape[1])


@jax.jit(static_argnames=("black_level", "pattern", "keeps_white"))
def auto_exposure(
    raw: Shaped[Array | np.ndarray, "..."],
    target: Scalar,
    power: Scalar = 6.0,
    share: Scalar = 1.0,
    *,
    black_level: tuple[float, ...],
    pattern: str = "RGGB",
    keeps_white: bool = False,
) -> Float[Array, "*batch height width"]:
    """Multiplies each raw image by the gain that brings its level to a target.

    The level is the Minkowski mean over all colors. The gain is between 1/100 and 100, the range of light measured by
    Oala et al. (TMLR 2023), so noise is not amplified into a picture. A black image stays unchanged.

    Args:
        target: The level to reach above black, as a fraction of white.
        power: The power of the mean, see `levels`.
        share: The share of the gain in stops: 0 leaves images unchanged, 1 reaches the target.
        keeps_white: Whether a site stays unchanged if it and its neighbors of all colors are saturated. Otherwise, a
            gain below 1 hides from later stages that they are saturated.

    Example:
        >>> isp.metering.auto_exposure(jnp.full((2, 4), 0.34), 0.18, black_level=(0.25, 0.25, 0.25, 0.25)).round(6)
        Array([[0.43, 0.43, 0.43, 0.43],
               [0.43, 0.43, 0.43, 0.43]], dtype=float32)
    """
    known = {"black_level": black_level, "pattern": pattern}
    level = _minkowski(levels(raw, power, **known), power, axis=-1)
    gain = _bounded(jnp.where(level > 0, target / jnp.where(level > 0, level, 1), 1)) ** share
    return _scaled(jnp.asarray(raw), jnp.broadcast_to(gain[..., None], (*gain.shape, 3)), keeps_white, **known)


@jax.jit(static_argnames=("black_level", "pattern", "keeps_white"))
def auto_white_balance(
    raw: Shaped[Array | np.ndarray, "..."],
    neutral: Float[Array | np.ndarray, "3"],
    power: Scalar = 6.0,
    share: Scalar = 1.0,
    *,
    black_level: tuple[float, ...],
    pattern: str = "RGGB",
    keeps_white: bool = False,
) -> Float[Array, "*batch height width"]:
    """Multiplies the red and blue sites of each raw image by gains that bring its colors to a neutral color.

    Green stays unchanged. The gains are between 1/100 and 100. A color without light keeps a gain of 1, as do all
    colors if green has no light.

    Args:
        neutral: The levels of red, green and blue that count as neutral, up to a factor, such as the reciprocals of the
            camera's gains.
        power: The power of the mean, see `levels`.
        share: The share of the gains in stops: 0 leaves images unchanged, 1 reaches the neutral color.
        keeps_white: As for `auto_exposure`.

    Example:
        >>> raw = jnp.array([[0.2, 0.4], [0.4, 0.8]])
        >>> isp.metering.auto_white_balance(raw, jnp.array([0.5, 1.0, 0.5]), black_level=(0.0, 0.0, 0.0, 0.0)).round(6)
        Array([[0.2, 0.4],
               [0.4, 0.2]], dtype=float32)
    """
    if pattern == cfa.MONO:
        raise ValueError("a sensor without color filters has no colors to balance")
    known = {"black_level": black_level, "pattern": pattern}
    level = levels(raw, power, **known)
    lit = (level > 0) & (level[..., 1:2] > 0)
    relative = jnp.asarray(neutral, level.dtype) / jnp.where(lit, level, 1)
    gains = jnp.where(lit, _bounded(relative / relative[..., 1:2]), 1) ** share
    return _scaled(jnp.asarray(raw), gains, keeps_white, **known)


def _above(raw: Array, black_level: tuple[float, ...], pattern: str) -> Array:
    return cfa.subtract_black_level(raw, jnp.array(black_level, raw.dtype), pattern=pattern)


def _minkowski(values: Array, power: Scalar, axis: int) -> Array:
    # Dividing by the largest value keeps large powers from underflowing, and does not change the mean.
    top = jax.lax.stop_gradient(values.max(axis, keepdims=True))
    tiny = jnp.finfo(values.dtype).tiny
    lit = top > tiny
    scale = jnp.where(lit, top, 1)
    positive = values / scale > tiny
    # Dark values are replaced before the power as well: its infinite derivative times 0 would be NaN.
    powers = jnp.where(positive, jnp.where(positive, values / scale, 1) ** power, 0)
    mean = jnp.where(lit, powers.mean(axis, keepdims=True), 1)
    return jnp.where(lit, scale * mean ** (1 / power), 0).squeeze(axis)


def _bounded(gain: Array) -> Array:
    return jnp.clip(gain, 1 / LARGEST_FACTOR, LARGEST_FACTOR)


def _scaled(
    raw: Array, gains: Float[Array, "*batch 3"], keeps_white: bool, black_level: tuple[float, ...], pattern: str
) -> Array:
    """Multiplies the distance of each site from black by the gain of its color."""
    *batch, height, width = raw.shape
    tile = cfa.tile(pattern)
    rows = height if height % len(tile) else len(tile)
    repeats = -(-rows // tile.shape[0]), -(-width // tile.shape[1])
    by_row = gains[..., np.tile(tile, repeats)[:rows, :width]][..., None, :, :]
    above_black = _above(raw, black_level, pattern)
    # Not black + gain * above black: a gain of 1 leaves a value exactly unchanged.
    more = above_black.reshape(*batch, height // rows, rows, width) * (by_row - 1)
    more = more.reshape(raw.shape)
    return raw + (more * (1 - _whiteness(raw, pattern)) if keeps_white else more)


def _whiteness(raw: Array, pattern: str) -> Array:
    """Computes how saturated all sites around each site are, in [0, 1]; a rim of gradual values avoids hard edges."""
    # The fewest neighbors that include all colors in every known array. One saturated color alone is not white.
    reach = 1 if cfa.is_bayer(pattern) else 2
    least = raw
    for axis in (raw.ndim - 2, raw.ndim - 1):
        padded = jnp.pad(least, [(reach, reach) if each == axis else (0, 0) for each in range(raw.ndim)], mode="edge")
        shifted = [jax.lax.slice_in_dim(padded, i, i + raw.shape[axis], axis=axis) for i in range(2 * reach + 1)]
        least = functools.reduce(jnp.minimum, shifted)
    rise = jnp.clip((least - _NEARLY_WHITE) / (1 - _NEARLY_WHITE), 0, 1)
    return rise * rise * (3 - 2 * rise)
