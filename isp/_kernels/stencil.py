"""Stencils that are fast on CPUs: shifting, and stopping XLA from fusing stencils together.

A stencil is a weighted sum of shifted copies of its input. On a GPU it is written exactly like this, and the compiler
does the rest. On a CPU, three things decide whether it takes 2 ms or 200 ms:

- The padded input must exist in memory. If XLA fuses the padding into the shifted reads, each read becomes a branch.
  `isp._kernels.padding` makes it.
- Stencils must not be fused with each other. XLA:CPU would recompute the first stencil at every read of the second,
  nine times for a 3x3 stencil. So each is a separate unit (`isp._kernels.xla`).
- Weights must not change along a row. Where they depend on the site of a mosaic's tile, each site is computed by itself
  from every second column, and `woven` puts the sites in their places in the same pass.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from isp._kernels.padding import Border, Padded, extended, pad, unpad, window
from isp._kernels.xla import is_plain, unfused, unfused_with, with_gradient

# Output channel, input channel, row and column of a weight in its kernel, and row and column of the site in its tile.
Tap = tuple[int, ...]

# The maximum number of parts of an inner product, and the minimum number of rows of each. More parts would take longer
# to compile.
_PARTS = 16
_ROWS_OF_PART = 16


def total(terms: Iterable[Array]) -> Array:
    """Sums arrays from the first to the last."""

    def add(first: Array, second: Array) -> Array:
        # Unless something is broadcast, the primitive is traced in half the time.
        alike = first.shape == second.shape and first.dtype == second.dtype
        return lax.add(first, second) if alike else jnp.add(first, second)

    return functools.reduce(add, terms)


def correlate(
    image: Float[Array, "*batch height width"], kernel: Float[Array | np.ndarray, "rows cols"], border: Border
) -> Float[Array, "*batch height width"]:
    """Cross-correlates the last two axes with a kernel; the result keeps the size.

    out[y, x] = sum_ij kernel[i, j] * image[y + i - rows // 2, x + j - cols // 2].

    Args:
        kernel: The weights `(rows, cols)` with odd sides, which can be learned.
        border: What lies beyond the border: "zero"; "mirror", where row -1 is row 1, which keeps a mosaic's colors in
            place; or "symmetric", where row -1 is row 0, the default of SciPy's filters.

    Raises:
        ValueError: A side of the kernel is even.
    """
    (out,) = correlate_planes((image,), kernel[None, None, :, :, None, None], border)
    return out


def correlate_mosaic(
    raw: Float[Array, "*batch height width"],
    kernels: Float[Array | np.ndarray, "out rows cols 2 2"],
    border: Border,
    finish: Callable[[Array], Array] = lambda image: image,
) -> Float[Array, "*batch height width out"]:
    """Cross-correlates a mosaic with kernels that depend on the site of the 2x2 tile.

    out[y, x, k] = sum_ij kernels[k, i, j, y % 2, x % 2] * raw[y + i - rows // 2, x + j - cols // 2].

    Weights in a NumPy array are constants, and zeros cost nothing. `finish` is applied to each value in the same pass.
    """

    def in_planes(raw: Array) -> Array:
        return finish(jnp.stack(correlate_planes((raw,), kernels[:, None], border), -1))

    if is_plain() or not isinstance(kernels, np.ndarray):
        return in_planes(raw)

    def interleaved(raw: Array) -> Array:
        return _interleaved(raw, kernels, border, finish)

    def gradient_in_planes(residuals: tuple[Array], gradient: Array) -> tuple[Array]:
        # The gradient of the same formula in planes is a stencil again.
        return jax.vjp(in_planes, *residuals)[1](gradient)

    return with_gradient(interleaved, gradient_in_planes)(raw)


def _interleaved(raw: Array, kernels: np.ndarray, border: Border, finish: Callable[[Array], Array]) -> Array:
    """Computes all channels in one pass, since interleaving planes would take as long as the stencil."""
    rows, cols = kernels.shape[1:3]
    of_plane = kernels[:, None]
    taps = _taps_of(of_plane)

    def formula(padded: Padded) -> Array:
        channels = [_sites([padded], of_plane, taps, k) for k in range(len(kernels))]
        tile = [[jnp.stack(of_site, -1) for of_site in zip(*row, strict=True)] for row in zip(*channels, strict=True)]
        return finish(woven(tile).reshape(*raw.shape, len(kernels)))

    return unfused(formula)(pad(raw.reshape(-1, *raw.shape[-2:]), rows // 2, cols // 2, border))


def correlate_planes(
    planes: Sequence[Float[Array, "*batch height width"]],
    kernels: Float[Array | np.ndarray, "out in rows cols row_period col_period"],
    border: Border,
) -> tuple[Float[Array, "*batch height width"], ...]:
    """Cross-correlates planes with kernels of odd sides that may repeat with the position.

    out_k[y, x] = sum_cij kernels[k, c, i, j, y % row_period, x % col_period]
                          * plane_c[y + i - rows // 2, x + j - cols // 2].

    Periods are 1 or 2; a period of 2 needs a plane with an even side. Reverse-mode derivatives for planes and kernels
    are written out, so forward mode does not work.
    """
    dtype = jnp.result_type(*planes, kernels)
    rows, cols = kernels.shape[2:4]
    if rows % 2 == 0 or cols % 2 == 0:
        raise ValueError(f"a kernel must have odd sides, got {rows}x{cols}")
    taps = _taps_of(kernels)
    flat = tuple(plane.astype(dtype).reshape(-1, *plane.shape[-2:]) for plane in planes)
    if is_plain():
        results = _convolve(flat, jnp.asarray(kernels, dtype), border)
    else:
        results = _correlate(flat, jnp.asarray(kernels, dtype), border, taps)
    return tuple(result.reshape(planes[0].shape) for result in results)


def _convolve(
    planes: Sequence[Float[Array, "batch height width"]],
    kernels: Float[Array, "out in rows cols row_period col_period"],
    border: Border,
) -> tuple[Float[Array, "batch height width"], ...]:
    """Computes `correlate_planes` as one convolution, with an output channel for each phase of weights that repeat."""
    out, channels, rows, cols, *periods = kernels.shape
    inputs, margins = jnp.stack(planes, 1), (rows // 2, cols // 2)
    if border != "zero":
        inputs, margins = extended(inputs, *margins, border), (0, 0)
    if periods == [1, 1]:
        found = _convolved(inputs, kernels[..., 0, 0], (1, 1), margins)
    else:
        row_period, col_period = periods
        phases = [
            jnp.pad(kernels[..., p, q], [(0, 0), (0, 0), (p, row_period - 1 - p), (q, col_period - 1 - q)])
            for p, q in np.ndindex(row_period, col_period)
        ]
        by_phase = jnp.stack(phases, 1).reshape(-1, channels, rows + row_period - 1, cols + col_period - 1)
        found = _convolved(inputs, by_phase, (row_period, col_period), margins)
        batch, _, height, width = found.shape
        found = found.reshape(batch, out, row_period, col_period, height, width).transpose(0, 1, 4, 2, 5, 3)
        found = found.reshape(batch, out, height * row_period, width * col_period)
    return tuple(found[:, k] for k in range(out))


def _convolved(inputs: Array, kernels: Array, steps: tuple[int, int], margins: tuple[int, int]) -> Array:
    padding = [(margin, margin) for margin in margins]
    # Full precision, since GPUs and TPUs would round the operands to a shorter format.
    return jax.lax.conv_general_dilated(inputs, kernels, steps, padding, precision=jax.lax.Precision.HIGHEST)


def _weighted_sums(
    planes: tuple[Array, ...], kernels: Array, border: Border, taps: tuple[Tap, ...]
) -> tuple[Array, ...]:
    rows, cols = kernels.shape[2:4]
    padded = [pad(plane, rows // 2, cols // 2, border) for plane in planes]
    return _sum_taps(padded, kernels, taps)


def _correlate_backward(
    border: Border,
    taps: tuple[Tap, ...],
    residuals: tuple[tuple[Array, ...], Array],
    gradients: tuple[Array, ...],
) -> tuple[tuple[Array, ...], Array]:
    planes, kernels = residuals
    rows, cols = kernels.shape[2:4]
    padded = [pad(plane, rows // 2, cols // 2, border) for plane in planes]
    return _transposed(gradients, kernels, border, taps), _correlations(padded, gradients, kernels.shape)


def _transposed(
    gradients: tuple[Array, ...], kernels: Array, border: Border, taps: tuple[Tap, ...]
) -> tuple[Array, ...]:
    """Computes the gradient for the planes: the same stencil, turned by 180 degrees, with zeros beyond the border."""
    rows, cols, row_period, col_period = kernels.shape[2:]
    first = (rows // 2, cols // 2) if border == "zero" else (0, 0)
    margins = rows - 1 - first[0], cols - 1 - first[1]
    turned = _turn(kernels, *first)
    turned_taps = tuple(
        (c, k, rows - 1 - i, cols - 1 - j, (y + i - first[0]) % row_period, (x + j - first[1]) % col_period)
        for k, c, i, j, y, x in taps
    )
    around = [pad(gradient, *margins, "zero") for gradient in gradients]
    of_planes = _sum_taps(around, turned, turned_taps)
    if border == "zero":
        return of_planes
    return tuple(unpad(of_plane, rows // 2, cols // 2, border) for of_plane in of_planes)


_correlate = with_gradient(_weighted_sums, _correlate_backward, static_argnums=(2, 3))


def _turn(kernels: Array, first_row: int, first_col: int) -> Array:
    """Makes the kernels of the transposed stencil: inputs and outputs exchanged, turned by 180 degrees."""
    rows, cols, row_period, col_period = kernels.shape[2:]
    turned = jnp.flip(jnp.swapaxes(kernels, 0, 1), (2, 3))
    if row_period > 1:
        turned = jnp.stack([jnp.roll(turned[:, :, i], rows - 1 - i - first_row, -2) for i in range(rows)], 2)
    if col_period > 1:
        turned = jnp.stack([jnp.roll(turned[:, :, :, j], cols - 1 - j - first_col, -1) for j in range(cols)], 3)
    return turned


def _taps_of(kernels: Array | np.ndarray) -> tuple[Tap, ...]:
    """Lists the weights of kernels, without those that are known to be zero."""
    every = itertools.product(*map(range, kernels.shape))
    return tuple(tap for tap in every if not isinstance(kernels, np.ndarray) or kernels[tap])


def _sum_taps(padded: Sequence[Padded], kernels: Array, taps: tuple[Tap, ...]) -> tuple[Array, ...]:
    """Computes the formula of `correlate_planes`: shifted copies times weights, summed."""
    return unfused_with(_formula, taps)(kernels, *padded)


def _formula(taps: tuple[Tap, ...], kernels: Array, *padded: Padded) -> tuple[Array, ...]:
    return tuple(woven(_sites(padded, kernels, taps, k)) for k in range(len(kernels)))


def _sites(padded: Sequence[Padded], kernels: Array | np.ndarray, taps: tuple[Tap, ...], out: int) -> list[list[Array]]:
    """Computes `correlate_planes` for one output and each site of the tile by itself, whose weights are constant."""
    rows, cols, row_period, col_period = kernels.shape[2:]
    batch, height, width = padded[0].plane.shape
    tiles = (height - (rows - 1)) // row_period, (width - (cols - 1)) // col_period

    def site(y: int, x: int) -> Array:
        terms = [
            window(padded[c].wide, (y + i, padded[c].spare + x + j), tiles, (row_period, col_period))
            * kernels[k, c, i, j, y, x]
            for k, c, i, j, *place in taps
            if k == out and place == [y, x]
        ]
        return total(terms) if terms else jnp.zeros((batch, *tiles), kernels.dtype)

    return [[site(y, x) for x in range(col_period)] for y in range(row_period)]


def woven(tile: Sequence[Sequence[Array]]) -> Array:
    """Interleaves planes `(batch, H / rows, W / cols, ...)`, each of which holds one site of all tiles."""
    stacked = jnp.stack([jnp.stack(row, 3) for row in tile], 2)
    batch, height, rows, width, cols, *channels = stacked.shape
    return stacked.reshape(batch, height * rows, width * cols, *channels)


def _correlations(padded: Sequence[Padded], gradients: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """Computes the gradient of `_sum_taps` for kernels of this shape: an inner product for each tap and site."""
    # XLA:CPU vectorizes sums of arrays, but hardly sums along axes, so parts of the rows are added first.
    row_period, col_period = shape[4:]
    height, width = gradients[0].shape[1:]
    parts = min(max(height // _ROWS_OF_PART, 1), _PARTS)
    part = -(-height // (parts * row_period)) * row_period
    # Rows of zeros complete the last part.
    margins = [(0, 0), (0, parts * part - height), (0, 0)]
    padded, gradients = jax.tree.map(lambda plane: jnp.pad(plane, margins), (padded, gradients))

    # In the unit, XLA would fuse the stack with the products of a small kernel, which would take longer.
    sums = jnp.stack(unfused_with(_inner_products, shape[:4], part)(padded, gradients))
    # A matrix product sums columns on all cores; XLA:CPU would sum along two axes on one core.
    columns = jnp.tile(jnp.eye(col_period, dtype=sums.dtype), (width // col_period, 1))
    by_column = jnp.matmul(sums.reshape(-1, width), columns, precision="highest")
    return by_column.reshape(*shape[:4], -1, row_period, col_period).sum(4)


def _inner_products(
    shape: tuple[int, ...], part: int, padded: Sequence[Padded], gradients: Sequence[Array]
) -> list[Array]:
    """Multiplies gradients with the inputs of each tap, and adds up the parts of `part` rows."""
    height, width = gradients[0].shape[1:]
    size = (part, width)

    def inner_product(k: int, c: int, i: int, j: int) -> Array:
        plane, starts = padded[c].plane, range(0, height, part)
        return total(lax.mul(window(gradients[k], (y, 0), size), window(plane, (y + i, j), size)) for y in starts)

    return [inner_product(*tap) for tap in np.ndindex(*shape)]
