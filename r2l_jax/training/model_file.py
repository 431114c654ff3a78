"""A finished model in one file, model.safetensors: its arrays, and its description in the metadata."""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import flax.traverse_util
import msgspec
import numpy as np
import safetensors
from flax import nnx

import isp
from r2l_jax.data.files.decoding import reading
from r2l_jax.model.build import Architecture
from r2l_jax.model.tasks import TASKS
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_safetensors

NAME = "model.safetensors"

_FORMAT = "r2l_jax 1"

Side = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Shape = Annotated[list[Side], msgspec.Meta(min_length=2, max_length=3)]
TaskName = Literal["classification", "segmentation"]


class PipelineFile(msgspec.Struct):
    """The file of the user's pipeline, or of the user's head."""

    file: str
    function: str
    sha256: str


class About(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Describes a finished model.

    Attributes:
        task: "classification" or "segmentation".
        classes: the names of the classes, or the name of the object to segment.
        camera: the camera that the processing started from, as `isp.Camera.to_json` writes it; None for images that
            are processed already.
        cameras: the cameras of the training by name, if there were several.
        shape: the shape of the mosaics of the training.
        white_level: the divisor of samples from files without levels of their own; None is their full range.
        flags: the settings of the training, by name.
        pipeline: the file of the user's pipeline, if the processing comes from one.
        score: the score of this state on the validation samples.
        epoch: the epoch after which this is the state, from 0 on.
        checkpoint: which state of the run it is.
        fold: the number of the fold.
        mended: where the model came from, if it was mended after its training, see `training.mended`.
        head: the file of the user's head, if the model has one.
        weights: the hash of a frozen head's weights, which are not among the arrays.
    """

    task: TaskName
    classes: list[str]
    camera: dict[str, Any] | None
    shape: Shape
    white_level: Annotated[float, msgspec.Meta(gt=0)] | None
    flags: dict[str, Any]
    pipeline: PipelineFile | None
    score: float
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    checkpoint: Literal["best", "last"]
    fold: Annotated[int, msgspec.Meta(ge=0)]
    cameras: dict[str, dict[str, Any]] | None = None
    mended: dict[str, Any] | None = None
    head: PipelineFile | None = None
    weights: str | None = None


# The fields that files of earlier versions lack.
_OPTIONAL = ("cameras", "mended", "head", "weights")


def about_run(metrics: Mapping[str, Any], fold: int, checkpoint: str, where: str) -> About:
    """Describes a state of a finished fold from its metrics.json.

    Args:
        metrics: the content.
        fold: the number of the fold.
        checkpoint: "best" or "last".
        where: says in an error which run it is.

    Raises:
        InputError: the file lacks a number, or has a value of another type.
    """
    try:
        score = next(task.score for task in TASKS if task.name == metrics["task"])
        found = {
            **{name: metrics[name] for name in ("task", "classes", "camera", "shape", "white_level", "flags")},
            **{name: metrics.get(name) for name in ("pipeline", *_OPTIONAL)},
            "score": metrics[f"best_val_{score}" if checkpoint == "best" else f"val_{score}"],
            "epoch": metrics["best_epoch"] if checkpoint == "best" else metrics["history"][-1]["epoch"],
            "checkpoint": checkpoint,
            "fold": fold,
        }
    except LookupError as error:
        raise InputError(f"{where} is damaged: its metrics.json lacks {error}") from None
    return checked(found, f"{where} is damaged: its metrics.json has")


def checked(found: Mapping[str, Any], start: str) -> About:
    """Returns the description that a file holds.

    Args:
        found: the values by the names of the fields.
        start: begins the message of an error.

    Raises:
        InputError: a value has another type, or the camera is not valid.
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
    cameras_of(about, start)
    return about


def camera_of(about: About, start: str = "a model has") -> isp.Camera | None:
    """Returns the camera that the processing started from.

    Raises:
        InputError: the camera is not valid; the message begins with `start`.
    """
    try:
        return None if about.camera is None else isp.Camera.from_json(json.dumps(about.camera))
    except ValueError as error:
        raise InputError(f"{start} no camera: {error}") from None


def cameras_of(about: About, start: str = "a model has") -> dict[str, isp.Camera]:
    """Returns the cameras of the training by name, if there were several.

    Raises:
        InputError: a camera is not valid; the message begins with `start`.
    """
    try:
        return {name: isp.Camera.from_json(json.dumps(fields)) for name, fields in (about.cameras or {}).items()}
    except ValueError as error:
        raise InputError(f"{start} cameras, one of which is none: {error}") from None


def identity_of(about: About, architecture: Architecture, arrays: Mapping[str, np.ndarray]) -> str:
    """Hashes a model: its arrays, the processing, the task and the names of the classes.

    Args:
        about: the description of the model.
        architecture: the structure of the model.
        arrays: its variables by their dotted paths.
    """
    pipeline = architecture.pipeline
    processing = architecture.processing.processing_mode if pipeline is None else pipeline.description
    meaning = [about.task, about.classes, about.camera, processing, architecture.additive_layer]
    meaning += [] if about.cameras is None else [about.cameras]
    # Only where there is one, so that the identities of other models stay as they are.
    if (own := architecture.task.own) is not None:
        meaning += [*own.identity, own.weights(architecture.task.outputs)]
    digest = hashlib.sha256(json.dumps(meaning).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()


def named_arrays(state: nnx.State) -> dict[str, np.ndarray]:
    """Returns a model's variables by their dotted paths."""
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state)}


