"""A finished model in one file, model.safetensors: its arrays, and in the metadata all that is needed to use them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from r2l_jax.data.files.decoding import reading
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing
from r2l_jax.training.about import About, checked

NAME = "model.safetensors"

_FORMAT = "r2l_jax 1"
_FIELDS = tuple(field.name for field in msgspec.structs.fields(About))


def write(target: pathlib.Path, arrays: Mapping[str, np.ndarray], about: About, identity: str) -> None:
    """Writes a model.

    Args:
        target: the file.
        arrays: the variables by their dotted paths.
        about: what is known of the model; each field becomes an entry of the metadata, as JSON.
        identity: the hash of the model.
    """
    fields = {**msgspec.to_builtins(about), "identity": identity}
    metadata = {"format": _FORMAT, **{name: json.dumps(value) for name, value in fields.items()}}
    with replacing(target) as part:
        safetensors.numpy.save_file(dict(arrays), part, metadata)


def read(source: pathlib.Path) -> tuple[About, dict[str, Any], str]:
    """Reads a model that `write` has written, or somebody else: nothing in the file is trusted.

    Returns:
        What is known of the model, its arrays in nested dicts by their paths, and its identity as recorded.

    Raises:
        InputError: the file cannot be read, is damaged, or is no such model; the message starts with the path.
    """
    with reading(source, "model in safetensors"), safetensors.safe_open(source, "np") as file:
        about, identity = _described(file.metadata() or {})
        arrays: dict[str, Any] = {}
        for name in file.keys():  # noqa: SIM118 -- no dict
            _put(arrays, name, file.get_tensor(name))
        return about, arrays, identity


def _described(metadata: Mapping[str, str]) -> tuple[About, str]:
    """Returns what the metadata says of the model, and its identity."""
    if metadata.get("format") != _FORMAT:
        raise InputError(
            f"no model that r2l_jax.load takes: its metadata has the format {metadata.get('format')!r:.40}, not "
            f"{_FORMAT!r} (earlier versions wrote the arrays alone: load the run's folder)"
        )
    fields = {}
    for name in (*_FIELDS, "identity"):
        if name not in metadata:
            raise InputError(f"its metadata lacks {name}")
        try:
            fields[name] = json.loads(metadata[name])
        except (ValueError, RecursionError):
            raise InputError(f"its metadata has {name}, which is no JSON") from None
    identity = fields.pop("identity")
    if not isinstance(identity, str):
        raise InputError("its metadata has identity, which is no text")
    return checked(fields, "its metadata has"), identity


def _put(arrays: dict[str, Any], name: str, array: np.ndarray) -> None:
    """Puts an array into nested dicts by its dotted path."""
    if array.dtype != np.float32:
        raise InputError(f"its array {name:.80} must be float32, got {array.dtype}")
    *path, last = name.split(".")
    for part in path:
        arrays = arrays.setdefault(part, {})
        if not isinstance(arrays, dict):
            raise InputError(f"its array {name:.80} lies in another one")
    if last in arrays:
        raise InputError(f"its array {name:.80} is there twice")
    arrays[last] = array
