"""Logarithms and exponentials for powers, `exp2(exponent * log2(base))`, and power-law tone curves.

On CPUs, XLA's functions take almost twice as long, because they handle all special cases. The functions here split off
the bits of the exponent and evaluate one polynomial (J.-M. Muller, Elementary Functions, 2016). Their errors are no
larger than XLA's.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from isp._kernels.xla import is_fast_on_cpu, unfused_with, with_gradient

# The luma of an image, and the luma that replaces it.
Lumas = tuple[Array, Array]

# Coefficients of polynomials, the lowest first: of log2(1 + x) / x for 1 + x from sqrt(1/2) to sqrt(2), and of 2^x for
# x from -1/2 to 1/2. Their relative errors are at most 3e-8 and 2e-9. They are fitted by least squares, with weights
# that grow where the error is greatest.
_LOGARITHM = (
    *(1.4426950036518806, -0.7213473468743814, 0.4809106431081745, -0.3607036767383029, 0.2879162374502608),
    *(-0.23894495151389938, 0.2157158456952565, -0.20726894043140565, 0.1258353709071074),
)
_EXPONENTIAL = (
    *(1.0, 0.6931472057371957, 0.24022646890478916, 0.05550328777079084),
    *(0.009618488973915314, 0.0013399931182511624, 0.00015345807480512136),
)
_LN2 = np.log(2)

# For float32: the fraction's number of bits, the exponent's bias, and the bits of sqrt(1/2).
_FRACTION, _BIAS, _ROOT = 23, 127, np.float32(0.5**0.5).view(np.int32)

# The sum of this and a small float32 has no bits for a fraction: its last bits are the small number, rounded.
_ROUNDING = np.float32(1.5 * 2**_FRACTION)


def root(light: Array, gamma: Array | float) -> Array:
    """Computes `light ** (1 / gamma)`, and 0 for values that are not positive."""
    dark = light <= 0
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    return jnp.where(dark, 0, exp2(log2(jnp.where(dark, 1, light)) * (1 / gamma)))


def _roots(low: float, high: float, planes: tuple[Array, ...], gamma: Array, lumas: Lumas | None) -> tuple[Array, ...]:
    if lumas is not None:
        old, new = lumas
        planes = tuple(plane + (new - old) for plane in planes)
    lights = [jnp.clip(plane, low, high) for plane in planes]
    if low > 0:  # Then no value is dark.
        return tuple(exp2(log2(light) * (1 / gamma)) for light in lights)
    return tuple(root(light, gamma) for light in lights)


def _pull_back(low: float, high: float, arguments: tuple, gradients: tuple[Array, ...]) -> tuple:
    return jax.vjp(functools.partial(_roots, low, high), *arguments)[1](gradients)


# Replaces the luma of planes, clips to [low, high] and applies `root`; the gradient computes the powers again.
clipped_roots = with_gradient(
    lambda low, high, *arrays: unfused_with(_roots, low, high)(*arrays),
    lambda low, high, *arrays: unfused_with(_pull_back, low, high)(*arrays),
    static_argnums=(0, 1),
)


# Compiled functions, so that they are traced once for all planes of a shape.
@jax.jit
def log2(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes the binary logarithm of positive numbers. Numbers below 1e-38 may count as 1e-38."""
    return _log2(x) if _is_ours(x) else lax.log(x) / np.array(_LN2, x.dtype)


@jax.jit
def exp2(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes two to the power of numbers. Powers below 1e-38 may become 1e-38, and those above 2e38 infinite."""
    return _exp2(x) if _is_ours(x) else lax.exp(x * np.array(_LN2, x.dtype))


@jax.custom_jvp
def _log2(x: Array) -> Array:
    bits = lax.bitcast_convert_type(x, jnp.int32)
    exponent = (bits - _ROOT) >> _FRACTION
    fraction = lax.bitcast_convert_type(bits - (exponent << _FRACTION), jnp.float32) - 1
    logarithm = exponent.astype(jnp.float32) + fraction * _polynomial(_LOGARITHM, fraction)
    # Infinity and NaN stay.
    return jnp.where(x < np.float32(np.inf), logarithm, x)


@jax.custom_jvp
def _exp2(x: Array) -> Array:
    # NaN stays, because comparisons with it are false.
    x = jnp.where(x < 1 - _BIAS, np.float32(1 - _BIAS), jnp.where(x > _BIAS + 1, np.float32(_BIAS + 1), x))
    # This reads bits, because XLA would simplify x + r - r to x, and its conversion to integers checks the range.
    rounded = lax.bitcast_convert_type(x + _ROUNDING, jnp.int32)
    scale = lax.bitcast_convert_type((rounded << _FRACTION) + (_BIAS << _FRACTION), jnp.float32)
    whole = (rounded - _ROUNDING.view(np.int32)).astype(jnp.float32)
    return scale * _polynomial(_EXPONENTIAL, x - whole)


_log2.defjvps(lambda tangent, _, x: tangent / (x * np.array(_LN2, x.dtype)))
_exp2.defjvps(lambda tangent, result, x: tangent * result * np.array(_LN2, x.dtype))


def _is_ours(x: Array) -> bool:
    return x.dtype == jnp.float32 and is_fast_on_cpu()


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """Evaluates a polynomial, whose lowest coefficient comes first."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value
