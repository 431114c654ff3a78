"""Checkpoints with Orbax: the last and the best state of each fold."""

import contextlib
import errno
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from r2l_jax.runtime.errors import InputError, errors_only
from r2l_jax.runtime.hosts import on_first_process
from r2l_jax.training import model_file
from r2l_jax.training.steps import TrainState

PyTree = Any
Row = Mapping[str, Any]

# The quality of an epoch: its `score` and `loss`, each with the sign that makes more better, and its
# number, `epoch`. None for an epoch that was not validated.
Quality = Callable[[Row], dict[str, Any] | None]

_PROGRESS = "progress"

# Bytes that the many small files of a checkpoint take beside its numbers.
_SLACK = 2**18


def best_of(history: Sequence[Row], quality: Quality) -> Row | None:
    """Returns the epoch that is best by its score, among equals by its loss, and among equals again the first.

    Returns None if no epoch was validated.
    """
    ranked = [(_rank(found), row) for row in history if (found := quality(row)) is not None]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def out_of_patience(history: Sequence[Row], quality: Quality, patience: int) -> bool:
    """Returns whether the last `patience` validations have not improved on the best before them; never if it is 0."""
    best = best_of(history, quality)
    if not patience or best is None:
        return False
    since = [row for row in history if row["epoch"] > best["epoch"] and quality(row) is not None]
    return len(since) >= patience and since[-1] is history[-1]


def _rank(quality: Mapping[str, Any]) -> tuple[float, float, float]:
    """Returns a sort key that puts the best epoch last, and epochs without a valid score first."""
    score, loss = (float(quality.get(name, -math.inf)) for name in ("score", "loss"))
    first = -float(quality.get("epoch", math.inf))
    return -math.inf if math.isnan(score) else score, -math.inf if math.isnan(loss) else loss, first


class Checkpoints:
    """Writes the states of a fold while training continues, and keeps the last and the best of them.

    A checkpoint is the folder `<step>/`, which appears complete or not at all; only then are earlier ones removed. It
    holds four items: `model`, the variables by their paths; `progress`, the rest of the training state; `history`,
    the numbers of the epochs so far; `metrics`, how good this epoch is, and which one is the best. Only the last
    checkpoint keeps its `progress`. Leaving the context waits until everything saved is on the disk.

    Args:
        folder: where the checkpoints are, or will be.
        quality: how good an epoch is.
        enabled: whether anything is saved or found.
    """

    def __init__(self, folder: pathlib.Path, quality: Quality, enabled: bool = True):
        self._folder, self._quality = folder, quality
        self._manager = None
        if enabled:
            with _unreadable(f"{folder} cannot be continued; start anew with --overwrite"):
                self._manager = _open_manager(folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        if self._manager is None:
            return
        # An error of the checkpoint would hide the error before.
        with contextlib.suppress(InputError) if kind else contextlib.nullcontext():
            self._finish_saving()
        with _unwritable(self._folder):
            self._manager.close()

    @property
    def found(self) -> bool:
        """Whether there is a last checkpoint to continue from."""
        return self._manager is not None and self._manager.latest_step() is not None

    def save(self, state: TrainState, history: Sequence[Row], ends_epoch: bool = True) -> None:
        """Starts to write a checkpoint, which becomes the last one once it is complete.

        Args:
            state: the state after the last step.
            history: the numbers of the epochs so far.
            ends_epoch: whether the history's last epoch ended in this state, so that it may be the best.
        """
        if self._manager is None:
            return
        self._finish_saving()
        metrics = (self._quality(history[-1]) or {}) if ends_epoch else {}
        if (best := best_of(history, self._quality)) is not None:
            metrics = {**metrics, "best_epoch": best["epoch"]}
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(nnx.to_pure_dict(state.model)),
            progress=ocp.args.StandardSave(_progress(state)),
            history=ocp.args.JsonSave(list(history)),  # pyright: ignore[reportArgumentType]  # JSON holds lists as well.
        )
        on_first_process(lambda: self._check_disk(state))
        with _unwritable(self._folder):
            self._manager.save(int(state.step), metrics=metrics, args=items)

    def restore_last(
        self, state: TrainState, epochs: int, is_done: Callable[[list[dict]], bool] = lambda _: False
    ) -> tuple[TrainState, list[dict]]:
        """Returns the state and history of the last checkpoint, or `state` and no history without a checkpoint.

        A finished run may have dropped its optimizer's state; then `state` keeps its own.

        Args:
            state: a state of the same shapes.
            epochs: the epochs that the run is to have.
            is_done: tells of a history of fewer epochs whether it is the whole of a run.

        Raises:
            InputError: the checkpoint cannot be read, the best one is missing, or the optimizer's state is missing and
                epochs are still to come.
        """
        if self._manager is None or (step := self._manager.latest_step()) is None:
            return state, []
        whole = (self._folder / str(step) / _PROGRESS).is_dir()
        with _unreadable(f"{self._folder} cannot be continued; start anew with --overwrite"):
            best = _best_step(self._manager)
            items: dict[str, Any] = {
                "model": ocp.args.StandardRestore(nnx.to_pure_dict(state.model)),
                "history": ocp.args.JsonRestore(),
            }
            if whole:
                items[_PROGRESS] = ocp.args.StandardRestore(_progress(state))
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        history = restored["history"]
        if best is None and best_of(history, self._quality) is not None:
            raise InputError(f"{self._folder} lacks the checkpoint of the best epoch; start anew with --overwrite")
        if not whole and len(history) < epochs and not is_done(history):
            raise InputError(
                f"{self._folder} has dropped the optimizer's state after epoch {len(history)}, so that it cannot be "
                f"continued to epoch {epochs}; start anew with --overwrite, and with --keep_optimizer to keep it"
            )
        nnx.replace_by_pure_dict(state.model, restored["model"])
        if whole:
            return state.replace(**restored[_PROGRESS]), history
        return state.replace(step=jax.device_put(np.asarray(step, state.step.dtype), state.step.sharding)), history

    def _check_disk(self, state: TrainState) -> None:
        """Raises an InputError if a checkpoint does not fit on the disk: TensorStore would fail in many lines."""
        needed = _SLACK + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise InputError(
                f"{self._folder}: a checkpoint needs {needed} bytes, and only {free} are free on the disk; the same "
                "command resumes from the last checkpoint"
            )

    def _finish_saving(self) -> None:
        """Waits until the last checkpoint is complete, and then drops the progress of the one before."""
        assert self._manager is not None
        with _unwritable(self._folder):
            self._manager.wait_until_finished()
        if jax.process_index() == 0:
            _drop_progress(self._folder, self._manager.all_steps()[:-1])


