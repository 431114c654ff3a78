"""How far the parameters of a pipeline may sensibly move: what makes them comparable, and keeps them valid.

Searches, sensitivities and tolerances all count in natural ranges from the value that a parameter has: its offset.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Values = Mapping[str, ArrayLike]


class Range(NamedTuple):
    """The natural range of a parameter.

    Attributes:
        width: of the range, in the parameter's unit; None if it is the value itself, so that offsets are logarithms
            and a hundredth is one per cent of the value.
        low: the least valid value, or with a width of None the least valid factor on the value.
        high: the greatest.
    """

    width: float | None
    low: float
    high: float


# What a weight of an interpolation, a matrix or a filter may be: any number.
_WEIGHT = Range(1.0, -math.inf, math.inf)
_RANGES = {
    "black_level": Range(0.1, 0.0, 0.95),
    "colour_correction": _WEIGHT,
    "debayer": _WEIGHT,
    "sharpening_filter": _WEIGHT,
    "gaussian_blur": _WEIGHT,
    "additive_layer": Range(1.0, -1.0, 1.0),
}
# Gains, gamma and strengths keep their sign; intensities that were measured lie a factor of a hundred apart.
_FACTOR = Range(None, 1 / 100, 100.0)


def natural_range(name: str) -> Range:
    """The natural range of a parameter, by its name in `isp.parametrized` and `isp.static`.

    - `black_level`: a tenth of the white level; valid from 0 to 0.95 of it.
    - `colour_correction`, `debayer` and the kernels of filters: 1 for each weight; any value is valid.
    - `additive_layer`: 1, all of the display's range; valid from -1 to 1.
    - all others, gains, gamma and the strengths of filters: the value itself; valid from a hundredth of it to a hundred
      times it.
    """
    return _RANGES.get(name, _FACTOR)


def moved(default: Values, offsets: Values) -> dict[str, jax.Array | np.ndarray]:
    """The values that lie so many natural ranges from their defaults."""
    values = {}
    for name, offset in offsets.items():
        width = natural_range(name).width
        values[name] = default[name] * jnp.exp(offset) if width is None else default[name] + width * offset
    return values


def offsets_of(default: Values, values: Values) -> dict[str, jax.Array | np.ndarray]:
    """How many natural ranges values lie from their defaults, NaN if a gain has the other sign; undoes `moved`."""
    offsets = {}
    for name, value in values.items():
        width = natural_range(name).width
        offsets[name] = jnp.log(value / default[name]) if width is None else (value - default[name]) / width
    return offsets


def valid_offsets(default: Values, offsets: Values) -> dict[str, jax.Array | np.ndarray]:
    """The nearest offsets at which all values are valid."""
    nearest = {}
    for name, offset in offsets.items():
        low, high = offset_limits(name, default[name])
        nearest[name] = jnp.clip(offset, low, high)
    return nearest


def offset_limits(name: str, default: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """The least and the greatest valid offset of a parameter, for each of its values; the default counts as valid."""
    width, low, high = natural_range(name)
    if width is None:
        return math.log(low), math.log(high)
    return jnp.minimum(low - default, 0) / width, jnp.maximum(high - default, 0) / width
