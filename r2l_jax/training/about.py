"""The description of a finished model: all that is needed, besides its arrays, to use it without its run and data."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from flax import nnx

import isp
from r2l_jax.config import PUBLISHED_SETS, SYNTHETIC_SETS, SYNTHETIC_SIZE, TrainConfig
from r2l_jax.model.tasks import TASKS
from r2l_jax.runtime.errors import InputError

Side = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Shape = Annotated[list[Side], msgspec.Meta(min_length=2, max_length=3)]
TaskName = Literal["classification", "segmentation"]


class PipelineFile(msgspec.Struct):
    """The file of the user's pipeline."""

    file: str
    function: str
    sha256: str


class About(msgspec.Struct, kw_only=True):
    """Describes a finished model.

    Attributes:
        task: "classification" or "segmentation".
        classes: the names of the classes; of segmentation, that of the object.
        camera: the camera that the processing started from, as `isp.Camera.to_json` writes it; None for images that
            are processed already.
        shape: of the mosaics of the training; None if it has not been recorded.
        white_level: by which the samples of files without levels of their own were divided; None is their full range.
        flags: the settings of the training, by name.
        pipeline: the file of the user's pipeline, if the processing comes from one.
        score: the score of this state on the validation samples.
        epoch: the epoch after which this is the state, from 0 on.
        checkpoint: which state of the run it is.
        fold: the number of the fold.
    """

    task: TaskName
    classes: list[str]
    camera: dict[str, Any] | None
    shape: Shape | None
    white_level: Annotated[float, msgspec.Meta(gt=0)] | None
    flags: dict[str, Any]
    pipeline: PipelineFile | None
    score: float
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    checkpoint: Literal["best", "last"]
    fold: Annotated[int, msgspec.Meta(ge=0)]


def about_run(metrics: Mapping[str, Any], fold: int, checkpoint: str, where: str) -> About:
    """Describes a state of a finished fold by its metrics.json; earlier versions recorded less.

    Args:
        metrics: the content.
        fold: the number of the fold.
        checkpoint: "best" or "last".
        where: says in an error which run it is.

    Raises:
        InputError: the file lacks something that every version has recorded.
    """
    try:
        task = metrics.get("task") or next(each.name for each in TASKS if f"val_{each.score}" in metrics)
        score = next(each.score for each in TASKS if each.name == task)
        found = {
            "task": task,
            "classes": metrics["classes"],
            "camera": metrics["camera"],
            "shape": metrics.get("shape") or _shape_by(metrics["flags"]),
            "white_level": metrics.get("white_level"),
            "flags": metrics["flags"],
            "pipeline": metrics.get("pipeline"),
            "score": metrics[f"best_val_{score}" if checkpoint == "best" else f"val_{score}"],
            "epoch": metrics["best_epoch"] if checkpoint == "best" else metrics["history"][-1]["epoch"],
            "checkpoint": checkpoint,
            "fold": fold,
        }
    except (LookupError, StopIteration) as error:
        missing = f"{error}" if isinstance(error, LookupError) else "the score"
        raise InputError(f"{where} is damaged: its metrics.json lacks {missing}") from None
    return checked(found, f"{where} is damaged: its metrics.json has")


def checked(found: Mapping[str, Any], start: str) -> About:
    """Returns what is described by values that come from a file.

    Args:
        found: the values by the names of the fields.
        start: begins the message of an error.

    Raises:
        InputError: a value has another type, or is no camera.
    """
    try:
        about = msgspec.convert(dict(found), About)
    except msgspec.ValidationError as error:
        raise InputError(f"{start} {str(error).replace('`', '').replace('$.', '')}") from None
    if not about.classes:
        raise InputError(f"{start} no classes")
    if not math.isfinite(about.score):
        raise InputError(f"{start} a score that is not finite")
    camera_of(about, start)
    return about


def camera_of(about: About, start: str = "a model has") -> isp.Camera | None:
    """Returns the camera that the processing started from.

    Raises:
        InputError: the values are no camera's; the message begins with `start`.
    """
    try:
        return None if about.camera is None else isp.Camera.from_json(json.dumps(about.camera))
    except ValueError as error:
        raise InputError(f"{start} no camera: {error}") from None


def identity_of(about: About, config: TrainConfig, arrays: Mapping[str, np.ndarray]) -> str:
    """Hashes a model: its arrays, the processing, the task and the names of the classes.

    Args:
        about: what is known of it.
        config: the settings of its training.
        arrays: its variables by their dotted paths.
    """
    named = config.processing.named_pipeline
    processing = config.processing.processing_mode if named is None else named.description
    meaning = [about.task, about.classes, about.camera, processing, config.attack.adv_noise_layer]
    digest = hashlib.sha256(json.dumps(meaning).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()


def named_arrays(state: nnx.State) -> dict[str, np.ndarray]:
    """Returns a model's variables by their dotted paths."""
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state)}


def _shape_by(flags: Mapping[str, Any]) -> Sequence[int] | None:
    """Returns the shape of the mosaics that earlier versions have not recorded, by the flags; None if it is open."""
    dataset = flags.get("dataset")
    if dataset in SYNTHETIC_SETS:
        side = flags.get("synthetic_size") or SYNTHETIC_SIZE
    elif dataset == "Folder":
        side = flags.get("tile_size")
    elif dataset in PUBLISHED_SETS and dataset != "DroneSegmentationFull":
        side = 256
    else:
        side = None
    return None if side is None else (side, side)
