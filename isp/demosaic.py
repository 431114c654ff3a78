"""Demosaicing: from one color per site to three colors per pixel.

`bilinear`, `malvar2004` and `menon2007` are for the Bayer patterns. Their colors repeat in 2x2 tiles, so linear methods
such as `bilinear` and `malvar2004` are one stencil whose weights depend on the position in the tile. `menon2007` first
decides on a direction at each red and blue site, and is linear after that. Reverse-mode derivatives are written out, so
forward mode does not work.

`normalized` and `binned` accept every color filter array that `isp.cfa` describes.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._kernels import menon, padding, stencil, tiling

_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4

# Axes: out, in, row, col. On planes that are zero where a site sees another color, each kernel averages the nearest
# sites of its color, at every site of the 2x2 tile.
BILINEAR_KERNEL = np.zeros((3, 3, 3, 3), np.float32)
BILINEAR_KERNEL[[0, 1, 2], [0, 1, 2]] = _RED_BLUE, _GREEN, _RED_BLUE

# Malvar, He & Cutler (2004), figure 2: green at a red or blue site; red or blue at a green site between two sites of
# that color in its row; red at a blue site and blue at a red one.
# fmt: off
_GREEN_AT_OTHERS = np.array([
    [ 0,  0, -1,  0,  0],
    [ 0,  0,  2,  0,  0],
    [-1,  2,  4,  2, -1],
    [ 0,  0,  2,  0,  0],
    [ 0,  0, -1,  0,  0],
]) / 8
_BESIDE = np.array([
    [ 0,  0,  1,  0,  0],
    [ 0, -2,  0, -2,  0],
    [-2,  8, 10,  8, -2],
    [ 0, -2,  0, -2,  0],
    [ 0,  0,  1,  0,  0],
]) / 16
_OPPOSITE = np.array([
    [ 0,  0, -3,  0,  0],
    [ 0,  4,  0,  4,  0],
    [-3,  0, 12,  0, -3],
    [ 0,  4,  0,  4,  0],
    [ 0,  0, -3,  0,  0],
]) / 16
# fmt: on


@jax.jit
def interpolate(
    planes: Float[Array, "*batch height width 3"], kernel: Float[Array, "3 3 3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Fills the planes of `cfa.spread` with a 3x3 correlation over mirrored borders.

    Args:
        planes: Mosaic values `(..., H, W, 3)`, zero where a site sees another color.
        kernel: Weights with the axes out, in, row, col. `BILINEAR_KERNEL` interpolates each color from its own sites. A
            learned kernel may mix colors.
    """
    channels = tuple(planes[..., channel] for channel in range(3))
    return jnp.stack(stencil.correlate_planes(channels, kernel[..., None, None], "mirror"), -1)


