"""The offsets of all parameters of a pipeline: how many natural ranges their values lie from their defaults.

Searches, sensitivities and tolerances count in offsets. A parameter's natural range and its valid values are its own
facts, see `isp.Parameter`; here they are applied to all parameters of a pipeline by name.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import isp
from r2l_jax.runtime.errors import InputError

Facts = Mapping[str, isp.Parameter]
Values = Mapping[str, ArrayLike]


def moved(facts: Facts, default: Values, offsets: Values) -> dict[str, jax.Array | np.ndarray]:
    """Computes the values at offsets from their defaults."""
    return {name: facts[name].moved(default[name], offset) for name, offset in offsets.items()}


def offsets_of(facts: Facts, default: Values, values: Values) -> dict[str, jax.Array | np.ndarray]:
    """Computes the offsets of values, NaN for a gain of the other sign; undoes `moved`."""
    return {name: facts[name].offset(default[name], value) for name, value in values.items()}


def valid_offsets(facts: Facts, default: Values, offsets: Values) -> dict[str, jax.Array | np.ndarray]:
    """Returns the nearest offsets at which all values are valid."""
    return {name: jnp.clip(offset, *facts[name].offset_limits(default[name])) for name, offset in offsets.items()}


def valid_values(facts: Facts, default: Values, offsets: Values) -> dict[str, jax.Array | np.ndarray]:
    """Computes the values at the nearest valid offsets, which rounding leaves valid."""
    values = moved(facts, default, valid_offsets(facts, default, offsets))
    return {name: facts[name].valid(default[name], value) for name, value in values.items()}


def tuned(facts: Facts) -> tuple[str, ...]:
    """Returns the names of the parameters that are moved where nothing else is asked for."""
    return tuple(name for name, parameter in facts.items() if parameter.tuned)


def gains(facts: Facts, names: Iterable[str]) -> list[str]:
    """Returns those of the named parameters that scale an image's brightness: gains that start at a camera's."""
    return [name for name in names if facts[name].camera == "white_balance" and facts[name].scale == "log"]


def check(facts: Facts, default: Values) -> None:
    """Raises an InputError unless offsets of every parameter can be counted.

    Args:
        facts: of the parameters.
        default: their values, known.
    """
    for name, parameter in facts.items():
        if not parameter.has_range:
            raise InputError(
                f"parameter {name} has no natural range, which this needs: declare it as isp.Parameter(..., width=...) "
                'or isp.Parameter(..., scale="log")'
            )
        if parameter.scale == "log" and not np.all(np.asarray(default[name])):
            raise InputError(f"parameter {name} has a value of 0, which no factor moves, but a log scale")
