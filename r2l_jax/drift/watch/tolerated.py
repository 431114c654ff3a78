"""Compares the causes of a drift with what forensics found that a model tolerates."""

import math
from collections.abc import Callable, Mapping, Sequence

from r2l_jax.drift.results import Tolerances
from r2l_jax.drift.watch.results import Cause


def _factor(stops: float, value: float) -> float:
    return value * math.exp2(stops)


def _shift(numbers: float, value: float) -> float:
    # Data with a higher black level looks as if a lower one were subtracted.
    return value - numbers / (2**12 - 1)


# The knobs of the processing that act on an image as causes do, and the position of a knob that stands for a cause.
_KNOBS: Mapping[str, tuple[str, Callable[[float, float], float]]] = {
    "exposure": ("white_balance", _factor),
    "white_balance.red": ("white_balance.red", _factor),
    "white_balance.blue": ("white_balance.blue", _factor),
    "black_level": ("black_level", _shift),
}


def tolerated(causes: Sequence[Cause], tolerances: Sequence[Tolerances]) -> dict[str, bool]:
    """Tells which causes all models tolerate, as `forensics.py --check` tells it of a camera's calibration values.

    Each cause is compared by itself. Causes that no knob of the processing stands for are left out.

    Args:
        causes: the causes.
        tolerances: the tolerated intervals of each model.
    """
    found = {}
    for cause in causes:
        name, position = _KNOBS.get(cause.name, ("", _factor))
        knobs = [each.knobs[name] for each in tolerances if name in each.knobs]
        if knobs:
            found[cause.name] = all(knob.low <= position(cause.value, knob.value) <= knob.high for knob in knobs)
    return found
