"""Hashes everything that a processor's images depend on, except for the source of the packages."""

import functools
import hashlib
import inspect
import json
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from r2l_jax.named_code import is_from_file


def processor_hash(processor: nnx.Module) -> str:
    """Hashes a pipeline or another processor: its settings and the values of its variables."""
    stages = [
        {
            "name": stage.name,
            "function": described(stage.function),
            "parameters": {name: repr(parameter) for name, parameter in stage.parameters.items()},
            "options": described(stage.options),
        }
        for stage in getattr(processor, "stages", ())
    ]
    settings = {"stages": stages, "pattern": getattr(processor, "pattern", None)}
    digest = hashlib.sha256(json.dumps([settings, _type_name(processor)]).encode())
    for path, variable in nnx.to_flat_state(nnx.state(processor)):
        array = np.asarray(jax.device_get(variable[...]))
        digest.update(f"\n0 {'.'.join(map(str, path))} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def described(value: Any, outer: tuple[int, ...] = ()) -> Any:
    """Describes an option or a function as JSON values; `outer` has the ids of what contains it, to end recursion.

    The description of a function is its name, the values that it captures, its defaults and, in a user's file, the
    globals that it refers to.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in outer:
        return "recursive"
    outer = (*outer, id(value))
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return ["partial", *(described(each, outer) for each in (value.func, value.args, value.keywords))]
    if isinstance(value, Mapping):
        return [[described(name, outer), described(each, outer)] for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [described(each, outer) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((described(each, outer) for each in value), key=json.dumps)
    function = inspect.unwrap(value) if callable(value) else None
    if inspect.isfunction(function):
        captured = [cell.cell_contents for cell in function.__closure__ or ()]
        # The globals of the packages' own functions are part of the packages' source. From Python 3.13 on, they come in
        # the order of a set, which differs from process to process.
        referred = sorted(inspect.getclosurevars(function).globals.items()) if is_from_file(function) else []
        held = captured, function.__defaults__, function.__kwdefaults__, referred
        return [f"{function.__module__}.{function.__qualname__}", *(described(each, outer) for each in held)]
    if hasattr(value, "__dict__") and vars(value):
        return [_type_name(value), described(vars(value), outer)]
    # The default repr shows an object's address, so stored results that depend on such an object are never found.
    return repr(value)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
