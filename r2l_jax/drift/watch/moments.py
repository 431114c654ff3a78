"""What mosaics of one camera show without labels and without pairs: levels, noise, spectrum, and defects.

All quantities are taken for each mosaic, so that their spread over mosaics tells how far samples may differ by chance.
Noise is measured from second differences along rows, which neither a level of a row nor a slope of the scene changes
(compare A. Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE
Transactions on Image Processing 17(10), 2008).
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.fft import dct
from jaxtyping import Array, Float

import isp

# The sides of the blocks whose means are levels: at least this many sites, a multiple of the tile.
_BLOCK = 8
# Rings of the spectrum of one color, from 0 to its highest frequency along an axis.
RINGS = 16
# The side of the patches in which noise is measured, in sites of one place in the tile.
_PATCH = 8
# Sites this close to the highest value count as piled up there.
PILE = 2e-3
# Noise is measured in the patches without such sites if they are at least this share of all, in this many mosaics.
_USED, _MOSAICS = 0.001, 8
# Otherwise, it is measured in all patches, and this is added to `NoiseCurve.structure`.
_UNCLEAR = 1.0
# The shares of patches between whose levels the bins lie, and the share of the flattest ones in each.
_EDGES = (0.0, 0.08, 0.25, 0.5, 0.75, 1.0)
_FLAT = 0.3
# The least share of the variance that counts as noise.
_LEAST = 0.05


class Moments(NamedTuple):
    """Holds the quantities of N mosaics.

    Attributes:
        blocks: mean values of the sites of each color in blocks `(N, colors, rows, columns)`.
        power: mean power of the green sites in rings of spatial frequency `(N, RINGS)`; white noise has its variance.
        rows: variance of the levels of rows beside their neighbors, without that of independent noise `(N,)`.
        columns: the same of columns.
    """

    blocks: Float[Array, "n colors rows columns"]
    power: Float[Array, "n rings"]
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]


class NoiseCurve(NamedTuple):
    """Holds noise against level, over all mosaics.

    Attributes:
        level: the mean value of each bin `(bins,)`.
        variance: the variance of the noise in each bin, without what is common to neighboring rows `(bins,)`.
        structure: the variance common to neighboring rows, which noise does not have, divided by the variance of the
            noise; not negative `(bins,)`.
        influence: by how much each mosaic moves the logarithm of each variance `(N, bins)`; their mean is 0.
    """

    level: Float[np.ndarray, " bins"]
    variance: Float[np.ndarray, " bins"]
    structure: Float[np.ndarray, " bins"]
    influence: Float[np.ndarray, "n bins"]


def block_side(pattern: str) -> tuple[int, int]:
    """Returns the height and the width of the blocks for a color filter array, which hold whole tiles."""
    rows, columns = isp.cfa.tile(pattern).shape
    return rows * math.ceil(_BLOCK / rows), columns * math.ceil(_BLOCK / columns)


@functools.partial(jax.jit, static_argnames="pattern")
def block_means(mosaics: Float[Array, "n height width"], pattern: str) -> Float[Array, "n colors rows columns"]:
    """Computes the mean of the sites of each color in each block; incomplete blocks at the end are left out."""
    tile, (down, across) = isp.cfa.tile(pattern), block_side(pattern)
    rows, columns = mosaics.shape[1] // down, mosaics.shape[2] // across
    blocks = mosaics[:, : rows * down, : columns * across].reshape(-1, rows, down, columns, across)
    colors = np.tile(tile, (down // tile.shape[0], across // tile.shape[1]))
    masks = np.stack([(colors == color) / (colors == color).sum() for color in range(tile.max() + 1)])
    return jnp.einsum("nidjk,cdk->ncij", blocks, jnp.asarray(masks, mosaics.dtype), precision="highest")


@functools.partial(jax.jit, static_argnames="pattern")
def measured(mosaics: Float[Array, "n height width"], pattern: str) -> Moments:
    """Measures mosaics, see `Moments`."""
    rows, columns = (
        _level_variance(jnp.moveaxis(mosaics, axis, 1), step)
        for axis, step in zip((1, 2), isp.cfa.tile(pattern).shape, strict=True)
    )
    return Moments(block_means(mosaics, pattern), _power(mosaics, pattern), rows, columns)


def _level_variance(mosaics: Float[Array, "n lines sites"], step: int) -> Float[Array, " n"]:
    """Computes the variance of independent levels of lines, from second differences between lines of the same colors.

    The median over a line leaves out the few sites with structure. Noise of sites is independent in the two halves of
    a line, so the product of their medians has none.
    """
    second = mosaics[:, : -2 * step] - 2 * mosaics[:, step:-step] + mosaics[:, 2 * step :]
    half = second.shape[2] // 2
    products = jnp.median(second[..., :half], -1) * jnp.median(second[..., half:], -1)
    return products.mean(-1) / 6


def rings(height: int, width: int) -> np.ndarray:
    """Numbers the ring of each frequency of a plane; RINGS for those left out: constant along an axis, or beyond."""
    down, across = np.arange(height)[:, None] / height, np.arange(width) / width
    ring = np.minimum((np.hypot(down, across) * RINGS).astype(int), RINGS)
    ring[(down * across) == 0] = RINGS
    return ring


def _power(mosaics: Float[Array, "n height width"], pattern: str) -> Float[Array, "n rings"]:
    tile = isp.cfa.tile(pattern)
    row, column = np.argwhere(tile == min(1, tile.max()))[0]
    plane = mosaics[:, row :: tile.shape[0], column :: tile.shape[1]]
    spectrum = dct(dct(plane, axis=1, norm="ortho"), axis=2, norm="ortho") ** 2
    ring = rings(*plane.shape[1:]).ravel()
    share = np.eye(RINGS + 1, dtype=np.float32)[ring][:, :RINGS]
    share = share / np.maximum(share.sum(0), 1)
    return jnp.matmul(spectrum.reshape(len(plane), -1), jnp.asarray(share), precision="highest")


def noise_curve(mosaics: Float[np.ndarray, "n height width"], pattern: str) -> NoiseCurve:
    """Measures noise against level in the flattest patches of each level.

    A patch holds sites of the same place in the tile. It is chosen by its even rows and measured in its odd rows, and
    the other way round: their noise is independent, so that choosing quiet patches does not lower the noise, whereas
    structure of the scene reaches over several rows. The structure that is left is common to even and odd rows, and is
    subtracted.
    """
    levels, highest, squares, common = map(np.asarray, _patches(jnp.asarray(mosaics), pattern))
    count = len(levels)
    level, top, common = (np.repeat(values.reshape(count, -1), 2, 1) for values in (levels, highest, common))
    chosen_by, own = squares.reshape(count, -1), squares[..., ::-1].reshape(count, -1) - common
    # Where sites saturate, their noise is cut off. Near saturation, a patch may have no such site only because it
    # happens to be quiet.
    is_used = (top < mosaics.max() - PILE) & (level + 3 * np.sqrt(chosen_by) < mosaics.max())
    is_clear = is_used.mean() >= _USED and is_used.any(1).sum() >= min(_MOSAICS, count)
    if not is_clear:
        is_used[:] = True
    # These are levels of patches, so that there is a patch between any two.
    edges = np.quantile(level[is_used], _EDGES, method="inverted_cdf")
    means, variances, structures, influences = [], [], [], []
    for low, high in itertools.pairwise(edges):
        inside = is_used & (level >= low) & (level <= high)
        flat = inside & (chosen_by <= np.quantile(chosen_by[inside], _FLAT))
        number, shared = flat.sum(1), np.where(flat, common, 0).sum(1, dtype=np.float64)
        total = np.where(flat, own, 0).sum(1, dtype=np.float64)
        # Where nearly all is common, little can be told about the rest.
        if total.sum() < _LEAST * (total + shared).sum():
            total = _LEAST * (total + shared)
        variance = total.sum() / number.sum() + 1e-12
        means.append(level[flat].mean())
        variances.append(variance)
        structures.append(max(shared.sum() / number.sum() / variance, 0) + _UNCLEAR * (not is_clear))
        influences.append((total / variance - number) / number.mean())
    influence = np.stack(influences, -1)
    return NoiseCurve(np.array(means), np.array(variances), np.array(structures), influence - influence.mean(0))


@functools.partial(jax.jit, static_argnames="pattern")
def _patches(mosaics: Array, pattern: str) -> tuple[Array, Array, Array, Array]:
    """Computes mean and maximum of patches, and the variance of noise in their even and odd rows and common to both."""
    planes = jnp.stack(
        [
            mosaics[:, row :: tile.shape[0], column :: tile.shape[1]]
            for tile in [isp.cfa.tile(pattern)]
            for row, column in np.ndindex(tile.shape)
        ],
        1,
    )
    down, across = (min(_PATCH, side // 2 * 2) for side in planes.shape[-2:])
    rows, columns = planes.shape[-2] // down, planes.shape[-1] // across
    parts = planes[..., : rows * down, : columns * across].reshape(
        *planes.shape[:2], rows, down // 2, 2, columns, across
    )
    second = parts[..., :-2] - 2 * parts[..., 1:-1] + parts[..., 2:]
    squares = jnp.moveaxis((second**2).mean((3, 6)), 3, -1)
    return parts.mean((3, 4, 6)), parts.max((3, 4, 6)), squares / 6, second.prod(4).mean((3, 5)) / 6
