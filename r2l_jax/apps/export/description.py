"""The description of an exported model, model.json, and the camera that its processing has learned."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import isp
from r2l_jax.apps.export.parts import Part
from r2l_jax.drift.limits import stated
from r2l_jax.model.processors import Standardize
from r2l_jax.pipelines import camera_with, metering_of
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Run

# How an export sets its exposure and white balance, by whether the model was trained on parts of frames.
_METERING = {
    False: "by each raw image",
    True: "by each raw image, which must be a whole frame (export with `size`): training metered tiles by their frames",
}


def described(model: Run, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Describes a model and its exported parts, without their files."""
    camera, each, envelope = model.camera, [_trained(fold) for fold in model], stated(model)
    return {
        **(each[0] if len(each) == 1 else {"members": each}),
        "checkpoint": model.about.checkpoint,
        "task": model.task.title,
        "classes": list(model.classes),
        "processing": processing_of(model),
        "raw": None if camera is None else _mosaics(model, camera),
        "parts": {name: _interface(part, model) for name, part in parts.items()},
        **({} if envelope is None else {"envelope": envelope}),
    }


def processing_of(model: Run) -> str:
    """Returns the flag that chose the processing, without the folder of a file."""
    name, _, value = model.config.processing.flag.strip("`").partition("=")
    return f"{name}={pathlib.Path(value).name}"


def _trained(fold: Trained) -> dict[str, Any]:
    """Describes the training of one model, in which the models of an ensemble differ."""
    layer, test = fold.model.normalizer, Run([fold]).tested
    deviation = layer.std[...] if isinstance(layer, Standardize) else jnp.sqrt(layer.var[...] + layer.epsilon)
    return {
        "identity": fold.identity,
        "run": fold.config.tracking.run_name,
        "fold": fold.number,
        "epoch": fold.about.epoch,
        "score": {"name": fold.task.score.name, "value": fold.about.score, "samples": "validation"},
        **({} if test is None else {"test": test._asdict()}),
        # These normalize the head's images, per channel.
        "normalization": {"mean": layer.mean[...].tolist(), "standard_deviation": deviation.tolist()},
    }


def _mosaics(model: Run, camera: isp.Camera) -> dict[str, Any]:
    """Describes the raw images that the model takes: the samples of a file, divided by its white level.

    `white_level` is left out if no camera states one: then it is the file's own, or the range of its samples. After
    training on several cameras, `white_balance` has the gains of the reference camera, to which raw images are scaled.
    """
    white_level = model.about.white_level or camera.white_level
    return {
        "pattern": camera.pattern,
        "range": [0, 1],
        **({} if white_level is None else {"white_level": white_level}),
        "black_level": list(map(float, np.ravel(camera.black_level))),
        **({"white_balance": camera.white_balance} if model.cameras else {}),
        **({"metering": _METERING[model.about.in_parts]} if metering_of(model.model.processor) else {}),
    }


def _interface(part: Part, model: Run) -> dict[str, Any]:
    output: dict[str, Any] = {"name": part.output, "dtype": "float32"}
    several = model.task.outputs > 1
    if part.output == "logits" and model.task.has_distributions:
        output["probability"] = "softmax over the last axis" if several else "sigmoid"
    if part.output != "images" and model.task.has_masks and several:
        output["channels"] = list(model.classes)
    return {
        "input": {"name": part.input, "shape": ["B", *part.shape], "dtype": "float32"},
        "output": output,
        "parameters": {name: list(value.shape) for name, value in part.parameters.items()},
        "files": {},
    }


def learned_camera(model: Run) -> isp.Camera | None:
    """Returns the training camera with the learned values; None if no parameter started from the camera."""
    pipeline, camera = model.pipeline, model.camera
    if pipeline is None or camera is None or not any(parameter.camera for parameter in pipeline.declarations.values()):
        return None
    return camera_with(camera, pipeline, pipeline.parameters())