@jax.jit(static_argnames="pattern")
def bilinear(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Demosaics bilinearly: each missing color is the mean of its nearest sites.

    Equals colour-demosaicing's `demosaicing_CFA_Bayer_bilinear`, which repeats the border of the zero-filled planes.
    (`interpolate` mirrors the border instead.) Patterns other than Bayer patterns raise a ValueError.
    """
    cfa.check_mosaic(raw)
    check_bayer(pattern)
    kernels = _bilinear_kernels(pattern).astype(raw.dtype)

    return stencil.correlate_mosaic(raw, kernels, "zero", functools.partial(_repeat_border, pattern=pattern))


@jax.jit(static_argnames=("pattern", "border"))
def malvar2004(
    raw: Shaped[Array, "..."], pattern: str = "RGGB", border: padding.Border = "symmetric"
) -> Float[Array, "*batch height width 3"]:
    """Demosaics by gradient-corrected linear interpolation.

    Adds to the bilinear interpolation a share of the Laplacian of the site's color: H. S. Malvar, L. He and R. Cutler,
    "High-quality linear interpolation for demosaicing of Bayer-patterned color images", ICASSP (2004). Equals
    colour-demosaicing's `demosaicing_CFA_Bayer_Malvar2004`, borders included: the outermost sites are repeated beyond
    the border, and treated as the color that the pattern has there. Patterns other than Bayer patterns raise a
    ValueError.

    Args:
        border: The extension beyond the border: "symmetric" as above; "mirror", which keeps the mosaic's colors in
            place and leaves no colored dots along the border; or "zero".
    """
    cfa.check_mosaic(raw)
    check_bayer(pattern)
    kernels = _malvar_kernels(pattern).astype(raw.dtype)
    return stencil.correlate_mosaic(raw, kernels, border)


@jax.jit(static_argnames=("pattern", "refine"))
def menon2007(
    raw: Shaped[Array, "..."], pattern: str = "RGGB", refine: bool = True
) -> Float[Array, "*batch height width 3"]:
    """Demosaics by directional filtering with a posteriori decision (DDFAPD).

    At each red and blue site, green is interpolated along the row and along the column. The method keeps the direction
    along which the color difference (red or blue minus green) changes less around the site, and the row in case of a
    tie. Red and blue follow from these differences: D. Menon, S. Andriani and G. Calvagno, "Demosaicing with
    directional filtering and a posteriori decision", IEEE Transactions on Image Processing 16(1) (2007).

    Equals colour-demosaicing's `demosaicing_CFA_Bayer_Menon2007`, borders included, except for rounding. Here, its
    chain of masked interpolations is reduced algebraically to a few filters.

    The decisions are piecewise constant, so only the interpolations have a gradient. Patterns other than Bayer patterns
    raise a ValueError.

    Args:
        refine: Whether to smooth the differences along the decided directions at the end (the paper's refining step).

    Example:
        A vertical edge between two grays stays sharp and free of color.

        >>> raw = np.tile(np.float32([0.2, 0.2, 0.2, 0.8, 0.8, 0.8]), (6, 1))
        >>> np.asarray(isp.demosaic.menon2007(raw))[2, 1:5].round(3)
        array([[0.2, 0.2, 0.2],
               [0.2, 0.2, 0.2],
               [0.8, 0.8, 0.8],
               [0.8, 0.8, 0.8]], dtype=float32)
    """
    cfa.check_mosaic(raw)
    check_bayer(pattern)
    tile = cfa.tile(pattern)
    return tiling.mosaics_by_patches(lambda _, raw: menon.demosaic(raw, tile, refine), None, raw, menon.REACH)


def normalized_kernel(pattern: str) -> Float[np.ndarray, "3 size size"]:
    """Makes the weights that `normalized` starts with.

    They fall linearly from the center to the distance of the next site of the same color. In quad Bayer and similar
    arrays, where blocks of sites share a color, that distance grows with the block. If a window at a corner of an image
    could miss a color, as for X-Trans, rings of small weights widen it.

    Returns:
        One square kernel per color, with an odd side and the sum 1.

    Example:
        >>> isp.demosaic.normalized_kernel("RGGB")[0]
        array([[0.0625, 0.125 , 0.0625],
               [0.125 , 0.25  , 0.125 ],
               [0.0625, 0.125 , 0.0625]], dtype=float32)
    """
    tile = cfa.tile(pattern)
    reach = 2 * _block(tile)
    slope = reach - abs(np.arange(1 - reach, reach))
    kernel = np.outer(slope, slope) / np.sum(slope) ** 2
    while not all(len({*corner.ravel().tolist()}) == tile.max() + 1 for corner in _corners(tile, len(kernel) // 2 + 1)):
        kernel = np.pad(kernel, 1, constant_values=_SMALL)
    return np.stack([kernel] * 3).astype(np.float32)


# Less than one 10-bit step, so a ring matters only if the inner window lacks a color.
_SMALL = 2.0**-12


def _block(tile: np.ndarray) -> int:
    """Returns the side of the square blocks of one color that a tile consists of: 2 for quad Bayer, 1 for Bayer."""
    if tile.size == 1:
        return 1
    sides = (side for side in range(min(tile.shape), 1, -1) if not any(length % side for length in tile.shape))
    return next((side for side in sides if all(np.ptp(block) == 0 for block in _blocks(tile, side))), 1)


def _blocks(tile: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Yields the square blocks of a tile; `side` must divide the tile's sides."""
    for row, col in np.ndindex(tile.shape[0] // side, tile.shape[1] // side):
        yield tile[row * side : (row + 1) * side, col * side : (col + 1) * side]


def _corners(tile: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Yields all squares of sites that a window may see at a corner of an image, where the rest of it lies outside."""
    repeats = [side // length + 2 for length in tile.shape]
    wide = np.tile(tile, repeats)
    for row, col in np.ndindex(*tile.shape):
        yield wide[row : row + side, col : col + side]


@jax.jit(static_argnames="pattern")
def normalized(
    raw: Shaped[Array, "..."], weights: Float[Array, "3 size size"] | None = None, *, pattern: str = "RGGB"
) -> Float[Array, "*batch height width 3"]:
    """Demosaics any color filter array by normalized convolution, with weighted means of nearby sites of each color.

    A site keeps the color that it sees. Every other color is sum(w * value) / sum(w) over its sites in a window: H.
    Knutsson and C.-F. Westin, "Normalized and differential convolution", CVPR (1993), with a certainty of 1 at the
    sites of the color and 0 elsewhere. With its default weights, this is the bilinear interpolation of Bayer mosaics,
    and LibRaw's linear interpolation of X-Trans.

    Args:
        weights: One square kernel with an odd side per color, which can be learned. If None, from `normalized_kernel`.
        pattern: The colors of a tile, see `isp.cfa`. Without color filters, all channels equal the mosaic.

    Returns:
        The images `(..., H, W, 3)`. A color that no site of the window sees is 0.

    Example:
        >>> quad = np.tile(np.repeat(np.repeat(np.float32([[0.2, 0.4], [0.4, 0.8]]), 2, 0), 2, 1), (2, 2))
        >>> np.asarray(isp.demosaic.normalized(quad, pattern="RRGG/RRGG/GGBB/GGBB"))[3, 3].round(3)
        array([0.2, 0.4, 0.8], dtype=float32)
    """
    if weights is None:
        weights = jnp.asarray(normalized_kernel(pattern), raw.dtype)
    return fill(cfa.spread(raw, pattern), weights, pattern=pattern)


def fill(
    planes: Float[Array, "*batch height width 3"], weights: Float[Array | np.ndarray, "3 size size"], *, pattern: str
) -> Float[Array, "*batch height width 3"]:
    """Fills the planes of `cfa.spread` as `normalized` does.

    Args:
        planes: Mosaic values `(..., H, W, 3)`, zero where a site sees another color.
        weights: One square kernel with an odd side per color.
    """
    if pattern == cfa.MONO:
        return planes
    height, width = planes.shape[-3:-1]
    masks = cfa.site_masks(pattern, height, width).astype(planes.dtype)
    channels = []
    for channel in range(3):
        plane, mask, kernel = planes[..., channel], masks[..., channel], weights[channel]
        weighted, total = (stencil.correlate(values, kernel, "zero") for values in (plane, mask))
        known = total != 0
        mean = jnp.where(known, weighted / jnp.where(known, total, 1), 0)
        channels.append(jnp.where(mask == 1, plane, mean))
    return jnp.stack(channels, -1)


def bin_side(pattern: str) -> int:
    """Returns the side of the square block of sites that `binned` turns into one pixel.

    Returns:
        2 for Bayer, for quad Bayer and without color filters; 3 for X-Trans.
    """
    tile = cfa.tile(pattern)
    if tile.size == 1:
        return 2
    return _block(tile) if _block(tile) > 1 else _balanced(tile)


def _balanced(tile: np.ndarray) -> int:
    """Returns the side of the smallest square blocks that all have the same number of sites of each color."""
    longest = int(np.lcm(*tile.shape))
    square = np.tile(tile, [longest // length for length in tile.shape])
    for side in range(2, longest):
        if longest % side == 0:
            counts = {tuple(np.bincount(block.ravel(), minlength=3)) for block in _blocks(square, side)}
            if len(counts) == 1 and 0 not in next(iter(counts)):
                return side
    return longest


@jax.jit(static_argnames="pattern")
def binned(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch rows cols 3"]:
    """Demosaics and shrinks the image in one step, by turning each block of sites into one pixel.

    Each channel is the mean of the block's sites of that color, so the image has no color cast. Blocks are the smallest
    that all hold the same number of sites of each color: 2x2 for Bayer, 3x3 for X-Trans. Quad Bayer and similar arrays
    consist of blocks of one color. The means of these blocks are a Bayer mosaic, which `normalized` fills.

    Args:
        pattern: The colors of a tile, see `isp.cfa`. Without color filters, blocks have 2x2 sites.

    Returns:
        Images `(..., H / n, W / n, 3)`, where n is `bin_side(pattern)`. Rows and columns that do not fill a block are
        dropped at the bottom and at the right; a mosaic smaller than a block raises a ValueError.

    Example:
        >>> isp.demosaic.binned(jnp.array([[0.25, 0.5], [1.0, 0.125]]))
        Array([[[0.25 , 0.75 , 0.125]]], dtype=float32)
    """
    cfa.check_mosaic(raw)
    tile, side = cfa.tile(pattern), bin_side(pattern)
    height, width = (length // side * side for length in raw.shape[-2:])
    if not height or not width:
        raise ValueError(f"raw must have at least {side}x{side} sites for the pattern {pattern}, got {raw.shape}")
    raw = raw[..., :height, :width]
    if tile.size == 1 or _block(tile) > 1:
        coarse = _block_means(raw[..., None], side)
        if tile.size == 1:
            return jnp.repeat(coarse, 3, axis=-1)
        colors = "/".join("".join("RGB"[channel] for channel in row) for row in tile[::side, ::side])
        coarse_pattern = cfa.canonical(colors)
        masks = cfa.site_masks(coarse_pattern, height // side, width // side).astype(raw.dtype)
        return fill(coarse * masks, jnp.asarray(normalized_kernel(coarse_pattern), raw.dtype), pattern=coarse_pattern)
    masks = cfa.site_masks(pattern, height, width).astype(raw.dtype)
    return _block_means(raw[..., None] * masks, side) / _block_means(masks, side)


def _block_means(planes: Float[Array, "*batch height width channels"], side: int) -> Array:
    """Averages square blocks of pixels."""
    *batch, height, width, channels = planes.shape
    blocks = planes.reshape(*batch, height // side, side, width // side, side, channels)
    return blocks.mean((-4, -2))


def check_bayer(pattern: str) -> None:
    """Raises a ValueError unless a pattern is one of the four Bayer patterns."""
    if not cfa.is_bayer(pattern):
        raise ValueError(
            f"this demosaicing is for the Bayer patterns {', '.join(cfa.BAYER)}, got {pattern!r}: normalized and "
            "binned are for every pattern"
        )


def _repeat_border(rgb: Array, pattern: str) -> Array:
    """Turns bilinear interpolation with zeros beyond the border into interpolation of planes that repeat their border.

    The row beyond an outermost row equals that row. This adds half to the row's red or blue, because the outer rows of
    the kernel are half the middle one, and a quarter to a green site, which becomes its own neighbor. The same holds
    for columns.
    """
    height, width = rgb.shape[-3:-1]
    # A tall image is represented by its first pair of rows, one pair for all between, and the last pair.
    rows, pairs = min(height, 6), np.arange(height // 2)[:, None, None]
    sites = np.tile(np.eye(3)[cfa.tile(pattern)], (rows // 2, width // 2, 1))
    outermost = [np.pad(np.zeros(side - 2), 1, constant_values=1 / 2) for side in (rows, width)]
    once_more_in_row = outermost[0][:, None, None] * sites.any(1, keepdims=True)
    once_more_in_col = outermost[1][:, None] * sites.any(0, keepdims=True)
    gain = (1 + once_more_in_row) * (1 + once_more_in_col)
    gain[..., 1] = 1 + sites[..., 1] * (once_more_in_row + once_more_in_col)[..., 1] / 2
    gain = gain.reshape(-1, 2, 3 * width).astype(rgb.dtype)
    first, middle, last = gain[0], gain[len(gain) // 2], gain[-1]
    gain = jnp.where(pairs == 0, first, jnp.where(pairs == height // 2 - 1, last, middle))
    return (rgb.reshape(*rgb.shape[:-3], *gain.shape) * gain).reshape(rgb.shape)


def _bilinear_kernels(pattern: str) -> Float[np.ndarray, "3 3 3 2 2"]:
    """Makes kernels with the axes out, row, col, and the site of the tile (row, col)."""
    colors = cfa.tile(pattern)
    kernels = np.zeros((3, 3, 3, 2, 2))
    for i, j, y, x in np.ndindex(3, 3, 2, 2):
        color = colors[(y + i - 1) % 2, (x + j - 1) % 2]
        kernels[color, i, j, y, x] = BILINEAR_KERNEL[color, color, i, j]
    return kernels


def _malvar_kernels(pattern: str) -> Float[np.ndarray, "3 5 5 2 2"]:
    """Makes kernels with the axes out, row, col, and the site of the tile (row, col)."""
    colors = cfa.tile(pattern)
    kernels = np.zeros((3, 5, 5, 2, 2))
    for out, y, x in np.ndindex(3, 2, 2):
        if out == colors[y, x]:
            kernels[out, 2, 2, y, x] = 1
        elif out == 1:
            kernels[out, :, :, y, x] = _GREEN_AT_OTHERS
        elif colors[y, x] != 1:
            kernels[out, :, :, y, x] = _OPPOSITE
        else:
            kernels[out, :, :, y, x] = _BESIDE if out in colors[y] else _BESIDE.T
    return kernels
