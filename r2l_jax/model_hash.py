"""Hashes of a model's numbers and of all else that its logits depend on, beside the code."""

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from r2l_jax.model import RawToLogit


def model_hash(model: RawToLogit) -> str:
    """A hash of a model: its processing, and the numbers of all its parts by their paths."""
    parts = (model.processor, model.normalizer, model.head)
    return _hash([_settings(model.processor), *(type(part).__qualname__ for part in parts)], parts)


def processor_hash(processor: nnx.Module) -> str:
    """A hash of a pipeline, or of what stands in its place: its stages and its numbers."""
    return _hash([_settings(processor), type(processor).__qualname__], (processor,))


def _settings(processor: nnx.Module) -> dict[str, Any]:
    """What a processor's images depend on beside its numbers and the packages' source."""
    stages = [
        {
            "name": stage.name,
            "function": _described(stage.function),
            "parameters": {name: repr(facts) for name, facts in stage.parameters.items()},
            "options": {name: _described(value) for name, value in stage.options.items()},
        }
        for stage in getattr(processor, "stages", ())
    ]
    return {"stages": stages, "pattern": getattr(processor, "pattern", None)}


def _described(value: Any, outer: tuple[int, ...] = ()) -> Any:
    """Describes a function, and all that it holds on to, so that JSON can tell it from others.

    A function of the user's file is told by its module, which is called by the hash of the file's content
    (`pipelines.find_pipeline`). One that is made within another also depends on the values that it captures.
    """
    if id(value) in outer:
        return "recursive"
    outer = (*outer, id(value))
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return [str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array)).hexdigest()]
    if isinstance(value, functools.partial):
        return ["partial", *(_described(each, outer) for each in (value.func, value.args, value.keywords))]
    if isinstance(value, Mapping):
        return [[_described(name, outer), _described(each, outer)] for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [_described(each, outer) for each in value]
    function = inspect.unwrap(value) if callable(value) else None
    if not inspect.isfunction(function):
        # Of an object that shows its address, it is another in each process: what depends on it is made anew.
        return repr(value)
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [_described(each, outer) for each in (captured, function.__defaults__, function.__kwdefaults__)]
    return [f"{function.__module__}.{function.__qualname__}", *held]


def _hash(settings: list[Any], parts: tuple[nnx.Module, ...]) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for number, part in enumerate(parts):
        for path, variable in nnx.to_flat_state(nnx.state(part)):
            array = np.asarray(jax.device_get(variable[...]))
            digest.update(f"\n{number} {'.'.join(map(str, path))} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
