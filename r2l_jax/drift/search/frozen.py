"""A trained model of which only the parameters of the processing may change."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

import isp
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.knobs import Knob, knobs_of, turned
from r2l_jax.drift.search.ranges import Declarations
from r2l_jax.model import processors
from r2l_jax.model.raw_to_logit import Logits, RawToLogit, pipeline_of
from r2l_jax.model.tasks import Task


@jax.tree_util.register_pytree_node_class
class Frozen:
    """A model in evaluation mode, as functions of its processing's parameters; head and normalization do not change.

    `default` has the parameters' values in the model, on the host. This is a pytree of arrays: a compiled function that
    takes one serves all models of the same structure and task.

    Raises:
        InputError: a parameter whose value has no offsets.
        ValueError: a processor that is not an `isp.Pipeline`.
    """

    def __init__(self, model: RawToLogit, task: Task):
        pipeline = pipeline_of(model)
        self.task, self.default = task, jax.device_get(pipeline.parameters())
        ranges.check(pipeline.declarations, self.default)
        # The pipeline is kept as well, since it may have other variables besides its parameters.
        self._graph, state = nnx.split((pipeline, model.normalizer, model.head))
        self._state = jax.device_get(state)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Returns the arrays, and the static parts for which functions are compiled."""
        return (self.default, self._state), (self._graph, self.task)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> "Frozen":
        """Makes a frozen model from the results of `tree_flatten`."""
        frozen = object.__new__(cls)
        (frozen.default, frozen._state), (frozen._graph, frozen.task) = children, aux
        return frozen

    @functools.cached_property
    def declarations(self) -> Declarations:
        """The declarations of the parameters."""
        return self._parts()[0].declarations

    @functools.cached_property
    def knobs(self) -> dict[str, Knob]:
        """The knobs in the order of the stages, as in `declarations`; `default`, a tree, is sorted by name."""
        return knobs_of(self.declarations, {name: self.default[name] for name in self.declarations})

    def turned(self, positions: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Computes all parameters with some knobs at positions, see `knobs.turned`."""
        moves = [(self.knobs[name], position) for name, position in positions.items()]
        return turned(self.declarations, self.default, moves)

    def pipeline(self, parameters: Mapping[str, ArrayLike]) -> isp.Pipeline:
        """Returns the model's pipeline with other parameters."""
        return self._parts()[0].with_values(parameters)

    def images(self, parameters: Mapping[str, ArrayLike], batch: Batch) -> Array:
        """Processes a batch with other parameters."""
        return self.pipeline(parameters)(batch["raw"])

    def logits(self, images: Array) -> Logits:
        """Computes the logits of processed images."""
        _, normalizer, head = self._parts()
        return head(normalizer(images))

    def loss(self, images: Array, batch: Batch) -> Array:
        """Computes the mean task loss of processed images."""
        return self.task.loss(self.logits(images), batch)

    def distance(self, images: Array) -> Array:
        """Computes how far the features of processed images are from the training features, see `observed`.

        Each layer sees the images as it would if the statistics of all layers before it were theirs.
        """
        _, normalizer, head = self._parts()
        layers = processors.layers_of(normalizer, head)
        known = {name: processors.statistics_of(layer) for name, layer in layers.items()}
        _, moments = processors.observed(normalizer, head, images, 1.0)
        return jnp.stack([processors.distance(moments[name], known[name]) for name in layers]).mean()

    def _parts(self) -> Any:
        return nnx.merge(self._graph, self._state, copy=True)
