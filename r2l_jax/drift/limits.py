"""Limits on a camera: ranges of drifts and of a pipeline's parameters, in physical units."""

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

import isp
from isp.sensor_drift import QUANTITIES
from r2l_jax.drift import states
from r2l_jax.drift.search.knobs import Knob
from r2l_jax.errors import InputError
from r2l_jax.training.run import Run

# The folder of a run, and the file in it, with the statement about its operating envelope.
FOLDER, FILE = "envelope", "envelope.json"

# The prefix of a pipeline's parameters; other names are those of `isp.sensor_drift.QUANTITIES`.
PIPELINE = "pipeline."

# The distributions of values by the scale of their parameter.
SCALES = {"linear": "uniform", "log": "log-uniform"}

# Differences of values below this are rounding.
_ROUNDING = 1e-9

_DEFAULT = {
    "exposure": (-1.0, 0.3),
    "red_gain": (-0.25, 0.25),
    "blue_gain": (-0.25, 0.25),
    "lamp_color": (-30.0, 30.0),
    "black_level": (-40.0, 40.0),
    "vignetting": (0.0, 0.5),
    "defocus": (0.0, 0.5),
    "read_noise": (1.0, 2.0),
    "photon_noise": (1.0, 2.0),
}

# The default limits of gamma and of the sharpening strength, as factors on their values.
_OF_PIPELINE = {"pipeline.gamma_correct": (0.9, 1.1), "pipeline.sharpening_filter": (0.75, 1.25)}


class Limit(NamedTuple):
    """The least and the greatest value of one quantity, the value that changes nothing, and the distribution."""

    low: float
    high: float
    unit: str = ""
    neutral: float = 0.0
    distribution: str = "uniform"

    def at(self, share: np.ndarray | float) -> Any:
        """Computes the values at shares of the distribution from 0 to 1."""
        if self.distribution == "log-uniform":
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)

    def share_of(self, value: float) -> float:
        """Returns the share of a value, the inverse of `at`, from 0 to 1."""
        value, low, high = self._spaced(value, self.low, self.high)
        return float(np.clip((value - low) / (high - low), 0, 1)) if high > low else 0.0

    def reach(self, value: float) -> float:
        """Computes how far a value is from the neutral one: 1 at the limit on its side, and more beyond the limits.

        It is infinite beyond limits at or on the other side of the neutral value.
        """
        value, low, high, neutral = self._spaced(value, self.low, self.high, self.neutral)
        end = high if value > neutral else low
        share = (value - neutral) / (end - neutral) if (value - neutral) * (end - neutral) > 0 else 0.0
        if low - _ROUNDING <= value <= high + _ROUNDING:
            return min(share, 1.0)
        return share if share > 1 else np.inf

    def _spaced(self, *values: float) -> list[float]:
        """Returns values on the scale of their uniform distribution."""
        return [math.log(max(each, _ROUNDING)) for each in values] if self.distribution == "log-uniform" else [*values]


Limits = Mapping[str, Limit]


def possible(camera: isp.Camera, knobs: Mapping[str, Knob]) -> dict[str, Limit]:
    """Returns the widest limits of all quantities that a camera and a pipeline have."""
    found = {}
    for name, each in QUANTITIES.items():
        if camera.pattern != isp.cfa.MONO or not each.needs_colors:
            low, high, scale = each.parameter.low, each.parameter.high, SCALES[each.parameter.scale]
            found[name] = Limit(low, high, each.parameter.unit, each.neutral, scale)
    found["bits"] = found["bits"]._replace(neutral=float(isp.sensor.noise_of(camera).bits))
    for name, knob in knobs.items():
        low, high = sorted((knob.value(knob.low), knob.value(knob.high)))
        found[PIPELINE + name] = Limit(low, high, knob.quantity, knob.default, SCALES[knob.declaration.scale])
    return found


