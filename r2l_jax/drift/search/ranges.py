"""Computes the offsets of all parameters of a pipeline: the distances from their defaults in natural ranges.

Searches, sensitivities and tolerances use offsets. Natural ranges and valid values are declared by `isp.Parameter`; the
functions here apply them to all parameters of a pipeline by name.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

import isp
from r2l_jax.errors import InputError

Declarations = Mapping[str, isp.Parameter]
Values = Mapping[str, ArrayLike]


def moved(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Computes the values at offsets from their defaults."""
    return {name: jnp.asarray(declarations[name].moved(default[name], offset)) for name, offset in offsets.items()}


def valid_offsets(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Returns the nearest offsets at which all values are valid, except for the rounding that `values_at` undoes."""
    return {
        name: jnp.clip(offset, *declarations[name].offset_limits(default[name])) for name, offset in offsets.items()
    }


def values_at(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Computes the values at valid offsets, as `moved` does, and keeps rounding from moving them beyond their limits.

    The gradient is taken through `moved`.
    """
    values = moved(declarations, default, offsets)
    # Clipping alone would reduce the gradient of a value at its limit, or remove it.
    rounding = {name: declarations[name].valid(default[name], value) - value for name, value in values.items()}
    return {name: value + jax.lax.stop_gradient(rounding[name]) for name, value in values.items()}


def valid_values(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Computes the values at the nearest valid offsets."""
    return {name: declarations[name].moved_validly(default[name], offset) for name, offset in offsets.items()}


def apart(declarations: Declarations, default: Values, values: Values) -> Array:
    """Computes how far parameters have moved in ways that no single camera drift would move them.

    One drift, such as another exposure or a warmer sensor, moves all elements of a vector together: all gains by one
    factor, or all black levels by one shift. The squared distances from such a common offset count; for matrices and
    kernels, those from 0. They are averaged over the elements and summed over the parameters.
    """
    total = jnp.zeros(())
    for name, value in values.items():
        offsets = jnp.asarray(declarations[name].offset(default[name], value))
        common = offsets.mean() if offsets.ndim < 2 else 0.0
        total += jnp.square(offsets - common).mean()
    return total


def tuned(declarations: Declarations) -> tuple[str, ...]:
    """Returns the names of the parameters that searches move by default."""
    return tuple(name for name, parameter in declarations.items() if parameter.tuned)


def gains(declarations: Declarations, names: Iterable[str]) -> list[str]:
    """Returns the named parameters that are gains of a camera, which scale an image's brightness."""
    return [
        name for name in names if declarations[name].camera == "white_balance" and declarations[name].scale == "log"
    ]


def check(declarations: Declarations, default: Values) -> None:
    """Raises an InputError unless every parameter has offsets from its default value, which must not be traced."""
    for name, parameter in declarations.items():
        if not parameter.has_range:
            raise InputError(
                f"parameter {name} needs a natural range: declare it as isp.Parameter(..., width=...) "
                'or isp.Parameter(..., scale="log")'
            )
        if parameter.scale == "log" and not np.all(np.asarray(default[name])):
            raise InputError(f"parameter {name} has a log scale, but a value of 0, which no factor changes")
