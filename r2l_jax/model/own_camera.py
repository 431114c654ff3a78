"""Processing for samples of several cameras: what is learned is common, and calibration values are the sample's own.

A parameter that starts from a camera's value is moved, for each sample, by the distance of its camera's value from that
of the camera that the pipeline started from. A learned gain is thus multiplied by the ratio of the two cameras' gains,
and to a learned black level, the difference of their black levels is added.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import isp
from r2l_jax.data.cameras import CameraValues, values_of
from r2l_jax.model.processors import Processor
from r2l_jax.runtime.errors import InputError


def images(
    processor: Processor,
    raw: Float[Array | np.ndarray, "batch height width *channels"],
    cameras: CameraValues | None,
) -> Float[Array, "batch rows cols 3"]:
    """Processes mosaics, each for its own camera.

    Args:
        processor: the processor. Only pipelines have parameters that start from a camera.
        raw: the mosaics.
        cameras: the values of their cameras; None if all are of the processor's.
    """
    if isinstance(processor, isp.Pipeline):
        return processor(raw, offsets(processor, cameras))
    return processor(jnp.asarray(raw))


def trace(
    processor: Processor,
    raw: Float[Array | np.ndarray, "batch height width *channels"],
    cameras: CameraValues | None,
    perturbations: Mapping[str, Array] | None = None,
) -> tuple[Float[Array, "batch rows cols 3"], dict[str, Float[Array, "batch ..."]]]:
    """Processes mosaics as `images` does, and keeps the image after each stage (see `isp.Pipeline.trace`)."""
    if isinstance(processor, isp.Pipeline):
        return processor.trace(raw, perturbations, offsets(processor, cameras))
    return processor.trace(jnp.asarray(raw), perturbations)


def offsets(processor: Processor, cameras: CameraValues | None) -> dict[str, Array]:
    """Computes the offsets of samples' cameras from the start, for each parameter that starts from a camera."""
    if cameras is None or not isinstance(processor, isp.Pipeline):
        return {}
    own, start = cameras["own"], cameras["start"]
    return {
        name: jnp.asarray(facts.offset(start[facts.camera], own[facts.camera]))
        for name, facts in processor.facts.items()
        if facts.camera is not None
    }


def moved(pipeline: isp.Pipeline, start: isp.Camera, camera: isp.Camera) -> isp.Pipeline:
    """Returns a pipeline that started from one camera's values, moved to another camera."""
    values = jax.tree.map(lambda each: each[0], values_of([camera], start))
    return pipeline.with_values(pipeline.values(offsets(pipeline, values)))


def taken_by(camera: isp.Camera, cameras: CameraValues | None) -> isp.Camera:
    """Returns the camera of one sample, whose values may be traced.

    Args:
        camera: the camera of all samples, or one of several, which have one color filter array.
        cameras: the values of the sample's camera, without a batch axis; None if there is one camera.
    """
    if cameras is None:
        return camera
    values: Any = cameras["own"]
    return dataclasses.replace(camera, **values)


def check(pipeline: isp.Pipeline, cameras: Mapping[str, isp.Camera], flag: str) -> None:
    """Raises an InputError unless a pipeline can be moved from its first camera to all others.

    Args:
        pipeline: the pipeline.
        cameras: the cameras by name, the first of which the pipeline starts from.
        flag: the flag of the processing, to name in errors.
    """
    (first, start), *others = cameras.items()
    for name, facts in pipeline.facts.items():
        if facts.camera is None:
            continue
        if not facts.has_range:
            raise InputError(
                f"{flag}: {name} has no natural range, which a run of several cameras ({first}, ...) needs: declare it "
                'as isp.Parameter(..., width=...) or isp.Parameter(..., scale="log")'
            )
        for other, camera in others:
            one, two = (np.array(getattr(each, facts.camera)) for each in (start, camera))
            if facts.scale == "log" and (one * two <= 0).any():
                raise InputError(
                    f"{flag}: {name} keeps its sign, so cameras must have a {facts.camera} of one sign: {first} has "
                    f"{one.tolist()}, {other} {two.tolist()}"
                )
