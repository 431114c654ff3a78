"""Adversarial training: moves the processing's parameters uphill in the task loss, and nothing else.

The attack is an update rule of training: it takes the steps of `drift.search` with the batches, the augmentation and
the devices of training.

It is the `--adv_training` of the program of Oala et al. (TMLR 2023), with these differences:

- The head is frozen with or without `--freeze_classifier`; that program stops without it.
- Deviation from the default rendering is penalized. That program lowers the structural similarity itself, times the
  weight, which drives images away; and its l2 is a sum over the batch, while here it is a mean.
- Deviation is measured on processed images in [0, 1], in that program on normalized ones.
- The optimizer counts in natural ranges, and parameters stay valid, see `isp.Parameter`.
- A normalization that no earlier run provides has the default rendering's statistics, in that program 0 and 1.
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
from r2l_jax.drift.search.ranges import cost_of, descend, deviation, valid_values
from r2l_jax.errors import InputError
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.training.settings import AttackSettings
from r2l_jax.training.steps import GradientDescent, StepSettings, Updated


def rule_of(config: TrainConfig) -> type[GradientDescent]:
    """Returns the update rule that a run's settings ask for."""
    return Attack if config.attack.adv_training else GradientDescent


class AttackState(NamedTuple):
    """The state of an attack: the values of the default rendering, the offsets from them, and the optimizer's state."""

    default: dict[str, jax.Array]
    offsets: dict[str, jax.Array]
    opt_state: Any


class Attack(GradientDescent):
    """Steps uphill in the task loss of a model whose processor is an `isp.Pipeline`.

    The sums are the loss, the `deviation` of each sample's image from its default rendering, and the `gradient_norm` of
    the cost for each parameter's offset, 0 where the parameter may not move.

    Args:
        settings: the learning rate in natural ranges, the augmentation, and the attack.
        model: the model with shapes in place of arrays. Its batch norms use their running statistics and keep them.
    """

    metrics: tuple[str, ...] = ("deviation",)
    sign = -1
    keeps_statistics = True
    state_is_result = True  # It holds the default rendering to compare the attacked one with.

    def __init__(self, settings: StepSettings, model: RawToLogit):
        processor, attack = model.processor, settings.attack
        assert isinstance(processor, isp.Pipeline)
        assert attack is not None
        self._pipeline, self._graph, self._task = processor, nnx.graphdef(model), settings.task
        self._augmentation, self._parameters = settings.augmentation, _parameters(attack)
        self._aux_loss, self._aux_weight = attack.adv_aux_loss, attack.adv_aux_weight
        self.records_differences = attack.adv_track_differences
        self._optimizer = optax.adam(settings.optimizer.rate.peak)

    @staticmethod
    def check(settings: StepSettings, pipeline: isp.Pipeline | None) -> None:
        """Raises an InputError unless the attack can move the chosen parameters."""
        attack = settings.attack
        assert pipeline is not None
        assert attack is not None
        ranges.check(pipeline.declarations, jax.device_get(pipeline.parameters()))
        layer = attack.adv_noise_layer
        known = ("all", *pipeline.declarations, *([ADDITIVE_LAYER] if layer else []))
        if layer and ADDITIVE_LAYER in (*pipeline.declarations, *pipeline.stage_names):
            raise InputError(
                f"`adv_noise_layer`: {settings.architecture.processing.flag} already has an {ADDITIVE_LAYER}"
            )
        for name in _parameters(attack):
            if name not in known:
                hint = "; give `adv_noise_layer` as well" if name == ADDITIVE_LAYER else ""
                raise InputError(f"`adv_parameters` must be one of {', '.join(known)}, got {name!r}{hint}")

    def begin(self, model: nnx.State) -> AttackState:
        """Returns the initial state of an attack, in which the model's rendering is the default."""
        # A copy, since a step consumes model and state, and no array can be consumed twice.
        default = {name: jnp.copy(variable[...]) for name, variable in model["processor"].items()}
        offsets = jax.tree.map(jnp.zeros_like, default)
        return AttackState(default, offsets, self._optimizer.init(offsets))

    def zero_sums(self) -> dict[str, Any]:
        """Returns the initial loss and deviation, and a gradient's norm for each parameter."""
        return {
            "loss": jnp.zeros(()),
            "deviation": jnp.zeros(()),
            "gradient_norm": {name: jnp.zeros(()) for name in self._pipeline.declarations},
        }

    def update(self, model: nnx.State, state: AttackState, batch: Batch, keys: jax.Array) -> Updated:
        """Takes one step uphill."""
        attacked, count = nnx.merge(self._graph, model), batch["weight"].sum()
        by_default = self._render(state.default, batch)

        def cost(values):
            images = self._render(values, batch)
            logits = attacked.logits(images, keys, self._augmentation)
            loss = self._task.loss(logits, batch)
            total, away = cost_of("worst", loss, images, by_default, self._aux_loss, self._aux_weight)
            return total, (self._task.outcome(logits, batch), {"loss": loss * count, "deviation": away * count})

        free: dict[str, jax.Array | float] = {
            name: float(name in self._parameters or "all" in self._parameters) for name in state.default
        }
        declarations = self._pipeline.declarations
        offsets, opt_state, gradients, (outcome, sums) = descend(
            self._optimizer, declarations, state.default, cost, state.offsets, state.opt_state, free
        )
        norms = {name: jnp.linalg.norm(gradient.ravel()) for name, gradient in gradients.items()}
        model = with_parameters(model, valid_values(declarations, state.default, offsets))
        following = AttackState(state.default, offsets, opt_state)
        return Updated(model, following, outcome, {**sums, "gradient_norm": norms})

    def measure(self, state: AttackState, images: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns the images' deviations from their default rendering, `(B,)`."""

        def of_one(image, default):
            return deviation(image[None], default[None], self._aux_loss)

        return {"deviation": jax.vmap(of_one)(images, self._render(state.default, batch))}

    def reference(self, model: nnx.State, state: AttackState) -> nnx.State:
        """Returns the model with its default rendering."""
        return with_parameters(model, state.default)

    def _render(self, values: Mapping[str, jax.Array], batch: Batch) -> jax.Array:
        return self._pipeline.with_values(values)(batch["raw"])


def _parameters(attack: AttackSettings) -> list[str]:
    return attack.adv_parameters.split(",")


def with_parameters(model: nnx.State, values: ranges.Values) -> nnx.State:
    """Returns the variables of a model with other values of its pipeline's parameters."""
    processor = {name: variable.replace(values[name]) for name, variable in model["processor"].items()}
    return nnx.merge_state(model, nnx.State({"processor": processor}))
