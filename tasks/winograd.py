"""3x3 convolutions on CPUs by Winograd's minimal filtering: a quarter of the products of the plain formula.

The image is divided into tiles of 4x4 outputs, each of which depends on 6x6 inputs. With the matrices below, for an
input tile d and a kernel g,

    output tile = _OUTPUT ((_KERNEL g _KERNEL') * (_INPUT d _INPUT')) _OUTPUT',

where * multiplies value by value, and sums over the channels. All tiles together make that 36 products of matrices,
(tiles, inputs) by (inputs, outputs).

S. Winograd, "Arithmetic complexity of computations" (1980); A. Lavin and S. Gray, "Fast algorithms for convolutional
neural networks", CVPR (2016). The matrices come from the points 0, 1, -1, 1/2, -2 and infinity, whose rounding errors
are a third of those of the usual 0, 1, -1, 2, -2 and infinity (B. Barabasz et al., "Error analysis and improving the
accuracy of Winograd convolution for deep neural networks", ACM Transactions on Mathematical Software, 2020).

Each transform is a unit of its own (see `_unit`), so that XLA does not compute a part of it again for each of its
readers. Between the units the transformed images exist in memory, one array for each of the 36 products: with one array
for all of them, XLA:CPU takes up to 1.4 times as long.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

# Arrays by row and column.
_Grid = Sequence[Sequence[Array]]

P = ParamSpec("P")
Result = TypeVar("Result")

# The sides of a tile of outputs, of the inputs that it depends on, and of the kernel.
_TILE, _WINDOW, _SIZE = 4, 6, 3

_INPUT = np.array([
    [1, -1.5, -2, 1.5, 1, 0],
    [0, -1, 0.5, 2.5, 1, 0],
    [0, 1, -2.5, 0.5, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 0.5, -1, -0.5, 1, 0],
    [0, 1, -1.5, -2, 1.5, 1],
])  # fmt: skip
_KERNEL = np.array([
    [1, 0, 0],
    [1 / 3, 1 / 3, 1 / 3],
    [-1 / 3, 1 / 3, -1 / 3],
    [-16 / 15, -8 / 15, -4 / 15],
    [1 / 15, -2 / 15, 4 / 15],
    [0, 0, 1],
])  # fmt: skip
_OUTPUT = np.array([
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 1 / 2, -2, 0],
    [0, 1, 1, 1 / 4, 4, 0],
    [0, 1, -1, 1 / 8, -8, 1],
])  # fmt: skip

# With fewer channels or tiles, the transforms take longer than the products save.
_FEWEST_CHANNELS, _FEWEST_TILES = 64, 64

# With fewer products, a training would hardly earn back the two seconds that each convolution takes to compile.
_FEWEST_PRODUCTS = 2**30

# Part of the cache keys of compiled functions, so that both ways of a function are kept.
_is_off = jax.make_user_context(default_value=False)


def off() -> contextlib.AbstractContextManager[None]:
    """Makes functions that are traced within this context convolve by the plain formula.

    It is for programs that take a traced function apart or ship it to other devices, such as exporters.

    Returns:
        The context.
    """
    return _is_off(True)


def is_faster(x: Float[Array, "batch height width inputs"], kernel: Float[Array, "size size inputs outputs"]) -> bool:
    """Tells whether `convolve` is faster than XLA's convolution with stride 1.

    That is so on CPUs for large batches of images in float32 with many channels. Elsewhere the libraries of the devices
    choose the way.

    Args:
        x: Images `(B, H, W, inputs)`.
        kernel: Weights `(size, size, inputs, outputs)`.
    """
    if _is_off.value or jax.default_backend() != "cpu" or kernel.shape[0] != _SIZE:
        return False
    if x.dtype != jnp.float32 or kernel.dtype != jnp.float32 or min(kernel.shape[2:]) < _FEWEST_CHANNELS:
        return False
    tiles = x.shape[0] * _tiles(x.shape[1]) * _tiles(x.shape[2])
    return tiles >= _FEWEST_TILES and tiles * _TILE**2 * kernel.size >= _FEWEST_PRODUCTS


@jax.custom_vjp
def convolve(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "batch height width outputs"]:
    """Convolves images with a 3x3 kernel, with zeros beyond the border.

    Rounding errors are about 5e-6 of the largest value. Forward mode does not work.

    Args:
        x: Images `(B, H, W, inputs)`.
        kernel: Weights `(3, 3, inputs, outputs)`.

    Returns:
        Images `(B, H, W, outputs)`.
    """
    return _convolved(x, kernel)


def _convolved(x: Array, kernel: Array) -> Array:
    tiles = _both_sides(_OUTPUT, _products(jnp.matmul, _transformed_images(x), _transformed_kernel(kernel)))
    batch, rows, cols, outputs = tiles[0][0].shape
    image = jnp.stack([jnp.stack(row, 3) for row in tiles], 2).reshape(batch, rows * _TILE, cols * _TILE, outputs)
    return image[:, : x.shape[1], : x.shape[2]]


def _forward(x: Array | np.ndarray, kernel: Array | np.ndarray) -> tuple[Array, tuple[Array, Array]]:
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    return _convolved(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], gradient: Array | np.ndarray) -> tuple[Array, Array]:
    (x, kernel), gradient = map(jnp.asarray, residuals), jnp.asarray(gradient)
    return _convolved(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), _kernel_gradient(x, gradient)


convolve.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, gradient: Array) -> Array:
    """Computes the gradient for the kernel, which is the transpose of the formula."""
    products = _products(_summed_products, _transformed_images(x), _transformed_gradients(gradient))
    return jnp.stack([jnp.stack(row) for row in _both_sides(_KERNEL.T, products)])


def _summed_products(x: Array, y: Array) -> Array:
    """Computes the products of the channels of two images `(B, H, W, C)`, summed over all pixels."""
    # As matrices, since XLA:CPU would copy images to an order in which it can contract several axes.
    first, second = (image.reshape(-1, image.shape[-1]) for image in (x, y))
    return jax.lax.dot_general(first, second, (((0,), (0,)), ((), ())))


def _transformed_images(x: Array) -> _Grid:
    """Computes _INPUT d _INPUT' of all tiles."""
    batch, height, width, channels = x.shape
    rows, cols = _tiles(height), _tiles(width)
    # A tile more than there is on each axis, since the last window ends within the next tile.
    margins = [(1, (count + 1) * _TILE - side - 1) for count, side in ((rows, height), (cols, width))]
    padded = _unit(lambda x: jnp.pad(x, ((0, 0), *margins, (0, 0))))(x)

    def along_rows(padded: Array) -> tuple[Array, ...]:
        by_tile = padded.reshape(batch, rows + 1, _TILE, (cols + 1) * _TILE, channels)
        return _combined(_INPUT, [by_tile[:, i // _TILE :, i % _TILE][:, :rows] for i in range(_WINDOW)])

    def along_cols(padded: Array) -> tuple[Array, ...]:
        by_tile = padded.reshape(batch, rows, cols + 1, _TILE, channels)
        return _combined(_INPUT, [by_tile[:, :, i // _TILE :, i % _TILE][:, :, :cols] for i in range(_WINDOW)])

    return [_unit(along_cols)(row) for row in _unit(along_rows)(padded)]


def _transformed_gradients(gradient: Array) -> _Grid:
    """Computes _OUTPUT' d _OUTPUT of all tiles of a gradient for outputs."""
    batch, height, width, channels = gradient.shape
    rows, cols = _tiles(height), _tiles(width)
    beyond = [(0, rows * _TILE - height), (0, cols * _TILE - width)]
    gradient = jnp.pad(gradient, ((0, 0), *beyond, (0, 0)))

    def along_rows(gradient: Array) -> tuple[Array, ...]:
        by_tile = gradient.reshape(batch, rows, _TILE, cols * _TILE, channels)
        return _combined(_OUTPUT.T, [by_tile[:, :, i] for i in range(_TILE)])

    def along_cols(gradient: Array) -> tuple[Array, ...]:
        by_tile = gradient.reshape(batch, rows, cols, _TILE, channels)
        return _combined(_OUTPUT.T, [by_tile[:, :, :, i] for i in range(_TILE)])

    return [_unit(along_cols)(row) for row in _unit(along_rows)(gradient)]


def _transformed_kernel(kernel: Array) -> _Grid:
    """Computes _KERNEL g _KERNEL'."""

    def transformed(kernel: Array) -> _Grid:
        rows = _combined(_KERNEL, list(kernel))
        return [_combined(_KERNEL, list(row)) for row in rows]

    return _unit(transformed)(kernel)


def _products(multiply: Callable[[Array, Array], Array], first: _Grid, second: _Grid) -> _Grid:
    return [
        [multiply(one, other) for one, other in zip(row, other_row, strict=True)]
        for row, other_row in zip(first, second, strict=True)
    ]


def _both_sides(matrix: np.ndarray, grid: _Grid) -> _Grid:
    """Computes matrix * grid * matrix'."""

    def combined(*arrays: Array) -> tuple[Array, ...]:
        return _combined(matrix, arrays)

    combine = _unit(combined)
    half = [combine(*row) for row in grid]
    return list(zip(*(combine(*column) for column in zip(*half, strict=True)), strict=True))


def _combined(matrix: np.ndarray, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Computes the sums of arrays with the factors of each row of a matrix."""
    return tuple(
        functools.reduce(jnp.add, [factor * array for factor, array in zip(row, arrays, strict=True) if factor])
        for row in matrix.tolist()
    )


def _tiles(side: int) -> int:
    return -(-side // _TILE)


def _unit(function: Callable[P, Result]) -> Callable[P, Result]:
    """Makes a function of arrays a unit that XLA:CPU does not fuse with its surroundings."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Result:
        # Without this, the functions that are called within would inherit "false".
        with set_xla_metadata(inlineable="true"):
            return function(*args, **kwargs)

    unit = jax.jit(inner)

    @functools.wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> Result:
        with set_xla_metadata(inlineable="false"):
            return unit(*args, **kwargs)

    return outer
