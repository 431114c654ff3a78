"""Metering: auto exposure and auto white balance from the color levels of each raw image.

With a fixed exposure and fixed gains, every change of the light reaches the model. A camera meters instead: it scales
each image until its level and colors are as expected, so that less light, another lamp or other sensor gains change
little. Metering does not undo noise, and it discards differences in overall brightness or color.

The functions scale raw images about the camera's black level, so any pipeline can follow. Tiles of a frame are metered
together if a pipeline gets them as a `Part` of it.
"""

import dataclasses
import functools
from typing import Any

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

# The zones in each row and column of a frame's summary.
_ZONES = 8

# The default power of metering, whose levels a summary keeps.
_SUMMARY_POWER = 6.0


@functools.partial(jax.tree_util.register_dataclass, data_fields=("raw", "frame"), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Part:
    """Parts of frames, such as tiles, which a pipeline meters as it meters their frames.

    A pipeline takes it in place of raw images. It is a pytree; as a NumPy array, it is its raw images.

    Attributes:
        raw: The parts `(..., H, W)`.
        frame: The raw image that is metered for each part `(..., rows, cols)`: its frame, or the frame's `summary`.
    """

    raw: Any
    frame: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parts."""
        return self.raw.shape

    @property
    def nbytes(self) -> int:
        """The memory of both arrays."""
        return self.raw.nbytes + self.frame.nbytes

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: Any) -> "Part":
        return Part(self.raw[index], self.frame[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.raw, dtype)


@jax.jit(static_argnames=("black_level", "pattern"))
def summary(
    raw: Shaped[Array | np.ndarray, "..."], *, black_level: tuple[float, ...], pattern: str = "RGGB"
) -> Float[Array, "*batch rows cols"]:
    """Makes a small raw image with nearly the same levels, see `levels`: 64 uniform zones.

    For each color, the means of the zones are sorted, and each zone of the summary has the Minkowski mean of a 64th of
    them, with the power 6. Changes of the light or the sensor act on a summary as on its frame.

    Returns:
        The summaries `(..., 64, 64)`, or `(..., 96, 96)` for X-Trans arrays.
    """
    above_black = jnp.sort(jnp.maximum(_zone_means(_above(jnp.asarray(raw), black_level, pattern), pattern), 0), -2)
    *batch, count, colors = above_black.shape
    powers = above_black**_SUMMARY_POWER
    sums = jnp.concatenate([jnp.zeros((*batch, 1, colors), raw.dtype), jnp.cumsum(powers, axis=-2)], -2)
    ends = jnp.linspace(0, count, _ZONES**2 + 1)
    whole = jnp.clip(ends.astype(int), 0, count - 1)
    at_ends = sums[..., whole, :] + (ends - whole)[:, None].astype(raw.dtype) * powers[..., whole, :]
    shares = jnp.diff(at_ends, axis=-2) * (_ZONES**2 / count)
    lit = shares > 0
    # The root's infinite derivative at 0 would make gradients NaN.
    means = jnp.where(lit, jnp.where(lit, shares, 1) ** (1 / _SUMMARY_POWER), 0)
    tile = cfa.tile(pattern)
    height, width = (_ZONES * _zone(side) for side in tile.shape)
    row, col = np.ogrid[:height, :width]
    zone = row * _ZONES // height * _ZONES + col * _ZONES // width
    site_levels = means[..., zone, tile[row % len(tile), col % len(tile[0])]]
    return site_levels + cfa.black_levels(jnp.array(black_level, raw.dtype), pattern, height, width)


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
    means = _zone_means(_above(jnp.asarray(raw), black_level, pattern), pattern)
    return _minkowski(means, power, axis=means.ndim - 2)


def _zone(side: int) -> int:
    """Returns the side of a zone for a side of the tile of the color filter array."""
    return -(-_ZONE // side) * side


def _zone_means(raw: Array, pattern: str) -> Float[Array, "*batch zones colors"]:
    """Computes the mean of each color in each zone."""
    *batch, height, width = raw.shape
    tile = cfa.tile(pattern)
    rows, cols = (min(_zone(side), size // side * side) for size, side in zip((height, width), tile.shape, strict=True))
    if not rows * cols:
        raise ValueError(f"raw must have at least one tile of {tile.shape[0]}x{tile.shape[1]} sites, got {raw.shape}")
    down, across = height // rows, width // cols
    zones = raw.reshape(-1, height, width)[:, : down * rows, : across * cols]
    # Whole rows of the same place in the tile are added first, since that vectorizes.
    by_row = zones.reshape(-1, down, rows // tile.shape[0], tile.shape[0], across * cols).sum(2)
    by_site = by_row.reshape(-1, down, tile.shape[0], across, cols // tile.shape[1], tile.shape[1]).sum(4)
    at_sites = by_site.swapaxes(2, 3).reshape(-1, down * across, tile.size) / (rows * cols / tile.size)
    seen = np.eye(tile.max() + 1, dtype=raw.dtype)[tile.ravel()]
    means = jnp.matmul(at_sites, seen / seen.sum(0), precision="highest")
    return means.reshape(*batch, *means.shape[1:])


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
    frame: Shaped[Array | np.ndarray, "..."] | None = None,
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
        frame: The raw images to meter, see `Part`. If None, `raw`.

    Example:
        >>> isp.metering.auto_exposure(jnp.full((2, 4), 0.34), 0.18, black_level=(0.25, 0.25, 0.25, 0.25)).round(6)
        Array([[0.43, 0.43, 0.43, 0.43],
               [0.43, 0.43, 0.43, 0.43]], dtype=float32)
    """
    known = {"black_level": black_level, "pattern": pattern}
    level = _minkowski(levels(raw if frame is None else frame, power, **known), power, axis=-1)
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
    frame: Shaped[Array | np.ndarray, "..."] | None = None,
) -> Float[Array, "*batch height width"]:
    """Multiplies the red and blue sites of each raw image by gains that bring its colors to a neutral color.

    Green stays unchanged. The gains are between 1/100 and 100. A color without light keeps a gain of 1, as do all
    colors if green has no light. A sensor without color filters raises a ValueError.

    Args:
        neutral: The levels of red, green and blue that count as neutral, up to a factor, such as the reciprocals of the
            camera's gains.
        power: The power of the mean, see `levels`.
        share: The share of the gains in stops: 0 leaves images unchanged, 1 reaches the neutral color.
        keeps_white: As for `auto_exposure`.
        frame: As for `auto_exposure`.

    Example:
        >>> raw = jnp.array([[0.2, 0.4], [0.4, 0.8]])
        >>> isp.metering.auto_white_balance(raw, jnp.array([0.5, 1.0, 0.5]), black_level=(0.0, 0.0, 0.0, 0.0)).round(6)
        Array([[0.2, 0.4],
               [0.4, 0.2]], dtype=float32)
    """
    if pattern == cfa.MONO:
        raise ValueError("a sensor without color filters has no colors to balance")
    known = {"black_level": black_level, "pattern": pattern}
    level = levels(raw if frame is None else frame, power, **known)
    lit = (level > 0) & (level[..., 1:2] > 0)
    relative = jnp.asarray(neutral, level.dtype) / jnp.where(lit, level, 1)
    gains = jnp.where(lit, _bounded(relative / relative[..., 1:2]), 1) ** share
    return _scaled(jnp.asarray(raw), gains, keeps_white, **known)


# The functions of metering stages, by the arguments of `isp.metered`.
METERING = {"exposure": auto_exposure, "white_balance": auto_white_balance}


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
