"""A trained model of which only the processing's parameters may change, and how far its images are from the default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import isp
import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search import ranges
from r2l_jax.model.model_hash import model_hash
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task

PyTree = Any


class Frozen:
    """A model that evaluates, as functions of its processing's parameters; head and normalisation stay as they are.

    Args:
        model: its processor is an `isp.Pipeline`.
        task: what it was trained for.

    Raises:
        InputError: a parameter of whose values no offsets can be counted.

    Attributes:
        default: the parameters' values in the model, on the host.
        facts: of the parameters.
        rest: the other variables, on the host: what `logits` and `sums` take.
        task: the model's.
    """

    def __init__(self, model: RawToLogit, task: Task):
        # On the host, from where each stack of searches puts them on its devices.
        self._pipeline, self.default = model.processor, jax.device_get(model.processor.parameters())
        self._stages, self.facts = model.processor.stages, model.processor.facts
        ranges.check(self.facts, self.default)
        self._graph, rest = nnx.split((model.normalizer, model.head))
        self.rest = jax.device_get(rest)
        self.task = task

    @functools.cached_property
    def fingerprint(self) -> str:
        """The model's hash, see `model_hash`."""
        return model_hash(RawToLogit(self.pipeline(self.default), *nnx.merge(self._graph, self.rest)))

    def pipeline(self, parameters: dict[str, Array | np.ndarray]) -> isp.Pipeline:
        """The model's pipeline with other parameters."""
        return self._pipeline.with_values(parameters)

    def sums(self, images: Array, rest: PyTree, batch: Batch) -> dict[str, Array]:
        """The task's sums for processed images."""
        return self.task.sums(self.logits(images, rest), batch)

    def logits(self, images: Array, rest: PyTree) -> Array:
        """The logits of processed images."""
        normalizer, head = nnx.merge(self._graph, rest)
        return head(normalizer(images))


def deviation(
    images: Float[Array, "batch height width 3"], default: Float[Array, "batch height width 3"], aux_loss: str
) -> Float[Array, ""]:
    """How far images are from their default rendering: 0 if they are equal, and more the farther.

    Args:
        images: the images.
        default: their default rendering.
        aux_loss: "ssim", 1 less the structural similarity (`tasks.losses.ssim`); or "l2", the mean square difference.
    """
    if aux_loss == "ssim":
        return 1 - tasks.losses.ssim(images, default)
    return jnp.square(images - default).mean()
