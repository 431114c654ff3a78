"""Finished folds by their folders alone: their settings, and their models without the data."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from flax import nnx

from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.build import Inputs, make_model, unknown_statistics
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import NamedPipeline, Source
from r2l_jax.runtime import named_code
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, leaves, replace
from r2l_jax.training.record import read_metrics
from r2l_jax.training.stored import replace_parts

_PARTS = ("processor", "normalizer", "head")


def read(folder: pathlib.Path, where: str) -> dict[str, Any]:
    """Reads the metrics.json of a fold that is trained to its end.

    Args:
        folder: the fold's folder.
        where: says in an error which run it is, such as "--run=runs/a/b".

    Raises:
        InputError: the file cannot be read, or the fold is not trained to its end.
    """
    metrics = read_metrics(folder / "metrics.json", where)
    if not metrics["complete"]:
        raise InputError(f"{where} is not trained to its end: the command that began it goes on")
    return metrics


def settings_of(metrics: Mapping[str, Any], named: Mapping[str, NamedPipeline], where: str) -> TrainConfig:
    """Returns the settings of a training, with the name by which its pipeline is found now.

    A pipeline from a user's file needs a file of the same content: the original one in its place, or one of `named`. It
    is not run if this user has never named it, see `named_code`.

    Args:
        metrics: the recorded `flags`, and the `pipeline` if it came from a file.
        named: the user's pipelines, by name.
        where: says in an error which run it is.

    Raises:
        InputError: the settings are those of another version or damaged, or the pipeline's file is missing or changed.
    """
    known = {leaf.name for leaf in leaves(TrainConfig)}
    if unknown := sorted(set(metrics["flags"]) - known):
        raise InputError(f"{where} was trained by another version: it has the flags {', '.join(unknown)}")
    try:
        config = build(TrainConfig, metrics["flags"])
    except InputError as error:
        raise InputError(f"{where} is damaged: {error}") from None
    return replace(config, pipeline=_pipeline(config, metrics, named, where))


def _pipeline(
    config: TrainConfig, metrics: Mapping[str, Any], named: Mapping[str, NamedPipeline], where: str
) -> str | None:
    """Finds the pipeline that a fold was trained with, and returns the name by which it is found now."""
    if config.processing.pipeline is None or ".py" not in config.processing.pipeline:
        return config.processing.pipeline
    if not metrics.get("pipeline"):
        raise InputError(f"{where} is damaged: it lacks the file of {config.processing.flag}")
    recorded = Source(**{field: metrics["pipeline"][field] for field in ("file", "function", "sha256")})
    file, wanted = pathlib.Path(recorded.file), (recorded.function, recorded.sha256)
    for name, pipeline in named.items():
        if pipeline.identity == wanted:
            return name
    hint = f"name it by {'--' * where.startswith('--')}pipeline=<file>.py:{recorded.function}"
    if not named_code.is_named(recorded.sha256):
        raise InputError(
            f"{where} was trained with {file}, Python code that you have not named, which is not run: if you have read "
            f"the file and trust it, {hint}"
        )
    try:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{where} was trained with {file}, which cannot be read ({error.strerror}): {hint}") from None
    if content != recorded.sha256:
        raise InputError(
            f"{where} was trained with {file} of SHA-256 {recorded.sha256[:12]}, which is {content[:12]} now: "
            f"if you have the earlier file, {hint}"
        )
    return f"{file}:{recorded.function}"


def make(config: TrainConfig, inputs: RawDataset | Inputs, task: Task, stored: Any, where: str) -> RawToLogit:
    """Makes the model of a training from its arrays, in evaluation: batch norms use their running statistics.

    Args:
        config: the settings.
        inputs: the camera and the size of the mosaics that it was made for.
        task: the task.
        stored: the arrays, in nested dicts by the names of the attributes.
        where: says in an error where they come from.

    Raises:
        InputError: the arrays are not those of such a model.
    """
    model = nnx.eval_shape(lambda: make_model(config, inputs, task, nnx.Rngs(0), unknown_statistics()))
    model.eval()
    graph, state = nnx.split(model)
    replace_parts(state, stored, _PARTS, where)
    return nnx.merge(graph, state)
