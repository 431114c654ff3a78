"""Stencils, and how to run them fast: the one place that knows how to pad, shift, and keep a compiler from refusing.

A stencil is a sum of shifted copies of its input. On a GPU it is written as that and left to the compiler. On the CPU
three things decide whether it takes 2 ms or 200:

- The padded input has to exist in memory. A pad that is fused into the shifted reads turns each of them into a branch.
- Stencils must not be fused into each other. XLA:CPU fuses a producer into each read of its consumer and computes it
  again each time, nine times for a 3x3 stencil of a stencil. `apart` compiles a function as a unit of its own.
- What is in the cache stays there if images are processed one after the other instead of step after step, and small
  buffers are used again, where a fresh large one costs a page fault for each 4 KiB. `each_image` does that.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float, Shaped

Border = Literal["zero", "mirror", "symmetric"]

# NumPy's names. "mirror" reflects about the outermost pixel (row -1 is row 1), which keeps a mosaic's colours in place;
# "symmetric" repeats it (row -1 is row 0), as SciPy's filters do when nothing is said.
_PAD_MODES = {"zero": "constant", "mirror": "reflect", "symmetric": "symmetric"}

# Images are taken together until they have this many pixels: enough to share between cores, and few enough for the
# several planes of a pipeline to stay in a cache of 1 MiB a core.
_PIXELS_AT_ONCE = 2**17

# A strip of a large image may have more: it is one stage's work, with fewer planes.
_PIXELS_OF_A_STRIP = 2**18


def apart(function: Callable) -> Callable:
    """The same function of arrays, on the CPU compiled as a unit that is not fused with what comes before and after.

    Its operands and results exist in memory. Derivatives and batches of it are units of their own in the same way. The
    numbers are those of `function`. Elsewhere it is `function`: GPUs gain from fusing.
    """

    @functools.wraps(function)
    def inner(*operands):
        # The attribute would go on to every function called within.
        with set_xla_metadata(inlineable="true"):
            return function(*operands)

    unit = jax.jit(inner)

    @functools.wraps(function)
    def outer(*operands):
        if jax.default_backend() != "cpu":
            return function(*operands)
        with set_xla_metadata(inlineable="false"):
            return unit(*operands)

    return outer


def pointwise(function: Callable) -> Callable:
    """`apart`, for a function `(image, *scalars)` of each value by itself.

    The image is passed as a vector: XLA:CPU does not vectorise all loops over a last axis of three.
    """
    unit = apart(function)

    @functools.wraps(function)
    def outer(image, *scalars):
        return unit(image.reshape(-1), *scalars).reshape(image.shape)

    return outer


def each_image(function: Callable[[Array], Array], images: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Applies a function of a batch to a batch of which the images do not depend on each other.

    On the CPU a few images are taken at a time, and a gradient computes their intermediate results again instead of
    holding those of the whole batch. Elsewhere the whole batch is taken at once.
    """
    if not _one_by_one(images):
        return function(images)
    batch, pixels = images.shape[0], math.prod(images.shape[1:])
    divisors = [n for n in range(1, batch + 1) if batch % n == 0 and n * pixels <= _PIXELS_AT_ONCE]
    at_once = max(divisors, default=1)
    if batch <= at_once:
        return function(images)
    groups = images.reshape(-1, at_once, *images.shape[1:])
    results = jax.lax.map(jax.checkpoint(function), groups)
    return results.reshape(batch, *results.shape[2:])


def _one_by_one(images: Array) -> bool:
    """Whether parts of an array are taken in turns. Not where devices may share it: each would wait for all parts."""
    explicitly_split = any(jax.typeof(images).sharding.spec)
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and not explicitly_split


def by_strips(
    function: Callable[[Array], Array], raw: Float[Array, "*batch height width"], reach: int
) -> Float[Array, "*batch height width channels"]:
    """Applies a function of mosaics; on the CPU, to a large image one strip of rows after the other.

    Half of the time that a large image takes is the first touch of fresh memory; a strip's intermediate results use the
    same memory again, and stay in the cache. The result is the same: of each strip, an image with a border of its own,
    the rows that this border can reach are cut off.

    Args:
        function: from mosaics `(..., H, W)` to images `(..., H, W, channels)`.
        raw: mosaics `(..., H, W)`.
        reach: how many rows away a site can matter; even, so that strips start with a whole tile.
    """
    *batch, height, width = raw.shape
    rows = max(
        (n for n in range(2, height + 1, 2) if height % n == 0 and n * width <= _PIXELS_OF_A_STRIP), default=height
    )
    # Of thin strips, all that a height of few divisors may leave, most would be cut off.
    if not _one_by_one(raw) or 0 in batch or not 4 * reach <= rows < height:
        return function(raw)
    images = raw.reshape(-1, height, width)
    size = min(rows + 2 * reach, height)

    def strip(place):
        image, row = place
        start = jnp.clip(row - reach, 0, height - size)
        rgb = function(jax.lax.dynamic_slice(images, (image, start, 0), (1, size, width))[0])
        return jax.lax.dynamic_slice_in_dim(rgb, row - start, rows)

    places = tuple(axis.ravel() for axis in np.mgrid[: len(images), :height:rows])
    return jax.lax.map(strip, places).reshape(*batch, height, width, -1)


