"""Two iterations for total-variation denoising (Rudin, Osher & Fatemi 1992): Chambolle's and split Bregman.

Both work on the plane (H, W) of one color and iterate until their stopping rule holds, so the time depends on the
image. The derivative of a slope of length zero is defined as zero, which keeps every gradient finite.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from isp._kernels.checks import Scalar, check_image
from isp._kernels.iterate import iterate
from isp._kernels.xla import is_plain, unfused, unfused_with

# The dual field of `chambolle` (rows, columns) and its image.
ChambolleState = tuple[tuple[Array, Array], Array]

# The framed image of `bregman`, its sums (rows, columns), and its shares: one if isotropic, else (rows, columns).
BregmanState = tuple[Array, tuple[Array, Array], tuple[Array, ...]]


@jax.jit(static_argnames=("eps", "max_iterations"))
def chambolle(rgb: Array, weight: Scalar, eps: float, max_iterations: int) -> Float[Array, "*batch height width 3"]:
    """Applies `isp.denoise.tv_chambolle` with checked settings."""
    check_image(rgb)
    weight = jnp.asarray(weight, rgb.dtype)
    stop = functools.partial(_energy_settled, eps)

    def denoise(plane: Array) -> Array:
        zeros = jnp.zeros_like(plane)
        _, denoised = iterate(_chambolle_step, stop, ((zeros, zeros), plane), (plane, weight), max_iterations)
        return denoised

    planes = jnp.moveaxis(rgb, -1, 0)
    denoised = jax.vmap(denoise)(planes.reshape(-1, *rgb.shape[-3:-1]))
    return jnp.moveaxis(denoised.reshape(planes.shape), 0, -1)


# Chambolle proves convergence for steps up to 1/8, and observes the fastest convergence at 1/4.
_STEP = 1 / 4


def _chambolle_step(state: ChambolleState, parameters: tuple[Array, Array]) -> tuple[ChambolleState, Array]:
    """Computes the image of the dual field, and moves the field by one step, as scikit-image does."""
    field, _ = state
    image, weight = parameters
    denoised = _minus_divergence(image, *field)
    slope = _slope(denoised)
    rows, cols = (
        unfused_with(_project, axis)(component, denoised, slope, weight) for axis, component in enumerate(field)
    )
    return ((rows, cols), denoised), _energy(image, denoised, slope, weight)


@unfused
def _minus_divergence(image: Array, rows: Array, cols: Array) -> Array:
    return image - (rows - _before(rows, 0)) - (cols - _before(cols, 1))


@unfused
def _slope(image: Array) -> Array:
    return _length(_difference(image, 0), _difference(image, 1))


def _project(axis: int, component: Array, image: Array, slope: Array, weight: Array) -> Array:
    return (component - _STEP * _difference(image, axis)) / (1 + _STEP / weight * slope)


@unfused
def _energy(image: Array, denoised: Array, slope: Array, weight: Array) -> Array:
    # The minimized energy has half the squared distance; scikit-image's stopping rule uses the full squared distance.
    return jnp.sum((denoised - image) ** 2 + weight * slope)


def _energy_settled(eps: float, first: Array, previous: Array, energy: Array) -> Bool[Array, ""]:
    return jnp.abs(previous - energy) <= eps * first


@jax.jit(static_argnames=("eps", "max_iterations", "isotropic"))
def bregman(
    rgb: Array, weight: Scalar, eps: float, max_iterations: int, isotropic: bool
) -> Float[Array, "*batch height width 3"]:
    """Applies `isp.denoise.tv_bregman` with checked settings."""
    check_image(rgb)
    if min(rgb.shape[-3:-1]) < 2:
        raise ValueError(f"rgb must have a height and width of at least 2, got shape {rgb.shape}")
    weight = jnp.asarray(weight, rgb.dtype)
    step = functools.partial(_bregman_step, isotropic)
    stop = functools.partial(_change_settled, eps)

    def denoise(before: Array, plane: Array) -> tuple[Array, Array]:
        framed = jnp.pad(jnp.pad(plane, ((1, 0), (1, 0)), "reflect"), ((0, 1), (0, 1)), "edge")
        # With shares of 1/2, b and d are both half of the sum: b is the result of the channel before, and d - b is 0.
        sums = (2 * before, 2 * before)
        shares = (jnp.full_like(plane, 1 / 2),) * (1 if isotropic else 2)
        framed, *_ = iterate(step, stop, (framed, sums, shares), (plane, weight), max_iterations)
        denoised = _inside(framed)
        return denoised, denoised

    def denoise_image(image: Array) -> Array:
        planes = jnp.moveaxis(image, -1, 0)
        before = jnp.zeros_like(planes[0])
        if is_plain():
            # Unrolled, because exporters do not support nested loops.
            denoised = []
            for plane in planes:
                before, _ = denoise(before, plane)
                denoised.append(before)
            return jnp.stack(denoised, -1)
        _, denoised = lax.scan(denoise, before, planes)
        return jnp.moveaxis(denoised, 0, -1)

    return jax.vmap(denoise_image)(rgb.reshape(-1, *rgb.shape[-3:])).reshape(rgb.shape)


def _bregman_step(isotropic: bool, state: BregmanState, parameters: tuple[Array, Array]) -> tuple[BregmanState, Array]:
    """Computes one Gauss-Seidel sweep over the pixels in raster order, for all pixels at once.

    In each direction, the gradient of the image plus the Bregman variable b is a sum. It splits into the new b and the
    shrunk gradient d: b = share * sum, d = (1 - share) * sum. If isotropic, one share serves both directions. A pixel's
    neighbors above and to the left already have their new values, so 9/2 of its change is a residual, known for all
    pixels in advance, plus their changes: a linear system.
    """
    framed, old_sums, old_shares = state
    image, weight = parameters
    rows, cols = (unfused_with(_gradient_plus_b, axis)(framed, old_sums[axis], old_shares[-axis]) for axis in (0, 1))
    if isotropic:
        shares = (_isotropic_share(rows, cols, weight),)
    else:
        shares = tuple(_anisotropic_share(component, weight) for component in (rows, cols))
    residual = _residual(image, framed, *old_sums, old_shares[0], old_shares[-1], rows, cols, shares[0], shares[-1])
    change = _solve(residual)
    return (_add_inside(framed, change), (rows, cols), shares), _root_mean_square(change)


def _gradient_plus_b(axis: int, framed: Array, old_sum: Array, old_share: Array) -> Array:
    return _neighbor(framed, axis, 1) - _inside(framed) + old_share * old_sum


@unfused
def _isotropic_share(rows: Array, cols: Array, weight: Array) -> Array:
    return 1 / (1 + 2 * weight * _length(rows, cols))


@unfused
def _anisotropic_share(component: Array, weight: Array) -> Array:
    return 1 / jnp.maximum(1, 2 * weight * jnp.abs(component))


@unfused
def _residual(
    image: Array,
    framed: Array,
    old_rows: Array,
    old_cols: Array,
    old_row_share: Array,
    old_col_share: Array,
    rows: Array,
    cols: Array,
    row_share: Array,
    col_share: Array,
) -> Array:
    here = _inside(framed)
    laplacian = sum(_neighbor(framed, axis, offset) for axis in (0, 1) for offset in (-1, 1)) - 4 * here
    # d - b is (1 - 2 share) * sum. Its divergence takes new values above and to the left, and old ones at the pixel.
    divergence = _before((1 - 2 * row_share) * rows, 0) - (1 - 2 * old_row_share) * old_rows
    divergence += _before((1 - 2 * col_share) * cols, 1) - (1 - 2 * old_col_share) * old_cols
    return (image - here) / 2 + laplacian + divergence


@unfused
def _add_inside(framed: Array, change: Array) -> Array:
    return framed.at[1:-1, 1:-1].add(change)


@unfused
def _root_mean_square(change: Array) -> Array:
    return jnp.sqrt(jnp.mean(change**2))


def _change_settled(eps: float, first: Array, previous: Array, change: Array) -> Bool[Array, ""]:
    # Written this way, the loop also stops at NaN, as in scikit-image.
    return ~(change > eps)


# The weight of a pixel's own value in a sweep, in which each neighbor weighs 1 and the noisy image 1/2.
_OWN = 9 / 2


def _solve(residual: Array) -> Array:
    """Finds the change that, times `_OWN`, equals the residual plus the changes above and to the left.

    Uses a product of stencils instead of a loop from pixel to pixel. With S the sum of the shifts by one down and by
    one to the right, and a = 2/9, (1 - aS)^-1 is (1 + aS) (1 + a²S²) (1 + a⁴S⁴) (1 + a⁸S⁸) and so on. Sⁿ is a stencil
    of n + 1 binomial weights along a diagonal.
    S at most doubles a plane, so k factors leave out (4/9)^(2^k) of the change: 2e-6 for four, 5e-12 for five. The next
    sweep corrects that, so four factors are enough for float32.
    """
    factors = 5 if residual.dtype == jnp.float64 else 4
    margins = (2**factors - 1, 0)
    change = unfused(lambda residual: jnp.pad(residual / _OWN, (margins, margins)))(residual)
    for factor in range(factors):
        change = unfused_with(_add_moved, 2**factor)(change)
    return change


def _add_moved(moves: int, change: Array) -> Array:
    """Adds to the change its copies after `moves` shifts, and drops the margin that they use up."""
    height, width = (size - moves for size in change.shape)

    def window(row: int, col: int) -> Array:
        return change[row : row + height, col : col + width]

    return window(moves, moves) + sum(
        math.comb(moves, down) / _OWN**moves * window(moves - down, down) for down in range(moves + 1)
    )


def _length(x: Array, y: Array) -> Array:
    """Computes the length of a vector; the floor makes its derivative zero, not infinite, at length zero."""
    return jnp.sqrt(jnp.maximum(x * x + y * y, jnp.finfo(x.dtype).tiny))


def _difference(plane: Array, axis: int) -> Array:
    """Computes the difference to the next pixel; zero at the last."""
    return jnp.pad(jnp.diff(plane, axis=axis), [(0, int(i == axis)) for i in (0, 1)])


def _before(plane: Array, axis: int) -> Array:
    """Returns the pixel before each pixel; zero at the first."""
    return jnp.pad(lax.slice_in_dim(plane, 0, -1, axis=axis), [(int(i == axis), 0) for i in (0, 1)])


def _inside(framed: Array) -> Array:
    return framed[1:-1, 1:-1]


def _neighbor(framed: Array, axis: int, offset: int) -> Array:
    """Returns the pixel before (-1) or after (1) each pixel inside the frame."""
    moved = lax.slice_in_dim(framed, 1 + offset, framed.shape[axis] - 1 + offset, axis=axis)
    return lax.slice_in_dim(moved, 1, -1, axis=1 - axis)
