"""The formulas of tone curves, which treat each value separately, and all of a pipeline's curves in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isp._kernels import powers, stencil, xla
from isp._kernels.checks import Scalar
from isp._kernels.xla import with_gradient

# The luma of an image, and the luma that replaces it.
Lumas = tuple[Array, Array]


def srgb(light: Array) -> Array:
    """Computes the display values of sRGB (IEC 61966-2-1)."""
    dark = light <= 0.0031308
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    bright = 1.055 * powers.exp2(powers.log2(jnp.where(dark, 1, light)) * (1 / 2.4)) - 0.055
    return jnp.where(dark, 12.92 * light, bright)


def contrast(values: Array, amount: Scalar, pivot: Scalar) -> Array:
    """Stretches values away from a pivot."""
    return values * jnp.asarray(amount, values.dtype) + jnp.asarray(pivot * (1 - amount), values.dtype)


def shares(rises: Array | np.ndarray, dtype: jnp.dtype) -> Array:
    """Computes the rise of each segment of a curve.

    Call this outside the unit that applies the curve; inside, XLA would compute it for each value.
    """
    return jax.nn.softmax(jnp.asarray(rises, dtype))


def segments(values: Array, shares: Array) -> Array:
    """Adds up the part of each segment that lies below a value; the outer segments extend without limit.

    Each term rises with the value, even after rounding, so the sum does as well.
    """
    count = len(shares)
    raised = jnp.zeros_like(values)
    for k in range(count):
        part = values * count - k
        part = part if k == 0 else jnp.maximum(part, 0)
        part = part if k == count - 1 else jnp.minimum(part, 1)
        raised += shares[k] * part
    return raised


def all_at_once(
    planes: tuple[Array, ...], amount: Array, pivot: Array, shares: Array, low: float, high: float
) -> tuple[Array, ...]:
    """Applies `srgb`, `contrast` and `segments` to each plane, and clips."""
    return xla.apart_with(_all_at_once, low, high)(planes, amount, pivot, shares)


def _all_at_once(
    low: float, high: float, planes: tuple[Array, ...], amount: Array, pivot: Array, shares: Array
) -> tuple[Array, ...]:
    raised = (segments(contrast(srgb(plane), amount, pivot), shares) for plane in planes)
    return tuple(jnp.clip(plane, low, high) for plane in raised)


def power(light: Array, gamma: Scalar) -> Array:
    """Computes `light ** (1 / gamma)`, and 0 for values that are not positive."""
    dark = light <= 0
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    return jnp.where(dark, 0, powers.exp2(powers.log2(jnp.where(dark, 1, light)) * (1 / gamma)))


def clipped_power(planes: tuple[Array, ...], gamma: Array, low: float, lumas: Lumas | None = None) -> tuple[Array, ...]:
    """Clips planes to [low, 1] and applies `power`; with `lumas`, replaces the luma first. Forward mode does not work.

    The gradient computes logarithm and power anew, where JAX would keep a plane of each step.
    """
    return _clipped_power(planes, lumas, gamma, low)


def _powers(planes: tuple[Array, ...], lumas: Lumas | None, gamma: Array, low: float) -> tuple[Array, ...]:
    return xla.apart_with(_powers_of, low)(planes, lumas, gamma)


def _powers_of(low: float, planes: tuple[Array, ...], lumas: Lumas | None, gamma: Array) -> tuple[Array, ...]:
    lights = [jnp.clip(_with_new_luma(plane, lumas), low, 1) for plane in planes]
    if low > 0:  # Then no value is dark.
        return tuple(powers.exp2(powers.log2(light) * (1 / gamma)) for light in lights)
    return tuple(power(light, gamma) for light in lights)


def _with_new_luma(plane: Array, lumas: Lumas | None) -> Array:
    if lumas is None:
        return plane
    old, new = lumas
    return plane + (new - old)


def _powers_forward(
    planes: tuple[Array, ...], lumas: Lumas | None, gamma: Array, low: float
) -> tuple[tuple[Array, ...], tuple[tuple[Array, ...], Lumas | None, Array]]:
    return _clipped_power(planes, lumas, gamma, low), (planes, lumas, gamma)


def _powers_backward(
    low: float, residuals: tuple[tuple[Array, ...], Lumas | None, Array], gradients: tuple[Array, ...]
) -> tuple[tuple[Array, ...], Lumas | None, Array]:
    """Computes the gradients for the planes first, and the gradient for gamma from them.

    In a single unit, XLA would compute the powers twice.
    """
    planes, lumas, gamma = residuals
    exponent = 1 / gamma
    planes_gradient = xla.apart_with(_planes_gradient, low)(planes, lumas, exponent, gradients)
    at_low = exponent * low**exponent * np.log(low) if low > 0 else jnp.zeros_like(gamma)
    terms = xla.apart_with(_gamma_terms, low)(planes, lumas, planes_gradient, gradients, at_low.astype(gamma.dtype))
    added = stencil.total(planes_gradient)
    return planes_gradient, None if lumas is None else (-added, added), terms.sum() / gamma


_clipped_power = with_gradient(_powers, _powers_forward, _powers_backward, static_argnums=(3,))


def _planes_gradient(
    low: float, planes: tuple[Array, ...], lumas: Lumas | None, exponent: Array, gradients: tuple[Array, ...]
) -> tuple[Array, ...]:
    def of_plane(plane: Array, gradient: Array) -> Array:
        light = jnp.clip(plane, low, 1)
        dark = light <= 0
        slope = exponent * powers.exp2(powers.log2(jnp.where(dark, 1, light)) * (exponent - 1))
        steepness = gradient * jnp.where(dark, 0, slope)
        # At its limits, the derivative of jnp.clip is the mean of the slopes on both sides.
        inside, within = (plane > low) & (plane < 1), (plane >= low) & (plane <= 1)
        return jnp.where(inside, steepness, jnp.where(within, steepness / 2, 0))

    return tuple(
        of_plane(_with_new_luma(plane, lumas), gradient) for plane, gradient in zip(planes, gradients, strict=True)
    )


def _gamma_terms(
    low: float,
    planes: tuple[Array, ...],
    lumas: Lumas | None,
    planes_gradient: tuple[Array, ...],
    gradients: tuple[Array, ...],
    at_low: Array,
) -> Array:
    """Returns terms whose sum is the gradient for the logarithm of gamma: -gradient * light * slope * log(light).

    White adds nothing. Where light is clipped to `low`, the gradient for the plane is 0, and `at_low` replaces it.
    """

    def terms(plane: Array, plane_gradient: Array, gradient: Array) -> Array:
        light = jnp.clip(plane, low, 1)
        logarithm = powers.log2(jnp.where(light <= 0, 1, light)) * np.array(np.log(2), light.dtype)
        return jnp.where(plane <= low, gradient * at_low, plane_gradient * light * logarithm)

    replaced = [_with_new_luma(plane, lumas) for plane in planes]
    return -stencil.total(map(terms, replaced, planes_gradient, gradients))
