"""Demosaicing: one colour a site to three colours a pixel.

The sites of a mosaic repeat in 2x2 tiles, so a linear method is one stencil whose weights depend on the site of the
tile: `bilinear` and `malvar2004` are such weights. `menon2007` decides a direction at each red and blue site, and is
linear after that. Reverse-mode derivatives are written out, so forward mode does not work.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import bayer
from isp._engine import menon, stencil

_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4

# As out, in, row, col. Over planes that are zero where a site sees another colour, each kernel averages the nearest
# sites of its colour, whichever of the 2x2 tile's sites it stands on.
BILINEAR_KERNEL = np.zeros((3, 3, 3, 3), np.float32)
BILINEAR_KERNEL[[0, 1, 2], [0, 1, 2]] = _RED_BLUE, _GREEN, _RED_BLUE

# Malvar, He & Cutler (2004), figure 2: green at a red or blue site; a colour at a green site that has it to the left
# and right; red at a blue site and blue at a red one.
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
    """Fills the planes that `bayer.spread` made, by a 3x3 correlation over mirrored borders.

    Args:
        planes: mosaic values, zero where a site sees another colour.
        kernel: weights as out, in, row, col; `BILINEAR_KERNEL` interpolates each colour from its own sites, a learnt
            one may mix colours.
    """
    return stencil.correlate_channels(planes, kernel, "mirror")


@functools.partial(jax.jit, static_argnames="pattern")
def bilinear(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Bilinear demosaicing of a mosaic `(..., H, W)`; each missing colour is the mean of its nearest sites.

    The outermost pixels follow colour-demosaicing's `demosaicing_CFA_Bayer_bilinear`, which repeats the border of the
    zero-filled planes; `interpolate` mirrors it instead. Not clipped.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    _check(raw, pattern)
    kernels = _bilinear_kernels(pattern).astype(raw.dtype)

    def interpolate_mosaic(raw):
        return _repeat_border(stencil.correlate_mosaic(raw, kernels, "zero"), pattern)

    return stencil.by_strips(interpolate_mosaic, raw, 2)


@functools.partial(jax.jit, static_argnames="pattern")
def malvar2004(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Gradient-corrected linear demosaicing of a mosaic `(..., H, W)`: Malvar, He & Cutler (ICASSP 2004).

    Bilinear interpolation, corrected by the Laplacian of the colour that the site itself sees. The border is that of
    colour-demosaicing's `demosaicing_CFA_Bayer_Malvar2004`: beyond it the outermost sites are repeated, and taken for
    the colour that the pattern has there. Not clipped; edges overshoot.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    _check(raw, pattern)
    kernels = _malvar_kernels(pattern).astype(raw.dtype)
    return stencil.by_strips(lambda raw: stencil.correlate_mosaic(raw, kernels, "symmetric"), raw, 2)


@functools.partial(jax.jit, static_argnames=("pattern", "refine"))
def menon2007(
    raw: Shaped[Array, "..."], pattern: str = "RGGB", refine: bool = True
) -> Float[Array, "*batch height width 3"]:
    """Directional demosaicing of a mosaic `(..., H, W)`: Menon, Andriani & Calvagno (IEEE TIP 16(1), 2007), "DDFAPD".

    Green is interpolated along the row and along the column of each red and blue site; the direction is kept in which
    the difference of colour and green changes less around the site, the row if they tie. Red and blue follow from these
    differences. Decisions, borders and results are those of colour-demosaicing's `demosaicing_CFA_Bayer_Menon2007`,
    but for rounding; its chain of masked interpolations is multiplied out to a few filters, see `isp.menon`. Not
    clipped.

    The gradient is that of the interpolations: the decisions are piecewise constant.

    Args:
        raw: the mosaic.
        pattern: the colours of the 2x2 tile.
        refine: whether to smooth the differences along the directions in the end, the paper's refining step.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    _check(raw, pattern)
    return stencil.by_strips(lambda raw: menon.demosaic(raw, pattern, refine), raw, 8)


def _check(raw, pattern):
    bayer.check_mosaic(raw)
    bayer.check_pattern(pattern)


def _repeat_border(rgb, pattern):
    """Turns bilinear interpolation with zeros beyond the border into that of planes that repeat their border.

    In an outermost row, the one beyond is the row itself: its red or blue counts half once more, as the outer rows of
    their kernel are half the middle one, and a green site, its own neighbour now, a quarter. So in columns.
    """
    height, width = rgb.shape[-3:-1]
    # The first pair of rows, one that stands for all in the middle, the last.
    lines, pairs = min(height, 6), np.arange(height // 2)[:, None, None]
    sites = np.tile(np.eye(3)[np.reshape(bayer.PATTERNS[pattern], (2, 2))], (lines // 2, width // 2, 1))
    in_row = np.isin(np.arange(lines), (0, lines - 1))[:, None, None] * sites.any(1, keepdims=True)
    in_col = np.isin(np.arange(width), (0, width - 1))[:, None] * sites.any(0, keepdims=True)
    gain = (1 + in_row / 2) * (1 + in_col / 2)
    gain[..., 1] = 1 + sites[..., 1] * (in_row / 4 + in_col / 4)[..., 1]
    gain = gain.reshape(-1, 2, 3 * width).astype(rgb.dtype)
    gain = jnp.where(pairs == 0, gain[0], jnp.where(pairs == height // 2 - 1, gain[-1], gain[len(gain) // 2]))
    return (rgb.reshape(*rgb.shape[:-3], *gain.shape) * gain).reshape(rgb.shape)


def _bilinear_kernels(pattern):
    """As out, row, col, and the site of the tile: `BILINEAR_KERNEL` where it meets a site of its colour."""
    colors = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    kernels = np.zeros((3, 3, 3, 2, 2))
    for i, j, y, x in np.ndindex(3, 3, 2, 2):
        color = colors[(y + i - 1) % 2, (x + j - 1) % 2]
        kernels[color, i, j, y, x] = BILINEAR_KERNEL[color, color, i, j]
    return kernels


def _malvar_kernels(pattern):
    """As out, row, col, and the site of the tile."""
    colors = np.reshape(bayer.PATTERNS[pattern], (2, 2))
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