def drop_optimizer(folder: pathlib.Path) -> None:
    """Removes the optimizer's state, which is most of a checkpoint, from the checkpoints of a finished run."""
    steps = [int(each.parent.name) for each in folder.glob(f"[0-9]*/{_PROGRESS}") if each.parent.name.isdigit()]
    _drop_progress(folder, steps)


def _drop_progress(folder: pathlib.Path, steps: Sequence[int]) -> None:
    # Moved away first: a checkpoint has its progress whole or not at all.
    for step in steps:
        with contextlib.suppress(FileNotFoundError):
            (folder / str(step) / _PROGRESS).rename(folder / f".{_PROGRESS}_{step}")
    for dropped in folder.glob(f".{_PROGRESS}_*"):
        shutil.rmtree(dropped, ignore_errors=True)


@contextlib.contextmanager
def _unreadable(message: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise on damaged or foreign files into one line."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{message} ({_reason(error):.200})") from error


@contextlib.contextmanager
def _unwritable(folder: pathlib.Path) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise where they cannot write into one line."""
    try:
        yield
    except Exception as error:
        goes_on = "the same command resumes from the last checkpoint"
        raise InputError(f"{folder}: a checkpoint cannot be written ({_reason(error):.200}); {goes_on}") from error


def _reason(error: Exception) -> str:
    message = str(error)
    # TensorStore repeats the path several times before it quotes the system.
    for known in map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        if known in message:
            return known
    return message.splitlines()[0] if message else type(error).__name__


def _progress(state: TrainState) -> PyTree:
    return {"step": state.step, "opt_state": state.opt_state, "sums": state.sums}


def _open_manager(folder: pathlib.Path, reads_only: bool = False) -> ocp.CheckpointManager:
    """Returns the manager of a folder of checkpoints, which keeps the last and the best."""
    key: Any = _rank  # declared to be a number, but only sorted by
    kept = [LatestN(1), BestN(get_metric_fn=key, n=1, keep_checkpoints_without_metrics=False)]
    writing: dict[str, Any] = {"cleanup_tmp_directories": True, "preservation_policy": AnyPreservationPolicy(kept)}
    reading: dict[str, Any] = {"read_only": True, "save_interval_steps": 0, "create": False}
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(best_fn=key, **(reading if reads_only else writing)),
        item_handlers={
            "model": ocp.StandardCheckpointHandler(),
            _PROGRESS: ocp.StandardCheckpointHandler(),
            "history": ocp.JsonCheckpointHandler(),
        },
    )


def _best_step(manager: ocp.CheckpointManager) -> int | None:
    """Returns the step of the best checkpoint; None if the last one says that another epoch was better, or none is."""
    best, last = manager.best_step(), manager.latest_step()
    if best is None or last is None:
        return None
    (of_best, of_last) = (manager.metrics(step) or {} for step in (best, last))
    return best if "epoch" in of_best and of_best["epoch"] == of_last.get("best_epoch") else None


def replace_parts(
    model: nnx.State,
    stored: PyTree,
    parts: tuple[str, ...],
    where: str,
    optional: tuple[str, ...] = (),
    resized: tuple[str, ...] = (),
) -> list[str]:
    """Replaces parts of a model, in place, with arrays from nested dicts.

    Args:
        model: the variables of a `RawToLogit`.
        stored: the arrays, by the names of the attributes.
        parts: which attributes to replace.
        where: names the arrays in an error, such as the flag of their run with its value.
        optional: variables of these parts that stay as they are if there are no such arrays.
        resized: layers of these parts that stay as they are if their shapes differ.

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

    A fold without checkpoints may have the file of a model, as one that was mended does.

    Args:
        folder: the fold's folder.
        sharding: where its arrays are placed.
        checkpoint: "best" or "last".
        where: names the run in an error.

    Raises:
        InputError: the checkpoint is missing or cannot be read.
    """
    checkpoints = folder / "checkpoints"
    # Orbax would warn that it opens a folder to read only.
    with errors_only("absl"), _unreadable(f"{where} holds no checkpoint that can be read"):
        if checkpoints.is_dir():
            with _open_manager(checkpoints, reads_only=True) as manager:
                step = _best_step(manager) if checkpoint == "best" else manager.latest_step()
                if step is not None:
                    target = jax.tree.map(
                        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
                        dict(manager.item_metadata(step).model.tree),
                    )
                    return manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(target))).model
    file = folder / model_file.NAME
    if not checkpoints.is_dir() and file.is_file():
        about, arrays, _ = model_file.read(file)
        if about.checkpoint == checkpoint:
            return jax.device_put(arrays, sharding)
    which = "checkpoint of a best epoch" if checkpoint == "best" else "last checkpoint"
    raise InputError(f"{where} holds no {which}")


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