def pad(
    plane: Shaped[Array, "*batch height width"], rows: int, cols: int, border: Border
) -> Shaped[Array, "*batch padded_height padded_width"]:
    """Adds `rows` on both ends and `cols` on both sides to the last two axes, in memory, to be read in shifts."""
    return apart(functools.partial(_padded, rows=rows, cols=cols, border=border))(plane)


def correlate(
    image: Float[Array, "*batch height width"], kernel: Float[Array | np.ndarray, "rows cols"], border: Border
) -> Float[Array, "*batch height width"]:
    """Cross-correlates the last two axes with a kernel of odd sides; the result keeps the size.

    out[y, x] = sum_ij kernel[i, j] * image[y + i - rows // 2, x + j - cols // 2].
    """
    (out,) = correlate_planes((image,), kernel[None, None, :, :, None, None], border)
    return out


def correlate_channels(
    image: Float[Array, "*batch height width channels"],
    kernel: Float[Array | np.ndarray, "out channels rows cols"],
    border: Border,
) -> Float[Array, "*batch height width out"]:
    """Cross-correlates each channel with its own kernel for each output channel, and sums over the channels."""
    planes = tuple(image[..., channel] for channel in range(image.shape[-1]))
    return jnp.stack(correlate_planes(planes, kernel[..., None, None], border), -1)


def correlate_mosaic(
    raw: Float[Array, "*batch height width"], kernels: Float[Array | np.ndarray, "out rows cols 2 2"], border: Border
) -> Float[Array, "*batch height width out"]:
    """Cross-correlates a mosaic with kernels that depend on the site of the 2x2 tile.

    out[y, x, k] = sum_ij kernels[k, i, j, y % 2, x % 2] * raw[y + i - rows // 2, x + j - cols // 2].
    """
    return jnp.stack(correlate_planes((raw,), kernels[:, None], border), -1)


