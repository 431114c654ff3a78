"""Demosaicing: from one color per site to three colors per pixel.

The colors of a mosaic repeat in 2x2 tiles, so a linear method is one stencil whose weights depend on the site of the
tile. `bilinear` and `malvar2004` are such stencils. `menon2007` first decides on a direction at each red and blue site,
and is linear after that. Reverse-mode derivatives are written out, so forward mode does not work.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import bayer
from isp._engine import menon, stencil

_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4

# Axes: out, in, row, col. On planes that are zero where a site sees another color, each kernel averages the nearest
# sites of its color, at every site of the 2x2 tile.
BILINEAR_KERNEL = np.zeros((3, 3, 3, 3), np.float32)
BILINEAR_KERNEL[[0, 1, 2], [0, 1, 2]] = _RED_BLUE, _GREEN, _RED_BLUE

# Malvar, He & Cutler (2004), figure 2: green at a red or blue site; red or blue at a green site that has it to the left
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
    """Fills the planes of `bayer.spread` by a 3x3 correlation over mirrored borders.

    Args:
        planes: Mosaic values `(..., H, W, 3)`, zero where a site sees another color.
        kernel: Weights with the axes out, in, row, col. `BILINEAR_KERNEL` interpolates each color from its own sites. A
            learned kernel may mix colors.

    Returns:
        The images `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> planes = isp.bayer.spread(jnp.full((4, 6), 0.5))
        >>> rgb = isp.demosaic.interpolate(planes, jnp.array(isp.demosaic.BILINEAR_KERNEL))
        >>> bool((rgb == 0.5).all())
        True
    """
    return stencil.correlate_channels(planes, kernel, "mirror")


@jax.jit(static_argnames="pattern")
def bilinear(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Demosaics bilinearly: each missing color is the mean of its nearest sites.

    The result, borders included, is that of colour-demosaicing's `demosaicing_CFA_Bayer_bilinear`, which repeats the
    border of the zero-filled planes. (`interpolate` mirrors the border instead.)

    Args:
        raw: A mosaic `(..., H, W)`.
        pattern: The colors of a tile in CFA order.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `raw` is not a floating-point mosaic of even height and width, or the pattern is unknown.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> raw = np.tile(np.float32([[0.2, 0.4], [0.4, 0.8]]), (3, 3))
        >>> np.asarray(isp.demosaic.bilinear(raw))[2, 2].round(3)
        array([0.2, 0.4, 0.8], dtype=float32)
    """
    _check(raw, pattern)
    kernels = _bilinear_kernels(pattern).astype(raw.dtype)

    def interpolate_mosaic(raw: Array) -> Array:
        return _repeat_border(stencil.correlate_mosaic(raw, kernels, "zero"), pattern)

    return stencil.by_strips(interpolate_mosaic, raw, 2)


@jax.jit(static_argnames=("pattern", "border"))
def malvar2004(
    raw: Shaped[Array, "..."], pattern: str = "RGGB", border: stencil.Border = "symmetric"
) -> Float[Array, "*batch height width 3"]:
    """Demosaics by gradient-corrected linear interpolation.

    Adds to the bilinear interpolation a share of the Laplacian of the color that the site itself sees: H. S. Malvar,
    L. He and R. Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color images", ICASSP
    (2004). The result, borders included, is that of colour-demosaicing's `demosaicing_CFA_Bayer_Malvar2004`: the
    outermost sites are repeated beyond the border, and taken for the color that the pattern has there.

    Args:
        raw: A mosaic `(..., H, W)`.
        pattern: The colors of a tile in CFA order.
        border: What lies beyond the border: "symmetric" as above; "mirror" for a mosaic that is mirrored so that its
            colors stay in place, which leaves no colored dots along the border; or "zero".

    Returns:
        The images `(..., H, W, 3)`. Edges overshoot, since nothing is clipped.

    Raises:
        ValueError: If `raw` is not a floating-point mosaic of even height and width, or the pattern is unknown.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> raw = np.tile(np.float32([[0.2, 0.4], [0.4, 0.8]]), (3, 3))
        >>> np.asarray(isp.demosaic.malvar2004(raw))[2, 2].round(3)
        array([0.2, 0.4, 0.8], dtype=float32)
    """
    _check(raw, pattern)
    kernels = _malvar_kernels(pattern).astype(raw.dtype)
    return stencil.by_strips(lambda raw: stencil.correlate_mosaic(raw, kernels, border), raw, 2)


@jax.jit(static_argnames=("pattern", "refine"))
def menon2007(
    raw: Shaped[Array, "..."], pattern: str = "RGGB", refine: bool = True
) -> Float[Array, "*batch height width 3"]:
    """Demosaics by directional filtering with a posteriori decision (DDFAPD).

    At each red and blue site, green is interpolated along the row and along the column. The method keeps the direction
    in which the difference of color and green changes less around the site, and the row if both change alike. Red and
    blue follow from these differences: D. Menon, S. Andriani and G. Calvagno, "Demosaicing with directional filtering
    and a posteriori decision", IEEE Transactions on Image Processing 16(1) (2007).

    Decisions, borders and results are those of colour-demosaicing's `demosaicing_CFA_Bayer_Menon2007`, except for
    rounding: its chain of masked interpolations is multiplied out to a few filters (`isp._engine.menon`).

    The gradient is that of the interpolations, because the decisions are piecewise constant.

    Args:
        raw: A mosaic `(..., H, W)`.
        pattern: The colors of a tile in CFA order.
        refine: Whether to smooth the differences along the decided directions at the end, as the paper's refining step
            does.

    Returns:
        The images `(..., H, W, 3)`. Edges may overshoot, since nothing is clipped.

    Raises:
        ValueError: If `raw` is not a floating-point mosaic of even height and width, or the pattern is unknown.

    Example:
        A vertical edge between two grays stays sharp and free of color.

        >>> import isp
        >>> import numpy as np
        >>> raw = np.tile(np.float32([0.2, 0.2, 0.2, 0.8, 0.8, 0.8]), (6, 1))
        >>> np.asarray(isp.demosaic.menon2007(raw))[2, 1:5].round(3)
        array([[0.2, 0.2, 0.2],
               [0.2, 0.2, 0.2],
               [0.8, 0.8, 0.8],
               [0.8, 0.8, 0.8]], dtype=float32)
    """
    _check(raw, pattern)
    return stencil.by_strips(lambda raw: menon.demosaic(raw, pattern, refine), raw, 8)


def _check(raw: Array, pattern: str) -> None:
    bayer.check_mosaic(raw)
    bayer.check_pattern(pattern)


def _repeat_border(rgb: Array, pattern: str) -> Array:
    """Turns bilinear interpolation with zeros beyond the border into that of planes that repeat their border.

    The row beyond an outermost row equals that row. The row's red or blue therefore counts half once more, because the
    outer rows of the kernel are half the middle one, and a green site, which becomes its own neighbor, counts a quarter
    once more. The same holds for columns.
    """
    height, width = rgb.shape[-3:-1]
    # The first pair of rows, one pair that stands for all between, and the last pair.
    lines, pairs = min(height, 6), np.arange(height // 2)[:, None, None]
    sites = np.tile(np.eye(3)[np.reshape(bayer.PATTERNS[pattern], (2, 2))], (lines // 2, width // 2, 1))
    in_row = np.isin(np.arange(lines), (0, lines - 1))[:, None, None] * sites.any(1, keepdims=True)
    in_col = np.isin(np.arange(width), (0, width - 1))[:, None] * sites.any(0, keepdims=True)
    gain = (1 + in_row / 2) * (1 + in_col / 2)
    gain[..., 1] = 1 + sites[..., 1] * (in_row / 4 + in_col / 4)[..., 1]
    gain = gain.reshape(-1, 2, 3 * width).astype(rgb.dtype)
    gain = jnp.where(pairs == 0, gain[0], jnp.where(pairs == height // 2 - 1, gain[-1], gain[len(gain) // 2]))
    return (rgb.reshape(*rgb.shape[:-3], *gain.shape) * gain).reshape(rgb.shape)


def _bilinear_kernels(pattern: str) -> Float[np.ndarray, "3 3 3 2 2"]:
    """Makes kernels with the axes out, row, col, and the site of the tile (row, col).

    A weight of `BILINEAR_KERNEL` stays where it meets a site of its color, and is zero elsewhere.
    """
    colors = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    kernels = np.zeros((3, 3, 3, 2, 2))
    for i, j, y, x in np.ndindex(3, 3, 2, 2):
        color = colors[(y + i - 1) % 2, (x + j - 1) % 2]
        kernels[color, i, j, y, x] = BILINEAR_KERNEL[color, color, i, j]
    return kernels


def _malvar_kernels(pattern: str) -> Float[np.ndarray, "3 5 5 2 2"]:
    """Makes kernels with the axes out, row, col, and the site of the tile (row, col)."""
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
