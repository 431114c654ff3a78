"""The description of an exported model, model.json, and the camera that its processing has learned."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import isp
from r2l_jax.apps.export.parts import Part
from r2l_jax.model.processors import Standardize
from r2l_jax.pipelines import camera_with
from r2l_jax.training.run import Run


def described(model: Run, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Describes a model and its exported parts, without their files."""
    camera, about = model.camera, model.about
    return {
        "identity": model.identity,
        "run": model.config.tracking.run_name,
        "fold": about.fold,
        "checkpoint": about.checkpoint,
        "epoch": about.epoch,
        "task": model.task.name,
        "classes": list(model.classes),
        "score": {"name": model.task.score, "value": model.score},
        "processing": model.config.processing.flag.removeprefix("--"),
        "raw": None if camera is None else _mosaics(model, camera),
        "normalization": _normalization(model),
        "parts": {name: _interface(part, model) for name, part in parts.items()},
    }


def _mosaics(model: Run, camera: isp.Camera) -> dict[str, Any]:
    """Describes the mosaics that the model takes: the samples of a file, divided by its white level."""
    return {
        "pattern": camera.pattern,
        "range": [0, 1],
        "white_level": model.about.white_level or camera.white_level,
        "black_level": list(map(float, np.ravel(camera.black_level))),
    }


def _normalization(model: Run) -> dict[str, list[float]]:
    """Returns the mean and the standard deviation by which the head's images are normalized, of each channel."""
    layer = model.model.normalizer
    if isinstance(layer, Standardize):
        mean, deviation = layer.mean[...], layer.std[...]
    else:
        mean, deviation = layer.mean[...], np.sqrt(np.asarray(layer.var[...]) + layer.epsilon)
    return {"mean": np.asarray(mean).tolist(), "standard_deviation": np.asarray(deviation).tolist()}


def _interface(part: Part, model: Run) -> dict[str, Any]:
    output: dict[str, Any] = {"name": part.output, "dtype": "float32"}
    if part.output == "logits":
        output["probability"] = "softmax over the last axis" if model.task.name == "classification" else "sigmoid"
    return {
        "input": {"name": part.input, "shape": ["B", *part.shape], "dtype": "float32"},
        "output": output,
        "parameters": {name: list(value.shape) for name, value in part.parameters.items()},
        "files": {},
    }


def learned_camera(model: Run) -> isp.Camera | None:
    """Returns the camera of the training with the learned values; None if no parameter started from the camera."""
    pipeline, camera = model.pipeline, model.camera
    if pipeline is None or camera is None or not any(facts.camera for facts in pipeline.facts.values()):
        return None
    return camera_with(camera, pipeline, pipeline.parameters())
