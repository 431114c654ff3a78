"""The parts of a model that are exported: all of it, its processing, and its head."""

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.training.run import Run
from tasks.resnet import ResNetTrunk

Parameters = dict[str, jax.Array]

RAW, IMAGES, LOGITS, PROBABILITIES = "raw", "images", "logits", "probabilities"


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A function of a batch that a model computes.

    Attributes:
        name: one of `names.EXPORT_PARTS`.
        input: the name of the input: "raw" or "images".
        output: the name of the output: "images" or "logits", or "probabilities" of an ensemble.
        function: computes the output from the parameters and the input.
        parameters: the parameters of the pipeline by name, as learned; empty for the head and for other processors.
        shape: the shape of one input.
    """

    name: str
    input: str
    output: str
    function: Callable[[Parameters, jax.Array], jax.Array]
    parameters: Parameters
    shape: tuple[int, ...]

    def __call__(self, inputs: jax.Array | np.ndarray) -> jax.Array:
        """Computes the output with the learned parameters."""
        return self.function(self.parameters, jnp.asarray(inputs))


def parts_of(model: RawToLogit, shape: tuple[int, ...]) -> dict[str, Part]:
    """Returns the parts of a model in evaluation mode, by name; a model of processed images has no "isp".

    Parts compute in float32 even if the head was trained in bfloat16, which few readers of exports support. `shape` is
    `(H, W)` for raw images and `(H, W, 3)` for processed images.
    """
    model = nnx.clone(model)
    for _, module in nnx.iter_modules(model.head):
        if isinstance(module, ResNetTrunk):
            module.dtype = None
    processor = model.processor
    parameters = processor.parameters() if isinstance(processor, isp.Pipeline) else {}
    image = jax.eval_shape(processor, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]

    def logits(_: Parameters, images: jax.Array) -> jax.Array:
        # Networks of other frameworks, such as detectors, are not exported.
        return cast(jax.Array, model.logits(images))

    def processed(parameters: Parameters, raw: jax.Array) -> jax.Array:
        return processor.with_values(parameters)(raw) if isinstance(processor, isp.Pipeline) else processor(raw)

    def whole(parameters: Parameters, raw: jax.Array) -> jax.Array:
        return logits(parameters, processed(parameters, raw))

    parts = [
        Part("whole", RAW, LOGITS, whole, parameters, shape),
        Part("isp", RAW, IMAGES, processed, parameters, shape),
        Part("head", IMAGES, LOGITS, logits, {}, image),
    ]
    if isinstance(processor, Unprocessed):
        parts = [dataclasses.replace(parts[-1], name=name) for name in ("whole", "head")]
    return {part.name: part for part in parts}


def ensemble_of(run: Run, shape: tuple[int, ...]) -> dict[str, Part]:
    """Returns the only part of an ensemble, "whole": from raw images to the mean of the models' probabilities."""
    wholes = [parts_of(fold.model, shape)["whole"] for fold in run]

    def mean(_: Parameters, inputs: jax.Array) -> jax.Array:
        return sum(run.task.probabilities(whole(inputs), shape[0]) for whole in wholes) / jnp.float32(len(wholes))

    return {"whole": dataclasses.replace(wholes[0], output=PROBABILITIES, function=mean, parameters={})}
