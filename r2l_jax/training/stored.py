"""Models in the checkpoints of earlier runs: the whole of one, or the parts that a run starts from."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.quiet import errors_only
from r2l_jax.training.checkpoint import best_step, open_manager, unreadable
from r2l_jax.training.folds import fold_folders, fold_number

PyTree = Any


def fold_folder(uri: str, fold: int, where: str) -> pathlib.Path:
    """Returns the folder of an earlier run's fold of the same number.

    The head of another fold has been trained on samples that this fold validates on. To use it all the same, name the
    folder of that fold.

    Args:
        uri: an earlier run's folder, or one of its folds' folders.
        fold: the fold of this run.
        where: what to call `uri` in an error, such as its flag with the value.

    Raises:
        InputError: there is no such folder, or it holds no such fold.
    """
    root = pathlib.Path(uri)
    # The folder that is meant, for a link of another name and for ".".
    if fold_number(root.resolve()) is not None:
        return root
    if (root / f"fold_{fold}").is_dir():
        return root / f"fold_{fold}"
    found = ", ".join(folder.name for folder in fold_folders(root)) or "no fold_* folder"
    reason = f"it has {found}" if root.is_dir() else "not found"
    raise InputError(f"{where} is no run's folder with a fold_{fold}: {reason}")


def load_parts(
    model: nnx.State,
    parts: tuple[str, ...],
    uri: str,
    fold: int,
    flag: str,
    optional: tuple[str, ...] = (),
    resized: tuple[str, ...] = (),
    checkpoint: str = "best",
) -> list[str]:
    """Replaces parts of a model, in place, by those of a checkpoint of an earlier run.

    Args:
        model: the variables of a `RawToLogit`.
        parts: which of its attributes to replace.
        uri: an earlier run's folder, or one of its folds' folders.
        fold: the fold of this run.
        flag: what to call `uri` in an error.
        optional: variables of these parts that stay as they are if the earlier run has none.
        resized: layers of these parts that stay as they are if their shapes differ.
        checkpoint: "best" or "last".

    Returns:
        The layers that stayed because their shapes differ.

    Raises:
        InputError: the checkpoint is missing or cannot be read, or its variables are others.
    """
    where = f"--{flag}={uri}"
    stored = stored_model(fold_folder(uri, fold, where), jax.tree.leaves(model)[0].sharding, checkpoint, where)
    return replace_parts(model, stored, parts, where, optional, resized)


def replace_parts(
    model: nnx.State,
    stored: PyTree,
    parts: tuple[str, ...],
    where: str,
    optional: tuple[str, ...] = (),
    resized: tuple[str, ...] = (),
) -> list[str]:
    """Replaces parts of a model, in place, by those of nested dicts of arrays.

    Args:
        model: the variables of a `RawToLogit`.
        stored: the arrays, by the names of the attributes.
        parts: which attributes to replace.
        where: says in an error where the arrays come from.
        optional: as for `load_parts`.
        resized: as for `load_parts`.

    Returns:
        The layers that stayed because their shapes differ.

    Raises:
        InputError: the names or the shapes differ.
    """
    ours = nnx.to_pure_dict(model)
    loaded, stayed = {}, []
    for part in parts:
        own, theirs = ours.get(part, {}), stored.get(part, {})
        kept = {name: value for name, value in own.items() if name in optional}
        differ = {
            name: own[name]
            for name in resized
            if name in own and name in theirs and _shapes(own[name]) != _shapes(theirs[name])
        }
        stayed += differ
        loaded[part] = kept | theirs | differ
        have, want = _shapes(loaded[part]), _shapes(ours.get(part, {}))
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise InputError(
                    f"{where} does not fit this run: its {part} has {name} {have.get(name, 'not at all')}, "
                    f"this run's {want.get(name, 'not at all')}"
                )
    nnx.replace_by_pure_dict(model, ours | loaded)
    return stayed


def stored_model(folder: pathlib.Path, sharding: jax.sharding.Sharding, checkpoint: str, where: str) -> PyTree:
    """Loads the model of the best or the last checkpoint of a fold onto this machine's devices.

    Args:
        folder: the fold's folder.
        sharding: where its arrays are placed.
        checkpoint: "best" or "last".
        where: says in an error whose checkpoint it is.

    Raises:
        InputError: the checkpoint is missing or cannot be read.
    """
    # Orbax would warn that it opens a folder to read only.
    with errors_only("absl"), unreadable(f"{where} holds no checkpoint that can be read"):
        stored = _stored_model(folder / "checkpoints", sharding, checkpoint)
    if stored is None:
        which = "checkpoint of a best epoch" if checkpoint == "best" else "last checkpoint"
        raise InputError(f"{where} holds no {which}")
    return stored


def _stored_model(checkpoints: pathlib.Path, sharding: jax.sharding.Sharding, checkpoint: str) -> PyTree | None:
    latest = ocp.CheckpointManager.latest_step
    # Version 0.1 kept the best and the last in folders of their own, without metrics.
    places = ((checkpoints, best_step if checkpoint == "best" else latest), (checkpoints / checkpoint, latest))
    for folder, find_step in places:
        if folder.is_dir():
            with open_manager(folder, reads_only=True) as manager:
                if (step := find_step(manager)) is not None:
                    target = jax.tree.map(
                        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
                        dict(manager.item_metadata(step).model.tree),
                    )
                    return manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(target))).model
    return None


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
