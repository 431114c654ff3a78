"""The formulas of tone curves, which treat each value by itself, and all of a pipeline's curves in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isp._engine import stencil, units
from isp._engine.checks import Scalar
from isp._engine.derivatives import with_gradient


def srgb(light: Array) -> Array:
    """Computes the display values of sRGB, by IEC 61966-2-1."""
    dark = light <= 0.0031308
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    bright = 1.055 * jnp.exp(jnp.log(jnp.where(dark, 1, light)) / 2.4) - 0.055
    return jnp.where(dark, 12.92 * light, bright)


def contrast(values: Array, amount: Scalar, pivot: Scalar) -> Array:
    """Stretches values away from a pivot."""
    return values * jnp.asarray(amount, values.dtype) + jnp.asarray(pivot * (1 - amount), values.dtype)


def shares(rises: Array | np.ndarray, dtype: jnp.dtype) -> Array:
    """Computes the rise of each segment of a curve.

    This belongs outside of the unit that applies the curve, where XLA would do it for each value.
    """
    return jax.nn.softmax(jnp.asarray(rises, dtype))


def segments(values: Array, shares: Array) -> Array:
    """Adds up the part of each segment that lies below a value; the outer segments have no outer end.

    Each term rises with the value, also after rounding, and therefore so does the sum.
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

    def formula(planes: tuple[Array, ...], amount: Array, pivot: Array, shares: Array) -> tuple[Array, ...]:
        raised = (segments(contrast(srgb(plane), amount, pivot), shares) for plane in planes)
        return tuple(jnp.clip(plane, low, high) for plane in raised)

    return units.apart(formula)(planes, amount, pivot, shares)


def power(light: Array, gamma: Scalar) -> Array:
    """Computes `light ** (1 / gamma)`, and 0 for values that are not positive."""
    dark = light <= 0
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    return jnp.where(dark, 0, jnp.exp(jnp.log(jnp.where(dark, 1, light)) / gamma))


def clipped_power(planes: tuple[Array, ...], gamma: Array, low: float) -> tuple[Array, ...]:
    """Clips planes to [low, 1], and applies `power`. Forward mode does not work.

    The gradient computes logarithm and power anew in one pass, where JAX would keep a plane of each step.
    """
    return _clipped_power(planes, gamma, low)


def _powers(planes: tuple[Array, ...], gamma: Array, low: float) -> tuple[Array, ...]:
    def formula(planes: tuple[Array, ...], gamma: Array) -> tuple[Array, ...]:
        return tuple(power(jnp.clip(plane, low, 1), gamma) for plane in planes)

    return units.apart(formula)(planes, gamma)


def _powers_forward(
    planes: tuple[Array, ...], gamma: Array, low: float
) -> tuple[tuple[Array, ...], tuple[tuple[Array, ...], Array]]:
    return _clipped_power(planes, gamma, low), (planes, gamma)


def _powers_backward(
    low: float, residuals: tuple[tuple[Array, ...], Array], gradients: tuple[Array, ...]
) -> tuple[tuple[Array, ...], Array]:
    def of_plane(plane: Array, gamma: Array, gradient: Array) -> tuple[Array, Array]:
        """Returns the gradient for the plane, and terms whose sum is the gradient for the logarithm of gamma."""
        light = jnp.clip(plane, low, 1)
        dark = light <= 0
        light = jnp.where(dark, 1, light)
        logarithm = jnp.log(light)
        steepness = jnp.where(dark, 0, gradient * jnp.exp(logarithm / gamma) / gamma)
        # At its ends, jnp.clip has the mean of the slopes on both sides.
        inside, within = (plane > low) & (plane < 1), (plane >= low) & (plane <= 1)
        return jnp.where(inside, steepness, jnp.where(within, steepness / 2, 0)) / light, -steepness * logarithm

    def formula(
        planes: tuple[Array, ...], gamma: Array, gradients: tuple[Array, ...]
    ) -> tuple[tuple[Array, ...], Array]:
        pairs = [of_plane(plane, gamma, gradient) for plane, gradient in zip(planes, gradients, strict=True)]
        of_planes, of_gamma = zip(*pairs, strict=True)
        return of_planes, stencil.total(of_gamma)

    planes, gamma = residuals
    of_planes, of_gamma = units.apart(formula)(planes, gamma, gradients)
    return of_planes, of_gamma.sum() / gamma


_clipped_power = with_gradient(_powers, _powers_forward, _powers_backward, static_argnums=(2,))
