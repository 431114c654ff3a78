"""Knobs: single numbers that move a pipeline's parameters, as a camera maker or another lens would.

A knob moves one parameter along a straight line of offsets. The knob's position is its distance from the default in
natural ranges, see `isp.Parameter`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

import isp
from isp.parameter import MOST_ELEMENTS
from r2l_jax.drift.search.ranges import Declarations, valid_values

# How far values without limits move, in natural ranges.
_FARTHEST = 4.0

_GREATEST_STRENGTH = 4.0

# The strength of a filter between its neutral kernel, 0, and its default, 1.
STRENGTH = "strength"
_STRENGTH = isp.Parameter(None, width=1.0, unit=STRENGTH)


class Knob(NamedTuple):
    """One number that moves a parameter.

    Attributes:
        name: the knob's name, such as `white_balance.red`.
        parameter: the parameter that the knob moves.
        declaration: the scale of the number.
        direction: the offsets of the parameter's values at position 1.
        default: the number at position 0, in its unit.
        low: the least position.
        high: the greatest position.
        quantity: the kind of number, such as "gain".
    """

    name: str
    parameter: str
    declaration: isp.Parameter
    direction: np.ndarray
    default: float
    low: float
    high: float
    quantity: str

    def value(self, position: float) -> float:
        """Computes the number at a position."""
        return float(np.asarray(self.declaration.moved(self.default, float(position))))

    def position(self, value: float) -> float:
        """Computes the position of a number, the inverse of `value`."""
        return float(np.asarray(self.declaration.offset(self.default, float(value))))


def knobs_of(declarations: Declarations, parameters: Mapping[str, np.ndarray]) -> dict[str, Knob]:
    """Makes the knobs of a pipeline, by name.

    There are three kinds of knobs:

    - A single value of a parameter with at most nine values, such as a gain, a level, an entry of the color matrix,
      gamma, or the strength or width of a filter. The knob's name comes from `isp.Parameter.element_names`.
    - All values of a vector together: a factor on all gains, which acts as exposure, or a shift of all black levels.
    - The strength of a filter, for a parameter with a neutral value. Strength 0 changes nothing, and strength 1 is the
      default kernel. Kernels between them are interpolated, and beyond 1, up to 4, extrapolated.

    Values without limits move by up to four natural ranges, all others as far as they are valid. Parameters that are
    not tuned by hand have no knobs. A knob that could not change its parameter is left out, such as the strength of a
    filter that changes nothing by default. The knobs have the order of `parameters`, the defaults.
    """
    knobs = []
    for name, value in parameters.items():
        if not declarations[name].tuned:
            continue
        if declarations[name].neutral is not None:
            knobs.append(_strength(name, declarations[name], value))
        elif value.size <= MOST_ELEMENTS:
            knobs += _joint(name, declarations[name], value) + _single(name, declarations[name], value)
    return {knob.name: knob for knob in knobs if _moves(declarations, knob, parameters)}


def turned(
    declarations: Declarations, default: Mapping[str, np.ndarray], positions: Iterable[tuple[Knob, float]]
) -> dict[str, np.ndarray]:
    """Computes all parameters with some knobs at positions.

    The offsets of several knobs of one parameter add up. The result is clipped to valid values.
    """
    offsets: dict[str, np.ndarray] = {}
    for knob, position in positions:
        offset = np.float32(position) * knob.direction
        offsets[knob.parameter] = offsets.get(knob.parameter, np.zeros_like(offset)) + offset
    return {**default, **jax.device_get(valid_values(declarations, default, offsets))}


def format_value(value: float) -> str:
    """Formats a value of a knob or a parameter for tables and figures."""
    # Rounding to seven digits turns the tiny remainders of computations into zeros, and adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, 7) + 0.0:.3g}"


def _moves(declarations: Declarations, knob: Knob, parameters: Mapping[str, np.ndarray]) -> bool:
    default = parameters[knob.parameter]
    ends = (turned(declarations, parameters, [(knob, end)])[knob.parameter] for end in (knob.low, knob.high))
    return any((end != default).any() for end in ends)


def _single(name: str, parameter: isp.Parameter, value: np.ndarray) -> list[Knob]:
    """Makes a knob for each value of a parameter."""
    low, high = _limits(parameter, value)
    knobs = []
    for place, title in zip(np.ndindex(*value.shape), parameter.element_names(name, value.shape), strict=True):
        direction = np.zeros_like(value)
        direction[place] = 1
        ends = (float(low[place]), float(high[place]))
        knobs.append(Knob(title, name, parameter, direction, float(value[place]), *ends, parameter.unit or "value"))
    return knobs


def _joint(name: str, parameter: isp.Parameter, value: np.ndarray) -> list[Knob]:
    """Makes a knob for all values of a vector together, or none for a matrix, whose values have no common direction."""
    if value.ndim != 1 or value.size < 2:
        return []
    kind, default = ("factor on", 1.0) if parameter.scale == "log" else ("shift of", 0.0)
    # Most units are given in the singular, but some only exist in the plural, such as "pixels".
    unit = parameter.unit or "value"
    quantity = f"{kind} all {unit if unit.endswith('s') else unit + 's'}"
    low, high = _limits(parameter, value)
    return [Knob(name, name, parameter, np.ones_like(value), default, float(low.max()), float(high.min()), quantity)]


def _strength(name: str, parameter: isp.Parameter, kernel: np.ndarray) -> Knob:
    """Makes a knob for the strength of a filter, from the kernel that changes nothing to this kernel and beyond."""
    direction = ((kernel - np.array(parameter.neutral)) / parameter.width).astype(kernel.dtype)
    return Knob(name, name, _STRENGTH, direction, 1.0, -1.0, _GREATEST_STRENGTH - 1, STRENGTH)


def _limits(parameter: isp.Parameter, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the greatest offset of each value."""
    low, high = (np.broadcast_to(np.asarray(limit), value.shape) for limit in parameter.offset_limits(value))
    return np.where(np.isinf(low), -_FARTHEST, low), np.where(np.isinf(high), _FARTHEST, high)