def correlate_planes(
    planes: Sequence[Float[Array, "*batch height width"]],
    kernels: Float[Array | np.ndarray, "out in rows cols row_period col_period"],
    border: Border,
) -> tuple[Float[Array, "*batch height width"], ...]:
    """Cross-correlates planes with kernels of odd sides that may repeat with the position.

    out_k[y, x] = sum_cij kernels[k, c, i, j, y % row_period, x % col_period]
                          * plane_c[y + i - rows // 2, x + j - cols // 2],
    with periods of 1 or 2; of 2 only where the side is even. Reverse-mode derivatives for planes and kernels are
    written out, so forward mode does not work.

    Args:
        planes: the inputs, of one shape.
        kernels: the weights. Those of a NumPy array that are zero cost nothing.
        border: what lies beyond the border.

    Returns:
        One plane for each output.

    Raises:
        ValueError: kernels with a side that is even.
    """
    *batch, height, width = planes[0].shape
    dtype = jnp.result_type(*planes, kernels)
    out, channels, rows, cols = kernels.shape[:4]
    if rows % 2 == 0 or cols % 2 == 0:
        raise ValueError(f"a kernel must have odd sides, got {rows}x{cols}")
    every = tuple(itertools.product(range(out), range(channels), range(rows), range(cols)))
    taps = tuple(tap for tap in every if kernels[tap].any()) if isinstance(kernels, np.ndarray) else every
    flat = tuple(plane.astype(dtype).reshape(-1, height, width) for plane in planes)
    results = _correlate(flat, jnp.asarray(kernels, dtype), border, taps)
    return tuple(result.reshape(*batch, height, width) for result in results)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _correlate(planes, kernels, border, taps):
    rows, cols = kernels.shape[2:4]
    padded = [pad(plane, rows // 2, cols // 2, border) for plane in planes]
    return _sum_taps(padded, kernels, taps)


def _correlate_forward(planes, kernels, border, taps):
    return _correlate(planes, kernels, border, taps), (planes, kernels)


def _correlate_backward(border, taps, residuals, gradients):
    planes, kernels = residuals
    rows, cols = kernels.shape[2:4]
    padded = [pad(plane, rows // 2, cols // 2, border) for plane in planes]
    kernels_gradient = _correlations(padded, gradients, kernels.shape, taps)

    # Each padded pixel collects what it gave: the same stencil turned about, over gradients with zeros beyond.
    turned = _turn(kernels)
    turned_taps = tuple((c, k, rows - 1 - i, cols - 1 - j) for k, c, i, j in taps)
    around = [pad(gradient, rows - 1, cols - 1, "zero") for gradient in gradients]
    padded_gradients = _sum_taps(around, turned, turned_taps)
    planes_gradient = tuple(_unpad(gradient, rows // 2, cols // 2, border) for gradient in padded_gradients)
    return planes_gradient, kernels_gradient


_correlate.defvjp(_correlate_forward, _correlate_backward)


def _unpad(padded, rows, cols, border):
    """The transpose of `pad`: what lies beyond the border adds to the pixels that it repeats."""
    batch, height, width = padded.shape
    plane = jax.ShapeDtypeStruct((batch, height - 2 * rows, width - 2 * cols), padded.dtype)
    transpose = jax.linear_transpose(functools.partial(_padded, rows=rows, cols=cols, border=border), plane)
    return apart(lambda padded: transpose(padded)[0])(padded)


def _padded(plane, rows, cols, border):
    margins = [(0, 0)] * (plane.ndim - 2) + [(rows, rows), (cols, cols)]
    return jnp.pad(plane, margins, _PAD_MODES[border])


def _turn(kernels):
    """Kernels of the transposed stencil: inputs and outputs exchanged, and turned by 180 degrees.

    What they give belongs to padded coordinates, so the phase of each tap moves by its offset.
    """
    rows, cols, row_period, col_period = kernels.shape[2:]
    turned = jnp.flip(jnp.swapaxes(kernels, 0, 1), (2, 3))
    if row_period > 1:
        turned = jnp.stack([jnp.roll(turned[:, :, i], rows - 1 - i, -2) for i in range(rows)], 2)
    if col_period > 1:
        turned = jnp.stack([jnp.roll(turned[:, :, :, j], cols - 1 - j, -1) for j in range(cols)], 3)
    return turned


def _sum_taps(padded, kernels, taps):
    """The formula: shifted copies times weights, summed.

    The weights of a whole row are laid out and rows are taken in periods, so that the loop is plain arithmetic.
    """
    rows, cols, row_period, col_period = kernels.shape[2:]
    batch, height, width = padded[0].shape
    height, width = height - (rows - 1), width - (cols - 1)
    periods = (batch, height // row_period, row_period, width)

    def formula(weights, *padded):
        sums = [jnp.zeros(periods, weights.dtype)] * len(weights)
        for k, c, i, j in taps:
            sums[k] += padded[c][:, i : i + height, j : j + width].reshape(periods) * weights[k, c, i, j]
        return tuple(total.reshape(batch, height, width) for total in sums)

    # A period of one is a number for the whole plane, which broadcasts.
    weights = jnp.tile(kernels, width // col_period) if col_period > 1 else kernels
    return apart(formula)(weights, *padded)


def _correlations(padded, gradients, shape, taps):
    """The gradient of `_sum_taps` for kernels of this shape: for each tap and phase, an inner product of two planes.

    Each phase is a plane of its own, contiguous, so that these are the fewest and the longest products there can be.
    """
    row_period, col_period = shape[4:]
    phases = tuple(itertools.product(range(row_period), range(col_period)))
    height, width = gradients[0].shape[1] // row_period, gradients[0].shape[2] // col_period

    def split(*planes):
        return [{(p, q): plane[:, p::row_period, q::col_period] for p, q in phases} for plane in planes]

    def products(padded, gradients):
        sums = {}
        for (k, c, i, j), (p, q) in itertools.product(taps, phases):
            (y, row), (x, col) = divmod(p + i, row_period), divmod(q + j, col_period)
            shifted = padded[c][row, col][:, y : y + height, x : x + width]
            sums[k, c, i, j, p, q] = (shifted * gradients[k][p, q]).sum()
        absent = jnp.zeros((), gradients[0][0, 0].dtype)
        return jnp.stack([sums.get(index, absent) for index in np.ndindex(shape)]).reshape(shape)

    return apart(products)(apart(split)(*padded), apart(split)(*gradients))
