"""A trained model of which only the processing's parameters may change, and how far its images are from the default."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

import isp
import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search import ranges
from r2l_jax.model.model_hash import model_hash
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.model.tasks import Sums, Task

PyTree = Any


class Frozen:
    """A model in evaluation, as functions of its processing's parameters; head and normalization stay as they are.

    Args:
        model: a model whose processor is an `isp.Pipeline`.
        task: the task that it was trained for.

    Raises:
        InputError: a parameter from whose values no offsets can be counted.
        ValueError: a processor that is no pipeline.

    Attributes:
        default: the parameters' values in the model, on the host.
        facts: the declarations of the parameters.
        rest: the other variables, on the host, which `logits` and `sums` take.
        task: the model's task.
    """

    def __init__(self, model: RawToLogit, task: Task):
        # On the host, from where each stack of searches puts them on its devices.
        self._pipeline = pipeline_of(model)
        self.default = jax.device_get(self._pipeline.parameters())
        self.facts = self._pipeline.facts
        ranges.check(self.facts, self.default)
        self._graph, rest = nnx.split((model.normalizer, model.head))
        self.rest = jax.device_get(rest)
        self.task = task

    @functools.cached_property
    def fingerprint(self) -> str:
        """The model's hash, see `model_hash`."""
        return model_hash(RawToLogit(self.pipeline(self.default), *nnx.merge(self._graph, self.rest)))

    def pipeline(self, parameters: Mapping[str, ArrayLike]) -> isp.Pipeline:
        """Returns the model's pipeline with other parameters."""
        return self._pipeline.with_values(parameters)

    def sums(self, images: Array, rest: PyTree, batch: Batch) -> Sums:
        """Computes the task's sums for processed images."""
        return self.task.sums(self.logits(images, rest), batch)

    def logits(self, images: Array, rest: PyTree) -> Array:
        """Computes the logits of processed images."""
        normalizer, head = nnx.merge(self._graph, rest)
        return head(normalizer(images))


def deviation(
    images: Float[Array, "batch height width 3"], default: Float[Array, "batch height width 3"], aux_loss: str
) -> Float[Array, ""]:
    """Computes the distance of images from their default rendering, 0 where they are equal.

    Args:
        images: the images.
        default: their default rendering.
        aux_loss: "ssim", 1 less the structural similarity (`tasks.losses.ssim`); "l2", the mean square difference; or
            "l2_sum", for which the distance is that of "l2" as well, and only its `price_factor` differs.
    """
    if aux_loss == "ssim":
        return 1 - tasks.losses.ssim(images, default)
    return jnp.square(images - default).mean()


def price_factor(images: Float[Array, "batch height width 3"], aux_loss: str) -> int:
    """Returns the factor of the price of a batch's `deviation`: 1, or its number of values for "l2_sum".

    The published program sums square differences over a batch, where "l2" takes their mean: a weight of it is this
    number of times as large, 6291456 for a batch of 32 images of 256x256.
    """
    return images.size if aux_loss == "l2_sum" else 1
