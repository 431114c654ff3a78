"""3x3 convolutions on CPUs, with Winograd's minimal filtering: a quarter of the products of the plain formula.

The image is divided into tiles of 4x4 outputs, each of which depends on a window of 6x6 inputs. For a window d and a
kernel g, with the matrices `_OUTPUT`, `_KERNEL` and `_INPUT` as A, G and B,

    output tile = A ((G g G') * (B d B')) A',

where * multiplies value by value, and sums over the input channels. For all tiles together, these are 36 matrix
products, (tiles, inputs) by (inputs, outputs).

S. Winograd, "Arithmetic complexity of computations" (1980); A. Lavin and S. Gray, "Fast algorithms for convolutional
neural networks", CVPR (2016). The matrices come from the points 0, 1, -1, 1/2, -2 and infinity, whose rounding errors
are a third as large as with the usual 0, 1, -1, 2, -2 and infinity (B. Barabasz et al., "Error analysis and improving
the accuracy of Winograd convolution for deep neural networks", ACM Transactions on Mathematical Software, 2020).

Between the transforms, which are separate units, images exist in memory as one array for each of the 36 products,
because XLA:CPU takes up to 1.4 times as long with one array for all.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tasks._cpu import apart, summed_products

# Rows of factors. They are tuples, because the arguments that identify a unit must be hashable.
_Matrix = tuple[tuple[float, ...], ...]

# Arrays by row and column.
_Grid = Sequence[Sequence[Array]]

# The sides of a tile of outputs and of the kernel.
_TILE, _SIZE = 4, 3

_INPUT: _Matrix = (
    (1.0, -1.5, -2.0, 1.5, 1.0, 0.0),
    (0.0, -1.0, 0.5, 2.5, 1.0, 0.0),
    (0.0, 1.0, -2.5, 0.5, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 0.5, -1.0, -0.5, 1.0, 0.0),
    (0.0, 1.0, -1.5, -2.0, 1.5, 1.0),
)
_KERNEL: _Matrix = (
    (1.0, 0.0, 0.0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
    (0.0, 0.0, 1.0),
)
_OUTPUT: _Matrix = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 1 / 2, -2.0, 0.0),
    (0.0, 1.0, 1.0, 1 / 4, 4.0, 0.0),
    (0.0, 1.0, -1.0, 1 / 8, -8.0, 1.0),
)

# With fewer channels or tiles, the transforms take longer than the products save: with 64 channels, a step of a
# ResNet-18 takes 1.05 times as long on a processor of 2023.
_FEWEST_CHANNELS, _FEWEST_TILES = 128, 64

# With fewer products, a short run would not make up for twenty more seconds of compiling a ResNet-18. With 32 images of
# 128x128, which need 2**30 products, a step gains 0.13 s, a sixth; with images of 256x256, 0.7 s, a quarter.
_FEWEST_PRODUCTS = 2**31


def is_faster(x: Float[Array, "batch height width inputs"], kernel: Float[Array, "size size inputs outputs"]) -> bool:
    """Returns whether `convolve` is faster than XLA's convolution with stride 1.

    This is the case on CPUs, for large batches of images in float32 with many channels. On other devices, the vendor's
    library chooses the method. A batch of unknown size, as in exported functions, uses the plain formula.
    """
    if jax.default_backend() != "cpu" or kernel.shape[0] != _SIZE or not isinstance(x.shape[0], int):
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
    """
    products = _products(jnp.matmul, _transformed(_INPUT, x, margin=1), apart(_transformed_kernel)(kernel))
    tiles = _both_sides(_OUTPUT, products)
    batch, rows, cols, outputs = tiles[0][0].shape
    image = jnp.stack([jnp.stack(row, 3) for row in tiles], 2).reshape(batch, rows * _TILE, cols * _TILE, outputs)
    return image[:, : x.shape[1], : x.shape[2]]


def _forward(x: Array | np.ndarray, kernel: Array | np.ndarray) -> tuple[Array, tuple[Array, Array]]:
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    return convolve(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], gradient: Array | np.ndarray) -> tuple[Array, Array]:
    (x, kernel), gradient = map(jnp.asarray, residuals), jnp.asarray(gradient)
    return convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), _kernel_gradient(x, gradient)


convolve.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, gradient: Array) -> Array:
    """Computes the gradient for the kernel, which is the transpose of the formula."""
    tiles = _transformed(_transposed(_OUTPUT), gradient, margin=0)
    products = _products(summed_products, _transformed(_INPUT, x, margin=1), tiles)
    return jnp.stack([jnp.stack(row) for row in _both_sides(_transposed(_KERNEL), products)])


def _transformed(matrix: _Matrix, x: Array, margin: int) -> _Grid:
    """Computes matrix * d * matrix' of the window d of each tile; the first begins `margin` pixels before the image."""
    counts = [_tiles(side) for side in x.shape[1:3]]
    needed = [_TILE * (count - 1) + len(matrix[0]) for count in counts]
    margins = tuple((margin, need - margin - side) for need, side in zip(needed, x.shape[1:3], strict=True))
    if margins != ((0, 0), (0, 0)):
        x = apart(_padded, margins)(x)
    rows, cols = (apart(_combined_along, matrix, axis, count) for axis, count in zip((1, 2), counts, strict=True))
    return [cols(row) for row in rows(x)]


def _padded(margins: tuple[tuple[int, int], ...], x: Array) -> Array:
    return jnp.pad(x, ((0, 0), *margins, (0, 0)))


def _combined_along(matrix: _Matrix, axis: int, count: int, x: Array) -> tuple[Array, ...]:
    """Combines the rows of windows, one window for each tile along an axis."""
    last = _TILE * (count - 1)
    rows = [jax.lax.slice_in_dim(x, i, i + last + 1, _TILE, axis) for i in range(len(matrix[0]))]
    return _combined(matrix, *rows)


def _transformed_kernel(kernel: Array) -> _Grid:
    return [_combined(_KERNEL, *row) for row in _combined(_KERNEL, *kernel)]


def _products(multiply: Callable[[Array, Array], Array], first: _Grid, second: _Grid) -> _Grid:
    return [
        [multiply(one, other) for one, other in zip(row, other_row, strict=True)]
        for row, other_row in zip(first, second, strict=True)
    ]


def _both_sides(matrix: _Matrix, grid: _Grid) -> _Grid:
    combine = apart(_combined, matrix)
    half = [combine(*row) for row in grid]
    return list(zip(*(combine(*column) for column in zip(*half, strict=True)), strict=True))


def _combined(matrix: _Matrix, *arrays: Array) -> tuple[Array, ...]:
    """Computes the sums of arrays with the factors of each row of a matrix."""
    return tuple(
        functools.reduce(jnp.add, [factor * array for factor, array in zip(row, arrays, strict=True) if factor])
        for row in matrix
    )


def _transposed(matrix: _Matrix) -> _Matrix:
    return tuple(zip(*matrix, strict=True))


def _tiles(side: int) -> int:
    return -(-side // _TILE)
