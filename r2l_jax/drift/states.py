"""Reads camera states: text such as "exposure=-1,defocus=0.5", or JSON such as {"exposure": -1, "defocus": 0.5}.

`str(state)` prints the text, and `state.given` is the JSON object.
"""

import json
from collections.abc import Mapping
from typing import Any

from isp import CameraState
from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.errors import InputError


def read(given: str | Mapping[str, Any], argument: str) -> CameraState:
    """Reads a state from text, from the path of a JSON file, or from the content of one.

    Names are those of the functions of `isp.sensor_drift` and of `QUANTITIES` there. Whether values are valid depends
    on the camera, see `CameraState.check`.

    Raises:
        InputError: no state. The message begins with the argument.
    """
    amounts, where = given, f"`{argument}`"
    if isinstance(given, str):
        where = f"`{argument}={given}`"
        amounts = read_json(given, argument) if given.endswith(".json") else _amounts(given, where)
    if not isinstance(amounts, Mapping) or not amounts:
        raise InputError(f'{where} must be an object such as {{"exposure": -1}}, got {json.dumps(amounts)}')
    try:
        return CameraState.named({name: _number(name, value) for name, value in amounts.items()})
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def read_json(path: str, argument: str) -> Any:
    """Reads a JSON file, whose errors begin with the argument."""
    try:
        with reading(path):
            return json.loads(read_text(path))
    except InputError as error:
        raise InputError(f"`{argument}={path}`: {str(error).removeprefix(f'{path}: ')}") from None


def _amounts(text: str, where: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    if wrong := [name for name, equals, _ in parts if not equals]:
        raise InputError(f"{where} must be drifts such as defocus=1,exposure=-0.5, got {wrong[0]!r} without an amount")
    names = [name.strip() for name, *_ in parts]
    if len({*names}) < len(names):
        raise InputError(f"{where} must name each drift once")
    return {name: amount for name, (*_, amount) in zip(names, parts, strict=True)}


def _number(name: str, value: Any) -> float:
    try:
        # float() would take true for 1.
        return float("true" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