def read(name: str | Mapping[str, Any], widest: Limits) -> dict[str, Limit]:
    """Reads limits, in a JSON file or a mapping, or returns the "default" ones of those that are possible.

    The file has an object with a value for each quantity, `[low, high]` or an object with `low`, `high` and, if it is
    not uniform, the `distribution`; or an object with such `limits`, as `evaluate.py --envelope` writes it. Factors are
    log-uniform by default.

    Raises:
        InputError: the file is missing or damaged, or a limit is not valid.
    """
    where = f"`envelope={name}`" if isinstance(name, str) else "`envelope`"
    if name == "default":
        of_pipeline = {
            key: tuple(widest[key].neutral * share for share in shares)
            for key, shares in _OF_PIPELINE.items()
            if key in widest
        }
        return {
            key: widest[key]._replace(low=low, high=high)
            for key, (low, high) in (_DEFAULT | of_pipeline).items()
            if key in widest
        }
    found: Any = states.read_json(name, "envelope") if isinstance(name, str) else name
    found: Any = found.get("limits", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not found:
        raise InputError(f'{where} has no limits: it must be an object such as {{"exposure": [-1, 0.3]}}')
    return {key: _limit(f"{where}: {key}", value, widest, key) for key, value in found.items()}


def _limit(where: str, given: Any, widest: Limits, name: str) -> Limit:
    if name not in widest:
        reason = "needs a sensor with color filters" if name in QUANTITIES else f"is not one of {', '.join(widest)}"
        raise InputError(f"{where} {reason}")
    valid = widest[name]
    is_pair = isinstance(given, list | tuple) and len(given) == 2
    given = dict(zip(("low", "high"), given, strict=True)) if is_pair else given
    try:
        ends = {"distribution": valid.distribution, **given, "unit": valid.unit, "neutral": valid.neutral}
        limit = Limit(**ends)
        low, high = msgspec.convert((limit.low, limit.high), tuple[float, float])
    except (TypeError, msgspec.ValidationError):
        raise InputError(f"{where} must be [low, high], got {json.dumps(given)}") from None
    distribution = limit.distribution
    if distribution not in SCALES.values():
        raise InputError(f"{where}: distribution must be one of {', '.join(SCALES.values())}, got {distribution!r}")
    if not -np.inf < low <= high < np.inf:
        raise InputError(f"{where} must have the lower limit first, got {low:g} and {high:g}")
    if low < valid.low or high > valid.high:
        raise InputError(f"{where} must be from {valid.low:g} to {valid.high:g} {valid.unit}, got {low:g} to {high:g}")
    if distribution == "log-uniform" and low <= 0:
        raise InputError(f"{where} must be positive to be log-uniform, got {low:g}")
    return limit._replace(low=low, high=high)


def written(limits: Limits) -> dict[str, dict[str, Any]]:
    """Returns limits as `read` takes them."""
    return {name: limit._asdict() for name, limit in limits.items()}


def stated(run: Run) -> dict[str, Any] | None:
    """Returns the result of `evaluate.py --envelope` if it covers all models of a run, else None."""
    folder = run.folds[0].folder
    for place in (folder, *folder.parents[:2]):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            found = json.loads((place / FOLDER / FILE).read_text())
            is_whole = {"limits", "tolerance", "fraction", "holds"} <= found.keys()
            if is_whole and {fold.identity for fold in run} <= set(found["models"]):
                return found
    return None


def outside(statement: Mapping[str, Any], drifts: Mapping[str, float]) -> list[str]:
    """Returns the quantities outside the limits of a statement if only these drifts have changed them."""
    limits = {name: Limit(**limit) for name, limit in statement["limits"].items()}
    return [name for name, reach in reaches(limits, drifts).items() if reach > 1]


def reaches(limits: Limits, drifts: Mapping[str, float]) -> dict[str, float]:
    """Computes the reach of all quantities of a camera with these drifts, see `Limit.reach`.

    Quantities without a drift are neutral, and those without a limit must be.
    """
    neutral = {name: QUANTITIES[name].neutral if name in QUANTITIES else 0.0 for name in drifts}
    every = {name: Limit(value, value, neutral=value) for name, value in neutral.items()} | dict(limits)
    return {name: limit.reach(drifts.get(name, limit.neutral)) for name, limit in every.items()}


def in_words(written: Mapping[str, Mapping[str, Any]]) -> str:
    """Lists `written` limits, such as "exposure -1 to 0.3 stops, red_gain -0.5 to 0.5 stops"."""
    return ", ".join(
        f"{name} {limit['low']:.3g} to {limit['high']:.3g} {limit['unit']}".strip() for name, limit in written.items()
    )


def percent(fraction: float) -> str:
    """Formats a fraction as a percentage, rounded down."""
    return f"{math.floor(1000 * fraction + 1e-6) / 10:g}%"
