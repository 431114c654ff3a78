"""A trained model whose processing parameters alone may change."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

import isp
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search import ranges
from r2l_jax.model import normalization
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.model.tasks import Sums, Task

PyTree = Any


class Frozen:
    """A model in evaluation, as functions of its processing's parameters; head and normalization stay as they are.

    Raises:
        InputError: a parameter from whose values no offsets can be counted.
        ValueError: a processor that is not an `isp.Pipeline`.

    Attributes:
        default: the parameters' values in the model, on the host.
        facts: the declarations of the parameters.
        rest: the model's variables, on the host, which the methods take.
        task: the model's task.
    """

    def __init__(self, model: RawToLogit, task: Task):
        # On the host, from where each stack of searches puts them on its devices.
        self._pipeline = pipeline_of(model)
        self.default = jax.device_get(self._pipeline.parameters())
        self.facts = self._pipeline.facts
        ranges.check(self.facts, self.default)
        # With the pipeline, for a processing that has more variables than its parameters.
        self._graph, rest = nnx.split((self._pipeline, model.normalizer, model.head))
        self.rest = jax.device_get(rest)
        self.task = task

    def pipeline(self, parameters: Mapping[str, ArrayLike], rest: PyTree | None = None) -> isp.Pipeline:
        """Returns the model's pipeline with other parameters; compiled functions take `rest` as an argument."""
        pipeline = self._pipeline if rest is None else nnx.merge(self._graph, rest)[0]
        return pipeline.with_values(parameters)

    def images(self, parameters: Mapping[str, ArrayLike], batch: Batch, rest: PyTree | None = None) -> Array:
        """Processes a batch with other parameters, see `pipeline`."""
        return self.pipeline(parameters, rest)(batch["raw"])

    def sums(self, images: Array, rest: PyTree, batch: Batch) -> Sums:
        """Computes the task's sums for processed images."""
        return self.task.sums(self.logits(images, rest), batch)

    def distance(self, images: Array, rest: PyTree) -> Array:
        """Computes how far the features of processed images are from those of the training, see `observed`.

        Each layer sees the images as it would if the statistics of all layers before it were theirs.
        """
        # A copy, since its statistics are mixed in place.
        _, normalizer, head = nnx.merge(self._graph, rest, copy=True)
        layers = normalization.layers_of(normalizer, head)
        known = {name: normalization.statistics_of(layer) for name, layer in layers.items()}
        _, moments = normalization.observed(normalizer, head, images, {name: jnp.ones(()) for name in layers})
        return jnp.stack([normalization.distance(moments[name], known[name]) for name in layers]).mean()

    def logits(self, images: Array, rest: PyTree) -> Array:
        """Computes the logits of processed images."""
        _, normalizer, head = nnx.merge(self._graph, rest)
        return head(normalizer(images))
