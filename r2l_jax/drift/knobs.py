"""Knobs: single numbers that move a pipeline's parameters, as a camera's maker or a lens would.

A knob's position counts in natural ranges from the default, see `ranges`. All that a knob does is to move one parameter
along a straight line of offsets.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from r2l_jax.drift import elements
from r2l_jax.drift.ranges import moved, natural_range, offset_limits, valid_offsets

# Kernels of convolutions, which have a strength in place of weights to move one by one.
KERNELS = ("sharpening_filter", "gaussian_blur")

# How far weights move of which any value is valid, in natural ranges.
_FARTHEST = 4.0

_GREATEST_STRENGTH = 4.0

# What one number for all values of a parameter is, and where it stands at the default.
_JOINT = {"white_balance": ("factor on all gains", 1.0), "black_level": ("shift of all levels", 0.0)}

_QUANTITIES = {
    "white_balance": "gain",
    "black_level": "level",
    "colour_correction": "weight",
    "gamma_correct": "gamma",
}


class Knob(NamedTuple):
    """One number that moves a parameter.

    Attributes:
        name: what it is called, such as `white_balance.red`.
        parameter: what it moves.
        direction: the offsets of the parameter's values at position 1.
        default: the number at position 0, in its unit.
        low: the least position.
        high: the greatest.
        quantity: what the number is, such as a gain.
    """

    name: str
    parameter: str
    direction: np.ndarray
    default: float
    low: float
    high: float
    quantity: str

    def value(self, position: float) -> float:
        """The number at a position."""
        width = natural_range(self.parameter).width
        return self.default * math.exp(position) if width is None else self.default + width * position

    def position(self, value: float) -> float:
        """The position at which the number is that; undoes `value`."""
        return distance(self.parameter, self.default, value)


def distance(parameter: str, start: float, value: float) -> float:
    """How many natural ranges a number of a parameter lies above another; NaN for a gain of the other sign."""
    width = natural_range(parameter).width
    if width is not None:
        return (value - start) / width
    return math.log(value / start) if value * start > 0 else math.nan


def knobs_of(parameters: Mapping[str, np.ndarray]) -> dict[str, Knob]:
    """The knobs of a pipeline, by name.

    - Every single value of a parameter of at most nine, called as in `elements.names`: gains, levels, entries of the
      colour matrix, gamma, strengths and widths of filters.
    - `white_balance`: a factor on all gains, which is exposure. `black_level`: a shift of all levels.
    - `sharpening_filter` and `gaussian_blur`: a filter's strength, from 0, which changes nothing, by way of 1, the
      default kernel, to 4. A kernel in between is interpolated, one beyond is extrapolated.

    Unbounded weights move by up to four natural ranges, all others as far as they are valid. What cannot move, such as
    a gain of zero, has no knob.

    Args:
        parameters: the defaults of `isp.parametrized`, of `isp.static`, or of another pipeline with their names.
    """
    knobs = []
    for name, value in parameters.items():
        if name in KERNELS:
            knobs.append(_strength(name, value))
        elif value.size <= elements.MOST:
            knobs += _joint(name, value) + _single(name, value)
    return {knob.name: knob for knob in knobs if _moves(knob, parameters)}


def turned(default: Mapping[str, np.ndarray], positions: Iterable[tuple[Knob, float]]) -> dict[str, np.ndarray]:
    """All parameters with knobs at positions; those that move one parameter add up, as far as it stays valid."""
    offsets = {}
    for knob, position in positions:
        offsets[knob.parameter] = offsets.get(knob.parameter, 0) + np.float32(position) * knob.direction
    return {**default, **jax.device_get(moved(default, valid_offsets(default, offsets)))}


def _moves(knob: Knob, parameters: Mapping[str, np.ndarray]) -> bool:
    default = parameters[knob.parameter]
    ends = (turned(parameters, [(knob, end)])[knob.parameter] for end in (knob.low, knob.high))
    return any((end != default).any() for end in ends)


def _single(name: str, value: np.ndarray) -> list[Knob]:
    """A knob for each value of a parameter."""
    low, high = _limits(name, value)
    quantity = _QUANTITIES.get(name, "strength")
    knobs = []
    for place, title in zip(np.ndindex(*value.shape), elements.names(name, value.shape), strict=True):
        direction = np.zeros_like(value)
        direction[place] = 1
        knobs.append(Knob(title, name, direction, float(value[place]), float(low[place]), float(high[place]), quantity))
    return knobs


def _joint(name: str, value: np.ndarray) -> list[Knob]:
    """A knob for all values of a parameter together, if it has one."""
    if name not in _JOINT:
        return []
    quantity, default = _JOINT[name]
    low, high = _limits(name, value)
    return [Knob(name, name, np.ones_like(value), default, float(low.max()), float(high.min()), quantity)]


def _strength(name: str, kernel: np.ndarray) -> Knob:
    """A knob from a kernel that changes nothing to this one, and beyond."""
    identity = np.zeros_like(kernel)
    identity[tuple(side // 2 for side in kernel.shape)] = 1
    return Knob(name, name, kernel - identity, 1.0, -1.0, _GREATEST_STRENGTH - 1, "strength")


def _limits(name: str, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest offset of each value."""
    low, high = (np.broadcast_to(np.asarray(limit), value.shape) for limit in offset_limits(name, value))
    return np.where(np.isinf(low), -_FARTHEST, low), np.where(np.isinf(high), _FARTHEST, high)
