"""Knobs: single numbers that move a pipeline's parameters, as a camera's maker or a lens would.

A knob's position counts in natural ranges from the default, see `isp.Parameter`. All that a knob does is to move one
parameter along a straight line of offsets.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

import isp
from isp.parameter import MOST_ELEMENTS
from r2l_jax.drift.search.ranges import Facts, valid_values

# How far weights move of which any value is valid, in natural ranges.
_FARTHEST = 4.0

_GREATEST_STRENGTH = 4.0

# The strength of a filter between its neutral kernel, 0, and its default, 1.
_STRENGTH = isp.Parameter(None, width=1.0, unit="strength")


class Knob(NamedTuple):
    """One number that moves a parameter.

    Attributes:
        name: its name, such as `white_balance.red`.
        parameter: the parameter that it moves.
        facts: on which scale the number counts.
        direction: the offsets of the parameter's values at position 1.
        default: the number at position 0, in its unit.
        low: the least position.
        high: the greatest.
        quantity: the kind of number, such as a gain.
    """

    name: str
    parameter: str
    facts: isp.Parameter
    direction: np.ndarray
    default: float
    low: float
    high: float
    quantity: str

    def value(self, position: float) -> float:
        """Computes the number at a position."""
        return self.facts.moved(self.default, float(position))

    def position(self, value: float) -> float:
        """Computes the position at which the number is that; undoes `value`."""
        return self.facts.offset(self.default, float(value))


def knobs_of(facts: Facts, parameters: Mapping[str, np.ndarray]) -> dict[str, Knob]:
    """Makes the knobs of a pipeline, by name.

    - Every single value of a parameter of at most nine, called as in `isp.Parameter.element_names`: gains, levels,
      entries of the color matrix, gamma, strengths and widths of filters.
    - All values of a vector together: a factor on all gains, which is exposure, or a shift of all black levels.
    - A filter's strength, of a parameter with a neutral value: from 0, which changes nothing, by way of 1, the default
      kernel, to 4. A kernel in between is interpolated, one beyond is extrapolated.

    Unbounded weights move by up to four natural ranges, all others as far as they are valid. A parameter that is not
    tuned by hand has no knob, and neither has what cannot move, such as a filter that changes nothing.

    Args:
        facts: of the pipeline's parameters.
        parameters: their defaults, in the order of the knobs.
    """
    knobs = []
    for name, value in parameters.items():
        if not facts[name].tuned:
            continue
        if facts[name].neutral is not None:
            knobs.append(_strength(name, facts[name], value))
        elif value.size <= MOST_ELEMENTS:
            knobs += _joint(name, facts[name], value) + _single(name, facts[name], value)
    return {knob.name: knob for knob in knobs if _moves(facts, knob, parameters)}


def turned(
    facts: Facts, default: Mapping[str, np.ndarray], positions: Iterable[tuple[Knob, float]]
) -> dict[str, np.ndarray]:
    """Returns all parameters with knobs at positions; those of one parameter add up, as far as it stays valid."""
    offsets = {}
    for knob, position in positions:
        offsets[knob.parameter] = offsets.get(knob.parameter, 0) + np.float32(position) * knob.direction
    return {**default, **jax.device_get(valid_values(facts, default, offsets))}


def format_value(value: float) -> str:
    """Formats a value of a knob or a parameter for tables and figures."""
    # Rounding leaves tiny numbers where a level is zero, and adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, 7) + 0.0:.3g}"


def _moves(facts: Facts, knob: Knob, parameters: Mapping[str, np.ndarray]) -> bool:
    default = parameters[knob.parameter]
    ends = (turned(facts, parameters, [(knob, end)])[knob.parameter] for end in (knob.low, knob.high))
    return any((end != default).any() for end in ends)


def _single(name: str, facts: isp.Parameter, value: np.ndarray) -> list[Knob]:
    """Makes a knob for each value of a parameter."""
    low, high = _limits(facts, value)
    knobs = []
    for place, title in zip(np.ndindex(*value.shape), facts.element_names(name, value.shape), strict=True):
        direction = np.zeros_like(value)
        direction[place] = 1
        ends = (float(low[place]), float(high[place]))
        knobs.append(Knob(title, name, facts, direction, float(value[place]), *ends, facts.unit or "value"))
    return knobs


def _joint(name: str, facts: isp.Parameter, value: np.ndarray) -> list[Knob]:
    """Makes a knob for all values of a vector together; those of a matrix have no direction in common."""
    if value.ndim != 1 or value.size < 2:
        return []
    kind, default = ("factor on", 1.0) if facts.scale == "log" else ("shift of", 0.0)
    # Units are in the singular, but for those that have none, such as pixels.
    unit = facts.unit or "value"
    quantity = f"{kind} all {unit if unit.endswith('s') else unit + 's'}"
    low, high = _limits(facts, value)
    return [Knob(name, name, facts, np.ones_like(value), default, float(low.max()), float(high.min()), quantity)]


def _strength(name: str, facts: isp.Parameter, kernel: np.ndarray) -> Knob:
    """Makes a knob from a kernel that changes nothing to this one, and beyond."""
    direction = ((kernel - np.array(facts.neutral)) / facts.width).astype(kernel.dtype)
    return Knob(name, name, _STRENGTH, direction, 1.0, -1.0, _GREATEST_STRENGTH - 1, _STRENGTH.unit)


def _limits(facts: isp.Parameter, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the greatest offset of each value."""
    low, high = (np.broadcast_to(np.asarray(limit), value.shape) for limit in facts.offset_limits(value))
    return np.where(np.isinf(low), -_FARTHEST, low), np.where(np.isinf(high), _FARTHEST, high)
