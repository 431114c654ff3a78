"""Checkpoints with Orbax: the last and the best state of each fold."""

import contextlib
import errno
import logging
import operator
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from r2l_jax.devices.hosts import is_first
from r2l_jax.errors import InputError
from r2l_jax.training.steps import TrainState

PyTree = Any

# The sort key of epochs from the worst to the best, see `train.FoldTraining`.
Quality = list[float]

_PROGRESS, _OUTCOMES = "progress", "outcomes"

# The folder to which Orbax moves discarded checkpoints. If it deleted them in place, a kill could leave parts of them.
_REMOVED = "removed"


class Checkpoints(contextlib.AbstractContextManager):
    """Writes the states of a fold while training continues, and keeps the last and the best of them.

    A checkpoint is the folder `<step>/`, which appears complete or not at all. It holds the `model`, the `progress`
    (the rest of the state), the `history` of the epochs so far, and as `metrics` the quality of this epoch; within an
    epoch, it also holds the `outcomes` of the samples so far. Leaving the context waits until everything is on disk.
    """

    def __init__(self, folder: pathlib.Path, enabled: bool = True):
        self._folder = folder
        with _one_line(f"{folder} cannot be resumed; start over with `overwrite`"):
            self._manager = _manager(folder) if enabled else None
        self._clear()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoints":
        self._open.enter_context(_silent())
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        # A checkpoint error would hide the earlier error.
        with self._open, contextlib.suppress(InputError) if kind else contextlib.nullcontext(), self._writing():
            if self._manager is not None:
                self._manager.close()
                self._clear()

    @property
    def found(self) -> bool:
        """Whether there is a last checkpoint to continue from."""
        return self._manager is not None and self._manager.latest_step() is not None

    def save(
        self, state: TrainState, history: Sequence[Mapping], quality: Quality | None, outcomes: Mapping | None = None
    ) -> None:
        """Starts to write a checkpoint, which becomes the last one once it is complete.

        `quality` belongs to the epoch that ended in this state; None within an epoch, or without validation.
        """
        if self._manager is None:
            return
        items = dict[str, Any](
            model=ocp.args.StandardSave(nnx.to_pure_dict(state.model)),
            progress=ocp.args.StandardSave(_progress(state)),
            history=ocp.args.JsonSave(list(history)),  # pyright: ignore[reportArgumentType]  # JSON holds lists as well.
        )
        if outcomes:
            items[_OUTCOMES] = ocp.args.StandardSave(dict(outcomes))
        metrics = None if quality is None else {"quality": quality}
        with self._writing():
            self._manager.wait_until_finished()
            self._clear()
            self._manager.save(int(state.step), metrics=metrics, args=ocp.args.Composite(**items))

    def restore(self, state: TrainState) -> tuple[TrainState, list[dict], dict[str, np.ndarray]]:
        """Returns the state, history and outcomes of the last checkpoint; without one, the given state.

        A finished run has dropped its optimizer state; the given one is then kept.
        """
        if self._manager is None or (step := self._manager.latest_step()) is None:
            return state, [], {}
        items: dict[str, Any] = {
            "model": ocp.args.StandardRestore(nnx.to_pure_dict(state.model)),
            "history": ocp.args.JsonRestore(),
        }
        optional = {_PROGRESS: ocp.args.StandardRestore(_progress(state)), _OUTCOMES: ocp.args.StandardRestore()}
        items |= {name: item for name, item in optional.items() if (self._folder / str(step) / name).is_dir()}
        with _one_line(f"{self._folder} cannot be resumed; start over with `overwrite`"):
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        nnx.replace_by_pure_dict(state.model, restored["model"])
        progress = restored.get(_PROGRESS) or {"step": jax.device_put(np.int32(step), state.step.sharding)}
        return state.replace(**progress), restored["history"], jax.device_get(restored.get(_OUTCOMES) or {})

    def _clear(self) -> None:
        if self._manager is not None and is_first():
            shutil.rmtree(self._folder / _REMOVED, ignore_errors=True)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        reason = "a checkpoint cannot be written; the same command resumes from the last checkpoint"
        return _one_line(f"{self._folder}: {reason}")


def drop_optimizer(folder: pathlib.Path) -> None:
    """Removes the optimizer's state, which is most of a checkpoint, from the checkpoints of a finished run."""
    # Renamed first, so that the progress of a checkpoint is complete or absent.
    for progress in folder.glob(f"[0-9]*/{_PROGRESS}"):
        progress.rename(progress.with_name(f".{_PROGRESS}"))
    for dropped in folder.glob(f"[0-9]*/.{_PROGRESS}"):
        shutil.rmtree(dropped)


@contextlib.contextmanager
def _one_line(message: str) -> Iterator[None]:
    """Turns errors of Orbax and TensorStore into one line, and hides their messages."""
    try:
        with _silent():
            yield
    except Exception as error:
        said = str(error) or type(error).__name__
        # TensorStore repeats the path several times before it quotes the system.
        full = [reason for reason in map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)) if reason in said]
        raise InputError(f"{message} ({[*full, *said.splitlines()][0]:.200})") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hides what Orbax and TensorStore print of the errors that they raise."""
    logger, shown = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def hook(unraisable) -> None:
        # Orbax ends at the first file that cannot be written; TensorStore then reports each other one to nobody.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = shown


def _progress(state: TrainState) -> PyTree:
    return {"step": state.step, "opt_state": state.opt_state, "sums": state.sums}


def _manager(folder: pathlib.Path, reads_only: bool = False) -> ocp.CheckpointManager:
    key: Any = operator.itemgetter("quality")  # declared as a number, but only used for sorting
    best = BestN(get_metric_fn=key, n=1, keep_checkpoints_without_metrics=False)
    options: dict[str, Any] = {"read_only": True, "create": False}
    if not reads_only:
        kept = AnyPreservationPolicy([LatestN(1), best])
        options = {"cleanup_tmp_directories": True, "preservation_policy": kept, "todelete_subdir": _REMOVED}
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(best_fn=key, **options),
        item_handlers={
            **{name: ocp.StandardCheckpointHandler() for name in ("model", _PROGRESS, _OUTCOMES)},
            "history": ocp.JsonCheckpointHandler(),
        },
    )


def stored_model(folder: pathlib.Path, sharding: jax.sharding.Sharding, checkpoint: str, where: str) -> PyTree:
    """Loads the model of the best or the last checkpoint of a fold; `where` names the run in an error."""
    reading = _one_line(f"{where} has no readable checkpoint")
    with reading, _manager(folder / "checkpoints", reads_only=True) as manager:
        step = manager.best_step() if checkpoint == "best" else manager.latest_step()
        if step is not None:
            target = jax.tree.map(
                lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
                dict(manager.item_metadata(step).model.tree),
            )
            return manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(target))).model
    raise InputError(f"{where} has no {checkpoint} checkpoint")
