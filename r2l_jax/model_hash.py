"""Hashes of a model's numbers and of all else that its logits depend on, beside the code."""

import hashlib
import json
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
    """What a processor's images depend on beside its numbers and the packages' source.

    The one place for whatever else a stage may depend on, such as a file of the user's that makes it.
    """
    stages = [
        {
            "name": stage.name,
            "function": f"{stage.function.__module__}.{stage.function.__qualname__}",
            "parameters": list(stage.parameters),
            "options": repr(stage.options),
        }
        for stage in getattr(processor, "stages", ())
    ]
    return {"stages": stages, "pattern": getattr(processor, "pattern", None)}


def _hash(settings: list[Any], parts: tuple[nnx.Module, ...]) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for number, part in enumerate(parts):
        for path, variable in nnx.to_flat_state(nnx.state(part)):
            array = np.asarray(jax.device_get(variable[...]))
            digest.update(f"\n{number} {'.'.join(map(str, path))} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
