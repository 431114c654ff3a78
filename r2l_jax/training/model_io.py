"""Values of models: how files and checkpoints hold them, and the one way by which they come into a model."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from r2l_jax.data.files.decoding import reading
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import Known
from r2l_jax.results.files import write_safetensors
from r2l_jax.training.checkpoint import stored_model
from r2l_jax.training.record import Record

PyTree = Any

NAME = "model.safetensors"

# The statistics of clean images in the checkpoints of a fold that was trained with camera augmentation.
CLEAN = "clean.safetensors"

_FORMAT = "r2l_jax 2"


def restore(
    model: nnx.State,
    source: PyTree,
    parts: Sequence[str],
    where: str = "the model",
    optional: Sequence[str] = (),
    resized: Sequence[str] = (),
) -> list[str]:
    """Replaces all values in parts of a model, in place, with arrays from nested dicts keyed by attribute.

    Args:
        model: the state of a model, or its shapes.
        source: the arrays of the parts, such as `{"normalizer": {"mean": ..., "var": ...}}`; other parts are ignored.
        parts: the parts to replace, of "processor", "normalizer" and "head".
        where: names the source in an error, such as the argument of its run with its value.
        optional: variables that are kept if the source does not have them.
        resized: layers that are kept if their shapes differ.

    Returns:
        The resized layers that were kept.

    Raises:
        InputError: an array is missing, has another shape, or has no place in the model.
    """
    ours = nnx.to_pure_dict(model)
    loaded, stayed = {}, []
    for part in parts:
        own, theirs = ours.get(part, {}), source.get(part, {})
        kept = {name: value for name, value in own.items() if name in optional}
        differ = {
            name: own[name]
            for name in resized
            if name in own and name in theirs and _shapes(own[name]) != _shapes(theirs[name])
        }
        stayed += differ
        loaded[part] = kept | theirs | differ
        have, want = _shapes(loaded[part]), _shapes(own)
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise InputError(
                    f"{where} does not fit this run: {part}.{name} expects {want.get(name, 'no array')}, got "
                    f"{have.get(name, 'no array')}"
                )
    nnx.replace_by_pure_dict(model, ours | loaded)
    return stayed


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def stored_arrays(folder: pathlib.Path, sharding: jax.sharding.Sharding, checkpoint: str, where: str) -> PyTree:
    """Loads the arrays of a fold, from its checkpoints or, if it was adapted, from its file."""
    file = folder / NAME
    if (folder / "checkpoints").is_dir() or not file.is_file():
        return stored_model(folder, sharding, checkpoint, where)
    about, arrays, _ = read_file(file)
    if about.checkpoint != checkpoint:
        raise InputError(f"{where} has no {checkpoint} checkpoint")
    return jax.device_put(arrays, sharding)


def read_file(source: pathlib.Path) -> tuple[Record, PyTree, str]:
    """Reads a model file: its record, its nested arrays, and its identity."""
    with reading(source), safetensors.safe_open(source, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise InputError(
                f"the format in the metadata of a model file must be {_FORMAT!r}, got {metadata.get('format')!r:.40}"
            )
        about = Record.of(json.loads(metadata["about"]), "its metadata")
        if not about.complete:
            raise InputError("its training is incomplete")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        if wrong := [name for name, array in arrays.items() if array.dtype != np.float32]:
            raise InputError(f"the array {wrong[0]:.80} must be float32, got {arrays[wrong[0]].dtype}")
        return about, flax.traverse_util.unflatten_dict(arrays, sep="."), metadata["identity"]


def write_file(target: pathlib.Path, about: Record, arrays: dict[str, np.ndarray], identity: str) -> None:
    """Writes a model to one file: its record, its arrays by their dotted paths, and its identity."""
    write_safetensors(target, arrays, {"format": _FORMAT, "about": json.dumps(about.header), "identity": identity})


def named(known: Known, start: str) -> dict[str, np.ndarray]:
    """Returns the means and variances of layers by their names in a file, after `start`."""
    pairs = {name: zip(("mean", "var"), pair, strict=True) for name, pair in known.items()}
    return {f"{start}.{name}.{kind}": array for name, pair in pairs.items() for kind, array in pair}


def known_of_layers(nested: PyTree) -> Known:
    """Returns the means and variances of layers from the nested arrays of a file."""
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(nested, sep=".")
    layers = [name.removesuffix(".mean") for name in flat if name.endswith(".mean")]
    return {name: (flat[f"{name}.mean"], flat[f"{name}.var"]) for name in layers if f"{name}.var" in flat}


def stored_clean(folder: pathlib.Path, checkpoint: str) -> Known:
    """Loads the statistics of clean images of a fold, from its own file or from its model's, as after adapting."""
    if (file := folder / CLEAN).is_file():
        with reading(file):
            flat = safetensors.numpy.load_file(file)
        return known_of_layers(flax.traverse_util.unflatten_dict(flat, sep=".").get(checkpoint, {}))
    if not (folder / NAME).is_file():
        return {}
    about, arrays, _ = read_file(folder / NAME)
    return known_of_layers(arrays.get("clean", {})) if about.checkpoint == checkpoint else {}
