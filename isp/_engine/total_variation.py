"""Total-variation denoising (Rudin, Osher & Fatemi 1992), in two ways: flattens noise, keeps edges.

Both iterate on one colour's plane (H, W) until their stopping rule, so the time they take depends on the image. Slopes
of length zero have the derivative zero, which keeps every gradient finite.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

from isp._engine.iterate import iterate
from isp._engine.stencil import apart
from isp._engine.windows import Scalar, check_positive
from isp.bayer import check_image


def tv_chambolle(
    rgb: Shaped[Array | np.ndarray, "..."],
    weight: Scalar = 0.01,
    eps: float = 2e-4,
    max_iterations: int = 200,
) -> Float[Array, "*batch height width 3"]:
    """Denoises each channel by itself, by projections of the dual problem (Chambolle, J. Math. Imaging Vision 2004).

    Minimises half the squared distance to the channel plus `weight` times the sum of slopes. Agrees with scikit-image's
    `denoise_tv_chambolle` with `channel_axis=-1`, its stopping rule included; but a constant channel is done at once,
    where scikit-image iterates to the end and changes nothing. Does not clip. Forward-mode and second derivatives do
    not work.

    Args:
        rgb: images `(..., H, W, 3)`, of any range.
        weight: positive; the greater, the smoother.
        eps: iterates until the energy changes by less than this, relative to what it was at first.
        max_iterations: but not more often.

    Raises:
        ValueError: rgb that is no floating-point image `(..., H, W, 3)`, a weight or eps that is not positive, or
            max_iterations below 1.
    """
    check_settings(weight, eps, max_iterations)
    return _tv_chambolle(rgb, weight, eps, max_iterations)


@functools.partial(jax.jit, static_argnames=("eps", "max_iterations"))
def _tv_chambolle(rgb, weight, eps, max_iterations):
    check_image(rgb)
    weight = jnp.asarray(weight, rgb.dtype)
    stop = functools.partial(_energy_settled, eps)

    def denoise(plane):
        zeros = jnp.zeros_like(plane)
        _, denoised = iterate(_chambolle_step, stop, ((zeros, zeros), plane), (plane, weight), max_iterations)
        return denoised

    planes = jnp.moveaxis(rgb, -1, 0)
    denoised = jax.vmap(denoise)(planes.reshape(-1, *rgb.shape[-3:-1]))
    return jnp.moveaxis(denoised.reshape(planes.shape), 0, -1)


# Chambolle proves convergence for steps up to 1/8, and observes the fastest at 1/4.
_STEP = 1 / 4


def _chambolle_step(state, parameters):
    """The image that belongs to the dual field, and one step of the field.

    The image is one step behind, as in the reference: the stopping rule needs its energy, and so its slopes, of which
    the field's step is made.
    """
    field, _ = state
    image, weight = parameters
    denoised = _minus_divergence(image, *field)
    slope = _slope(denoised)
    field = tuple(
        apart(functools.partial(_project, axis))(component, denoised, slope, weight)
        for axis, component in enumerate(field)
    )
    return (field, denoised), _energy(image, denoised, slope, weight)


@apart
def _minus_divergence(image, rows, cols):
    return image - (rows - _before(rows, 0)) - (cols - _before(cols, 1))


@apart
def _slope(image):
    return _length(_difference(image, 0), _difference(image, 1))


def _project(axis, component, image, slope, weight):
    return (component - _STEP * _difference(image, axis)) / (1 + _STEP / weight * slope)


@apart
def _energy(image, denoised, slope, weight):
    # Of the whole squared distance, not half of it: so the reference's stopping rule.
    return jnp.sum((denoised - image) ** 2 + weight * slope)


def _energy_settled(eps, first, previous, energy):
    return jnp.abs(previous - energy) <= eps * first


def tv_bregman(
    rgb: Shaped[Array | np.ndarray, "..."],
    weight: Scalar = 100.0,
    eps: float = 1e-3,
    max_iterations: int = 100,
    isotropic: bool = True,
) -> Float[Array, "*batch height width 3"]:
    """Denoises by the split Bregman method (Goldstein & Osher, SIAM J. Imaging Sci. 2009).

    Aims at the least sum of slopes plus half of `weight` times the squared distance to the channel. Agrees with
    scikit-image's `denoise_tv_bregman` with `channel_axis=-1`, also where that departs from the paper:

    - An isotropic slope s shrinks to s² / (s + 1 / (2 weight)), not to max(s - 1 / (2 weight), 0).
    - The pixels beyond the border are those of the noisy image to the end, mirrored above and to the left (row -1 is
      row 1), repeated below and to the right.
    - Channels do not stand by themselves. The Bregman variables start at zero for red only; for green they start at
      the denoised red and for blue at the denoised green, which scikit-image finds in a buffer that it uses again.

    Does not clip. Forward-mode and second derivatives do not work.

    Args:
        rgb: images `(..., H, W, 3)`, of any range; H and W at least 2.
        weight: positive; the smaller, the smoother.
        eps: iterates until the root mean square of a channel's change is at most this.
        max_iterations: but not more often.
        isotropic: whether a slope is the length of the gradient, or the sum of its components' sizes.

    Raises:
        ValueError: rgb that is no floating-point image `(..., H, W, 3)` with H and W at least 2, a weight or eps
            that is not positive, or max_iterations below 1.
    """
    check_settings(weight, eps, max_iterations)
    return _tv_bregman(rgb, weight, eps, max_iterations, isotropic)


def check_settings(weight: Scalar, eps: float, max_iterations: int) -> None:
    """Raises a ValueError unless `tv_chambolle` and `tv_bregman` take these arguments."""
    check_positive("weight", weight)
    check_positive("eps", eps)
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")


@functools.partial(jax.jit, static_argnames=("eps", "max_iterations", "isotropic"))
def _tv_bregman(rgb, weight, eps, max_iterations, isotropic):
    check_image(rgb)
    if min(rgb.shape[-3:-1]) < 2:
        raise ValueError(f"rgb must have a height and width of at least 2, got shape {rgb.shape}")
    weight = jnp.asarray(weight, rgb.dtype)
    step = functools.partial(_bregman_step, isotropic)
    stop = functools.partial(_change_settled, eps)

    def denoise(before, plane):
        framed = jnp.pad(jnp.pad(plane, ((1, 0), (1, 0)), "reflect"), ((0, 1), (0, 1)), "edge")
        # Half of the sum is b and half d: b is the result of the channel before, and d - b, all else needed, is zero.
        sums = (2 * before, 2 * before)
        shares = (jnp.full_like(plane, 1 / 2),) * (1 if isotropic else 2)
        framed, *_ = iterate(step, stop, (framed, sums, shares), (plane, weight), max_iterations)
        return (_inside(framed),) * 2

    def denoise_image(image):
        planes = jnp.moveaxis(image, -1, 0)
        _, denoised = lax.scan(denoise, jnp.zeros_like(planes[0]), planes)
        return jnp.moveaxis(denoised, 0, -1)

    return jax.vmap(denoise_image)(rgb.reshape(-1, *rgb.shape[-3:])).reshape(rgb.shape)


def _bregman_step(isotropic, state, parameters):
    """One Gauss-Seidel sweep over the pixels in raster order, all of them at once.

    In each direction, the gradient of the image plus b, the Bregman variable, is a sum that splits into the new b and
    d, the shrunk gradient: b = share * sum, d = (1 - share) * sum. If isotropic, one share serves both directions.

    A pixel's new value is made of its neighbours, those above and to the left as they are after their turn, and of sums
    and shares, which depend on the image before the sweep alone. So 9/2 of a pixel's change is a residual, known for
    all pixels beforehand, plus the changes above and to the left: a linear system.
    """
    framed, old_sums, old_shares = state
    image, weight = parameters
    sums = tuple(
        apart(functools.partial(_gradient_plus_b, axis))(framed, old_sums[axis], old_shares[-axis]) for axis in (0, 1)
    )
    if isotropic:
        shares = (_isotropic_share(*sums, weight),)
    else:
        shares = tuple(_anisotropic_share(component, weight) for component in sums)
    residual = _residual(image, framed, *old_sums, old_shares[0], old_shares[-1], *sums, shares[0], shares[-1])
    change = _solve(residual)
    return (_add_inside(framed, change), sums, shares), _root_mean_square(change)


def _gradient_plus_b(axis, framed, old_sum, old_share):
    return _neighbour(framed, axis, 1) - _inside(framed) + old_share * old_sum


@apart
def _isotropic_share(rows, cols, weight):
    return 1 / (1 + 2 * weight * _length(rows, cols))


@apart
def _anisotropic_share(component, weight):
    return 1 / jnp.maximum(1, 2 * weight * jnp.abs(component))


@apart
def _residual(image, framed, old_rows, old_cols, old_row_share, old_col_share, rows, cols, row_share, col_share):
    here = _inside(framed)
    laplacian = sum(_neighbour(framed, axis, offset) for axis in (0, 1) for offset in (-1, 1)) - 4 * here
    # d - b = (1 - 2 share) * sum. The divergence, too, is of the new ones above and to the left, and the old ones here.
    divergence = _before((1 - 2 * row_share) * rows, 0) - (1 - 2 * old_row_share) * old_rows
    divergence += _before((1 - 2 * col_share) * cols, 1) - (1 - 2 * old_col_share) * old_cols
    return (image - here) / 2 + laplacian + divergence


@apart
def _add_inside(framed, change):
    return framed.at[1:-1, 1:-1].add(change)


@apart
def _root_mean_square(change):
    return jnp.sqrt(jnp.mean(change**2))


def _change_settled(eps, first, previous, change):
    return ~(change > eps)


# What a pixel's own value weighs in a sweep, where each neighbour weighs 1 and the noisy image 1/2.
_OWN = 9 / 2


def _solve(residual):
    """The change of which `_OWN` times itself is the residual plus the changes above and to the left."""
    return lax.custom_linear_solve(
        lambda change: _OWN * change - _before(change, 0) - _before(change, 1),
        residual,
        solve=lambda _, residual: _sweep(residual),
        transpose_solve=lambda _, residual: _sweep(residual, backwards=True),
    )


def _sweep(residual, backwards=False):
    """Solves by a product, where a loop would go from pixel to pixel.

    With S the sum of the moves by one down and one to the right, and a = 2/9, (1 - aS)^-1 is
    (1 + aS) (1 + a²S²) (1 + a⁴S⁴) (1 + a⁸S⁸) and so on. Sⁿ is a stencil of n + 1 binomial weights along a diagonal. As
    S at most doubles, k factors leave out (4/9)^(2^k) of the change: 2e-6 after four, 5e-12 after five. The next sweep
    corrects what is left out of a change, and the image is larger than its change: for float32, four lose nothing.
    """
    factors = 5 if residual.dtype == jnp.float64 else 4
    margin = 2**factors - 1
    margins = (0, margin) if backwards else (margin, 0)
    change = apart(lambda residual: jnp.pad(residual / _OWN, (margins, margins)))(residual)
    for factor in range(factors):
        change = apart(functools.partial(_add_moved, 2**factor, backwards))(change)
    return change


def _add_moved(moves, backwards, change):
    """The sum of the change and its copies after `moves` moves, without the margin that this uses up."""
    height, width = (size - moves for size in change.shape)

    def window(row, col):
        return change[row : row + height, col : col + width]

    stay = 0 if backwards else moves
    return window(stay, stay) + sum(
        math.comb(moves, down) / _OWN**moves * window(moves - down, down) for down in range(moves + 1)
    )


def _length(x, y):
    """The length of a vector; the floor makes its derivative at zero zero, not infinite."""
    return jnp.sqrt(jnp.maximum(x * x + y * y, jnp.finfo(x.dtype).tiny))


def _difference(plane, axis):
    """To the next pixel; zero at the last."""
    return jnp.pad(jnp.diff(plane, axis=axis), [(0, int(i == axis)) for i in (0, 1)])


def _before(plane, axis):
    """The pixel before; zero at the first."""
    return jnp.pad(lax.slice_in_dim(plane, 0, -1, axis=axis), [(int(i == axis), 0) for i in (0, 1)])


def _inside(framed):
    return framed[1:-1, 1:-1]


def _neighbour(framed, axis, offset):
    """The pixel before (-1) or after (1) each pixel inside the frame."""
    moved = lax.slice_in_dim(framed, 1 + offset, framed.shape[axis] - 1 + offset, axis=axis)
    return lax.slice_in_dim(moved, 1, -1, axis=1 - axis)
