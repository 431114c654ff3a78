"""Repair of defective pixels, which are stuck bright or dark, or not finite."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._kernels import neighbors, tiling
from isp._kernels.checks import Scalar, check_positive


def defects(
    raw: Shaped[Array | np.ndarray, "..."],
    threshold: Scalar = 0.1,
    *,
    pattern: str = "RGGB",
    softness: float | None = None,
    isolated_only: bool = False,
) -> Float[Array, "*batch height width"]:
    """Replaces sites that differ from their neighbors by more than a threshold, whether too bright or too dark.

    A site is compared with the median of its nearest sites of the same color: the four nearest, and all others that are
    as near as the farthest of them. In a Bayer mosaic, a green site has its four diagonal neighbors, and a red or blue
    site the four of its color in its row and column. The median of an even number of values is the mean of the two in
    the middle, so one defect among the neighbors does no harm. At the border, sites of the same color farther inside
    take the place of neighbors beyond it. A raw image smaller than a tile stays unchanged.

    NaN and infinite sites become the median of their finite neighbors before anything is compared, or 0 if more than
    half of the neighbors are such sites.

    Where a site is replaced, the gradient goes to the values that make up the median. Forward-mode derivatives do not
    work.

    Args:
        threshold: The difference, in fractions of white, up to which a site stays unchanged. It can be learned if there
            is a `softness`.
        softness: The difference beyond the threshold, in fractions of white, over which the median gradually replaces
            the site; 0 and less raise a ValueError. If None, the replacement is abrupt, and the gradient for the
            threshold is zero.
        isolated_only: Whether a site must differ by more than the threshold from each of the eight nearest sites of its
            color (more if several are equally near), and not only from the median. This spares lines that are one site
            wide, but also leaves adjacent defects.

    Example:
        >>> raw = np.full((8, 8), 0.25, np.float32)
        >>> raw[2, 2], raw[3, 4] = 1.0, 0.0
        >>> bool((isp.repair.defects(raw) == 0.25).all())
        True
    """
    if softness is not None:
        check_positive("softness", softness)
    return _defects(raw, threshold, pattern, softness, isolated_only)


@jax.jit(static_argnames=("pattern", "softness", "isolated_only"))
def _defects(raw: Array, threshold: Scalar, pattern: str, softness: float | None, isolated_only: bool) -> Array:
    cfa.check_mosaic(raw)
    tile = cfa.tile(pattern)
    if raw.shape[-2] < len(tile) or raw.shape[-1] < len(tile[0]):
        return raw

    def repair(threshold: Scalar, raw: Array) -> Array:
        raw = neighbors.with_finite(raw, tile)
        median = neighbors.median(raw, tile)
        difference = neighbors.excess(raw, tile) if isolated_only else jnp.abs(raw - median)
        return _replaced(raw, median, difference - threshold, softness)

    return tiling.mosaics_by_patches(repair, threshold, raw, neighbors.reach(tile), math.lcm(*tile.shape))


def _replaced(raw: Array, median: Array, excess: Array, softness: float | None) -> Array:
    if softness is None:
        return jnp.where(excess > 0, median, raw)
    rise = jnp.clip(excess / softness, 0, 1)
    # The smooth step has no slope at either end, so the result has no kinks.
    return raw + (median - raw) * rise * rise * (3 - 2 * rise)