def write(target: pathlib.Path, arrays: Mapping[str, np.ndarray], about: About, identity: str) -> None:
    """Writes a model.

    Args:
        target: the file.
        arrays: the variables by their dotted paths.
        about: the description of the model; each field becomes an entry of the metadata, as JSON.
        identity: the hash of the model.
    """
    fields = {**msgspec.to_builtins(about), "identity": identity}
    metadata = {"format": _FORMAT, **{name: json.dumps(value) for name, value in fields.items()}}
    write_safetensors(target, arrays, metadata)


def read(source: pathlib.Path) -> tuple[About, dict[str, Any], str]:
    """Reads a model, and checks everything in the file, which may come from anybody.

    Returns:
        The description of the model, its arrays in nested dicts by their paths, and its identity as recorded.

    Raises:
        InputError: the file cannot be read, is damaged, or holds something else; the message starts with the path.
    """
    with reading(source), safetensors.safe_open(source, "np") as file:
        about, identity = _described(file.metadata() or {})
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        return about, _nested(arrays), identity


def _described(metadata: Mapping[str, str]) -> tuple[About, str]:
    """Returns the description of the model in the metadata, and its identity."""
    if metadata.get("format") != _FORMAT:
        raise InputError(
            f"no model that r2l_jax.load takes: its metadata has the format {metadata.get('format')!r:.40}, not "
            f"{_FORMAT!r}"
        )
    fields = {}
    for name in (*About.__struct_fields__, "identity"):
        if name not in metadata:
            if name in _OPTIONAL:
                continue
            raise InputError(f"its metadata lacks {name}")
        try:
            fields[name] = json.loads(metadata[name])
        except (ValueError, RecursionError):
            raise InputError(f"its metadata has {name}, which is not JSON") from None
    identity = fields.pop("identity")
    if not isinstance(identity, str):
        raise InputError("its metadata has identity, which is not text")
    return checked(fields, "its metadata has"), identity


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Puts arrays into nested dicts by their dotted paths."""
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise InputError(f"its array {name:.80} must be float32, got {array.dtype}")
    try:
        return flax.traverse_util.unflatten_dict(dict(arrays), sep=".")
    except (IndexError, TypeError):
        raise InputError("one of its arrays lies in another one") from None
