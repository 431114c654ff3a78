"""Stage functions that combine several public functions, and faster functions for several stages at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isp import cfa, color, demosaic
from isp._kernels import planes, powers, stencil
from isp._kernels.checks import check_image
from isp._kernels.xla import is_plain, with_gradient


def spread_above_black(raw: Array, black_level: Array, pattern: str) -> Array:
    """Subtracts the black level and spreads the mosaic over three planes."""
    return cfa.spread(cfa.subtract_black_level(raw, black_level, pattern=pattern), pattern)


def bin_above_black(raw: Array, black_level: Array, pattern: str) -> Array:
    """Subtracts the black level and demosaics to a fraction of the size."""
    return demosaic.binned(cfa.subtract_black_level(raw, black_level, pattern=pattern), pattern)


def interpolate_and_correct(planes: Array, debayer: Array, gains: Array, matrix: Array) -> Array:
    """Interpolates the planes of a Bayer mosaic and corrects their colors."""
    return balance_and_correct(demosaic.interpolate(planes, debayer), gains, matrix)


def fill_and_correct(planes: Array, debayer: Array, gains: Array, matrix: Array, pattern: str) -> Array:
    """Interpolates the planes of any mosaic and corrects their colors."""
    return balance_and_correct(demosaic.fill(planes, debayer, pattern=pattern), gains, matrix)


def balance_and_correct(rgb: Array, gains: Array, matrix: Array) -> Array:
    """Applies gains and a color matrix."""
    return color.color_correct(color.white_balance(rgb, gains), matrix)


def balance(rgb: Array, gains: Array, mode: color.Mode | None) -> Array:
    """Applies gains and, with a mode, makes saturated pixels neutral."""
    balanced = color.white_balance(rgb, gains)
    return balanced if mode is None else color.highlights(balanced, gains, mode)


def clip(image: Array, low: float, high: float = 1.0) -> Array:
    return jnp.clip(image, low, high)


def unchanged(image: Array) -> Array:
    return image


def add(rgb: Array, layer: Array) -> Array:
    """Adds one image `(H, W, 3)` to all images."""
    if rgb.shape[-3:] != layer.shape:
        raise ValueError(
            f"raw must have the additive layer's height and width {layer.shape[:2]}, got {rgb.shape[-3:-1]}"
        )
    return rgb + layer


def mosaic_to_rgb(raw: Array, black_level: Array, debayer: Array, gains: Array, matrix: Array, pattern: str) -> Array:
    """Computes `spread_above_black` and `interpolate_and_correct` as one stencil, without multiplying by zeros."""
    weights = jnp.tensordot(matrix * gains, debayer, 1, precision="highest")
    tile = cfa.tile(pattern)
    rows, cols = debayer.shape[2:]
    i, j, *_ = np.ogrid[:rows, :cols, :2, :2]
    kernels = weights[:, tile[_site(rows, cols)], i, j]
    if is_plain():
        return _filtered_above_black(raw, black_level, kernels)
    return _filtered(raw.astype(jnp.result_type(raw, black_level)), black_level, kernels)


def _site(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the tile row and column that each weight `(rows, cols)` reads, seen from each site `(2, 2)`."""
    i, j, y, x = np.ogrid[:rows, :cols, :2, :2]
    return (y + i - rows // 2) % 2, (x + j - cols // 2) % 2


_correlate = functools.partial(stencil.correlate_mosaic, border="mirror")


def _filtered_above_black(raw: Array, black_level: Array, kernels: Array) -> Array:
    return _correlate(cfa.subtract_black_level(raw, black_level), kernels)


def _filtered_forward(raw: Array, black_level: Array, kernels: Array) -> tuple[Array, tuple[Array, ...]]:
    above_black = cfa.subtract_black_level(raw, black_level)
    return _correlate(above_black, kernels), (above_black, black_level, kernels)


def _filtered_backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    """Computes the gradients; XLA drops the mosaic's if it is unused. A black level lowers all pixels of its site."""
    above_black, black_level, kernels = residuals
    of_mosaic, of_kernels = jax.vjp(_correlate, above_black, kernels)[1](gradient)
    # Rows are added first, since that vectorizes.
    by_column = [plane.reshape(-1, 2, plane.shape[-1]).sum(0) for plane in planes.split(gradient)]
    by_site = jnp.stack(by_column).reshape(3, 2, -1, 2).sum(2)
    row, col = _site(*kernels.shape[1:3])
    seen = np.eye(4, dtype=np.float32)[2 * row + col]

    def lowered(black_level: Array) -> Array:
        return -jnp.einsum("kijyx,ijyxs,s->kyx", kernels, seen, black_level, precision="highest").astype(gradient.dtype)

    (of_black,) = jax.vjp(lowered, black_level)[1](by_site)
    return of_mosaic, of_black, of_kernels


_filtered = with_gradient(_filtered_above_black, _filtered_backward, forward=_filtered_forward)


def filter_luma_twice(rgb: Array, first: Array, second: Array) -> Array:
    """Computes `sharpen.sharpening_filter` and `denoise.filter_luma` without returning to RGB in between."""
    return color.replace_luma(rgb, functools.partial(_filtered_twice, first=first, second=second))


def _filtered_twice(luma: Array, first: Array, second: Array) -> Array:
    return stencil.correlate(stencil.correlate(luma, first, "zero"), second, "mirror")


def filter_clip_and_correct(rgb: Array, first: Array, second: Array, gamma: Array, low: float, high: float) -> Array:
    """Computes `filter_luma_twice` and `clip_and_correct`; the change of luma is added in the pass of the curve."""
    channels, luma = color.split_luma(rgb)
    lumas = luma, _filtered_twice(luma, first, second)
    return jnp.stack(powers.clipped_roots(low, high, channels, gamma, lumas), -1)


def clip_and_correct(rgb: Array, gamma: Array, low: float, high: float) -> Array:
    """Computes `clip` and `color.gamma_correct` in one pass, with the channels apart."""
    check_image(rgb)
    return jnp.stack(powers.clipped_roots(low, high, planes.split(rgb), gamma, None), -1)
