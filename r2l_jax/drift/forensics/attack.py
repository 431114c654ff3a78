"""Adversarial training: the processing's parameters go uphill in the task loss, and all the rest stays as it is.

Its steps are those of `drift.search`, taken with the batches, the augmentation and the devices of training.

This is what `--adv_training` is in the program of Oala et al. (TMLR 2023), with these differences:

- The head is frozen with or without `--freeze_classifier`; that program stops without it.
- Deviation from the default rendering is a price. That program lowers the structural similarity itself, times the
  weight, which drives images away; and its l2 is a sum over the batch, here a mean.
- Deviation is measured on processed images in [0, 1], there on normalised ones.
- The optimiser counts in natural ranges, and parameters stay valid, see `isp.Parameter`.
- A normalisation that no earlier run provides has the statistics of the default rendering, there zero and one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import isp
from isp.published import ADDITIVE_LAYER
from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import deviation
from r2l_jax.drift.search.ranges import valid_values
from r2l_jax.drift.search.searcher import cost_of, descend
from r2l_jax.model.tasks import Objective
from r2l_jax.runtime.errors import InputError

PyTree = Any


class AttackState(NamedTuple):
    """What an attack goes on from, beside the model.

    Attributes:
        default: the parameters' values at its start, which give the default rendering.
        offsets: how many natural ranges the parameters lie from there.
        opt_state: the optimiser's.
    """

    default: dict[str, jax.Array]
    offsets: dict[str, jax.Array]
    opt_state: optax.OptState


class Attack:
    """Steps uphill in the task loss of a model whose processor is an `isp.Pipeline`.

    Args:
        config: the learning rate in natural ranges, the augmentation, and the flags that begin with `adv_`.
        objective: what the model is trained for.
        graph: the model's, evaluating: batch norms use their running statistics and do not move them.
        pipeline: its processor, at any values.
    """

    def __init__(self, config: TrainConfig, objective: Objective, graph: nnx.GraphDef, pipeline: isp.Pipeline):
        self._config, self._objective, self._graph, self._pipeline = config, objective, graph, pipeline
        self._optimizer = optax.chain(_keep_norms(), optax.adam(config.lr))

    def begin(self, model: nnx.State) -> AttackState:
        """The state of an attack on a model as it is: its rendering is the default."""
        # A copy, since a step consumes model and state, and no array can be consumed twice.
        default = {name: jnp.copy(variable[...]) for name, variable in model["processor"].items()}
        offsets = jax.tree.map(jnp.zeros_like, default)
        return AttackState(default, offsets, self._optimizer.init(offsets))

    def update(
        self, model: nnx.State, state: AttackState, batch: Batch, key: jax.Array
    ) -> tuple[nnx.State, AttackState, jax.Array, PyTree]:
        """One step.

        Args:
            model: its variables.
            state: what `begin` gave, or the step before.
            batch: samples, whose targets follow the augmentation of their images.
            key: what that is drawn from.

        Returns:
            The next model and state; the batch's mean task loss before the step, and its sums: the objective's,
            `deviation`, and `gradient_norm` of the cost for each parameter's offset, 0 where it may not move.
        """
        config, attacked, count = self._config, nnx.merge(self._graph, model), batch["weight"].sum()
        by_default = self._render(state.default, batch)

        def cost(values):
            images = self._render(values, batch)
            sums = self._objective.sums(attacked.logits(images, key, config.augmentation), batch)
            away = deviation(images, by_default, config.adv_aux_loss)
            total = cost_of("worst", sums["loss"] / count, away, config.adv_aux_weight)
            return total, sums | {"deviation": away * count}

        chosen = config.adv_parameters.split(",")
        free = {name: float(name in chosen or "all" in chosen) for name in state.default}
        facts = self._pipeline.facts
        offsets, opt_state, sums = descend(
            self._optimizer, facts, state.default, cost, state.offsets, state.opt_state, free
        )
        sums["gradient_norm"], _ = opt_state
        model = with_parameters(model, valid_values(facts, state.default, offsets))
        return model, AttackState(state.default, offsets, opt_state), sums["loss"] / count, sums

    def deviations(self, state: AttackState, images: jax.Array, batch: Batch) -> jax.Array:
        """The sum of the images' deviations from the batch's default rendering, each times its sample's weight."""

        def of_one(image, default):
            return deviation(image[None], default[None], self._config.adv_aux_loss)

        return jnp.vdot(jax.vmap(of_one)(images, self._render(state.default, batch)), batch["weight"])

    def _render(self, values: Mapping[str, jax.Array], batch: Batch) -> jax.Array:
        return self._pipeline.with_values(values)(batch["raw"])


def check(config: TrainConfig, pipeline: isp.Pipeline) -> None:
    """Raises an InputError unless adversarial training can move the parameters that it is to move."""
    ranges.check(pipeline.facts, jax.device_get(pipeline.parameters()))
    known = ("all", *pipeline.facts, *([ADDITIVE_LAYER] if config.adv_noise_layer else []))
    if config.adv_noise_layer and ADDITIVE_LAYER in (*pipeline.facts, *pipeline.stage_names):
        raise InputError(f"--adv_noise_layer: --pipeline={config.pipeline} has an {ADDITIVE_LAYER} of its own")
    for name in config.adv_parameters.split(","):
        if name not in known:
            hint = "; give --adv_noise_layer as well" if name == ADDITIVE_LAYER else ""
            raise InputError(f"--adv_parameters must be of {', '.join(known)}, got {name!r}{hint}")


def with_parameters(model: nnx.State, values: Mapping[str, jax.Array]) -> nnx.State:
    """The variables of a model, its pipeline's parameters with other values."""
    processor = {name: variable.replace(values[name]) for name, variable in model["processor"].items()}
    return nnx.merge_state(model, nnx.State({"processor": processor}))


def _keep_norms() -> optax.GradientTransformation:
    """Changes no gradient, and has the norm of each parameter's as its state."""

    def init(parameters):
        return {name: jnp.zeros(()) for name in parameters}

    def update(gradients, _, parameters=None):
        return gradients, {name: jnp.linalg.norm(gradient.ravel()) for name, gradient in gradients.items()}

    return optax.GradientTransformation(init, update)
