"""Checkpoints by Orbax: the last and the best state of each fold, and parts of earlier runs' models."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from r2l_jax.runtime.errors import InputError
from r2l_jax.training.folds import fold_folders, fold_number
from r2l_jax.training.steps import TrainState

PyTree = Any


class Checkpoints:
    """Writes the last and the best state of a fold while training continues.

    A checkpoint holds three items: `model`, the variables by their paths; `progress`, what else training needs to go
    on; `history`, the numbers of the epochs so far. Leaving the context waits until all that was saved is on the disk.

    Args:
        folder: where `last/` and `best/` are, or will be.
        enabled: whether anything is saved or found.
    """

    def __init__(self, folder: pathlib.Path, enabled: bool = True):
        self._managers = {kind: _manager(folder / kind) for kind in ("last", "best") if enabled}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        for manager in self._managers.values():
            manager.close()

    @property
    def found(self) -> bool:
        """Whether there is a last checkpoint to continue from."""
        manager = self._managers.get("last")
        return manager is not None and manager.latest_step() is not None

    def save(self, kind: str, state: TrainState, history: list[dict]) -> None:
        """Starts to write a checkpoint, "last" or "best"; it replaces the earlier one once it is complete."""
        if manager := self._managers.get(kind):
            manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(nnx.to_pure_dict(state.model)),
                    progress=ocp.args.StandardSave(_progress(state)),
                    history=ocp.args.JsonSave(history),  # pyright: ignore[reportArgumentType]  # JSON holds lists as well.
                ),
            )

    def restore_last(self, state: TrainState) -> tuple[TrainState, list[dict]]:
        """Returns the state and history of the last checkpoint, or `state` and no history without a checkpoint."""
        if not self.found:
            return state, []
        manager = self._managers["last"]
        with _unreadable(f"{manager.directory} cannot be continued; start anew with --overwrite"):
            restored = manager.restore(
                manager.latest_step(),
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(nnx.to_pure_dict(state.model)),
                    progress=ocp.args.StandardRestore(_progress(state)),
                    history=ocp.args.JsonRestore(),
                ),
            )
        nnx.replace_by_pure_dict(state.model, restored["model"])
        return state.replace(**restored["progress"]), restored["history"]


@contextlib.contextmanager
def _unreadable(message: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise on damaged or foreign files into one line."""
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{message} ({reason:.200})") from error


def _progress(state: TrainState) -> PyTree:
    return {"step": state.step, "opt_state": state.opt_state, "sums": state.sums}


def _manager(folder: pathlib.Path) -> ocp.CheckpointManager:
    """The manager of one kind of checkpoints, of which one is kept."""
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=1,
            # Several processes wait for each other by name: the two kinds may save the same step at once.
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name),
        ),
        item_handlers={
            "model": ocp.StandardCheckpointHandler(),
            "progress": ocp.StandardCheckpointHandler(),
            "history": ocp.JsonCheckpointHandler(),
        },
    )


def fold_folder(uri: str, fold: int, flag: str) -> pathlib.Path:
    """Returns the folder of an earlier run's fold of the same number.

    The head of another fold has been trained on samples that this fold validates on. To use it all the same, name the
    folder of that fold.

    Args:
        uri: an earlier run's folder, or one of its folds' folders.
        fold: the fold of this run.
        flag: the flag that errors name.

    Raises:
        InputError: there is no such folder, or it holds no such fold.
    """
    root = pathlib.Path(uri)
    if fold_number(root) is not None:
        return root
    if (root / f"fold_{fold}").is_dir():
        return root / f"fold_{fold}"
    found = ", ".join(folder.name for folder in fold_folders(root)) or "no fold_* folder"
    reason = f"it has {found}" if root.is_dir() else "not found"
    raise InputError(f"--{flag}={uri} is no run's folder with a fold_{fold}: {reason}")


def load_parts(
    model: nnx.State, parts: tuple[str, ...], uri: str, fold: int, flag: str, optional: tuple[str, ...] = ()
) -> None:
    """Replaces parts of a model, in place, by those of an earlier run's best checkpoint, or of its last without a best.

    Args:
        model: the variables of a `RawToLogit`.
        parts: which of its attributes to replace.
        uri: an earlier run's folder, or one of its folds' folders.
        fold: the fold of this run.
        flag: what to call `uri` in an error.
        optional: variables of these parts that stay as they are if the earlier run has none.

    Raises:
        InputError: there is no checkpoint, or its variables are others.
    """
    with _unreadable(f"--{flag}={uri} holds no checkpoint that can be read"):
        stored = _stored_model(fold_folder(uri, fold, flag) / "checkpoints", jax.tree.leaves(model)[0].sharding)
    if stored is None:
        raise InputError(f"--{flag}={uri} holds no checkpoint")
    ours = nnx.to_pure_dict(model)
    loaded = {}
    for part in parts:
        kept = {name: value for name, value in ours.get(part, {}).items() if name in optional}
        loaded[part] = kept | stored.get(part, {})
        have, want = _shapes(loaded[part]), _shapes(ours.get(part, {}))
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise InputError(
                    f"--{flag}={uri} does not fit this run: its {part} has {name} {have.get(name, 'not at all')}, "
                    f"this run's {want.get(name, 'not at all')}"
                )
    nnx.replace_by_pure_dict(model, ours | loaded)


def _stored_model(checkpoints: pathlib.Path, sharding: jax.sharding.Sharding) -> PyTree | None:
    """Loads the model of the best checkpoint, or else of the last, onto this machine's devices; None without any."""
    for kind in ("best", "last"):
        if (checkpoints / kind).is_dir():
            with _manager(checkpoints / kind) as manager:
                if (step := manager.latest_step()) is not None:
                    target = jax.tree.map(
                        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
                        dict(manager.item_metadata(step).model.tree),
                    )
                    return manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(target))).model
    return None


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
