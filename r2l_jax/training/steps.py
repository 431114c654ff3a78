"""The training state and the compiled steps that change it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from r2l_jax.data.loader import Batch
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import shardings
from r2l_jax.model.augment import sample_keys
from r2l_jax.model.build import Statistics
from r2l_jax.model.camera_augmentation import re_expose
from r2l_jax.model.raw_to_logit import Logits, RawToLogit
from r2l_jax.training.update import GradientDescent, StepSettings

PyTree = Any

# Arrays `(B, ...)` of a batch by name, see `Task.outcome`.
Outcome = dict[str, jax.Array]

# Makes the keys of cameras from the key of an epoch.
_CAMERA = 2**31 - 1


class TrainState(flax.struct.PyTreeNode):
    """The state that a training step updates, or its shapes; `sums` are the rule's, over the epoch so far."""

    step: Any
    model: nnx.State
    opt_state: PyTree
    sums: PyTree

    @property
    def processor(self) -> Mapping[str, Any]:
        """The variables of the model's processor, by name."""
        return nnx.to_pure_dict(self.model).get("processor", {})


@functools.lru_cache(maxsize=8)
def make_steps(settings: StepSettings, rule: type[GradientDescent] = GradientDescent) -> "Steps":
    """Makes the compiled functions of a run; runs of equal settings share them."""
    model = settings.architecture.abstract()
    return Steps(settings, model, rule(settings, model))


class Steps:
    """The functions of a run, compiled on first use. They depend only on shapes, so all folds share them.

    Attributes:
        init: makes a model's variables from a key, and the statistics that `Standardize` takes (None if nothing does).
        trace: `(model, batch) -> (logits, images, gradients)`: the image after each stage, and the mean loss's gradient
            for it; as lists, in the order of `stages`.
    """

    def __init__(self, settings: StepSettings, model: RawToLogit, rule: GradientDescent):
        self.settings, self.architecture, self.rule = settings, settings.architecture, rule
        self.task = settings.architecture.task
        self.stages, self._graph = model.processor.stage_names, nnx.graphdef(model)
        self._frozen = nnx.PathContains("processor") if settings.freezes_processor else nnx.Nothing()
        jit = functools.partial(jax.jit, out_shardings=shardings().everywhere, compiler_options=compiler.options())
        # Compiled separately from the head, so that runs with other processing find the head's functions in the cache.
        self._process = jit(self._processed, out_shardings=shardings().split)
        # A separate function, because frozen processing is computed before the training step.
        self._re_expose = jit(self._re_exposed, out_shardings=shardings().split)
        self._train = jit(self._trained, donate_argnums=0)
        self._evaluate = jit(self._evaluated)
        self.init = jit(self._drawn, compiler_options=compiler.for_one_call())
        self.begin: Callable[[nnx.State], TrainState] = jit(self._begun)
        self.trace: Callable[[nnx.State, Batch], tuple[Logits, list, list]] = jit(self._traced)
        self.zero_sums: Callable[[], PyTree] = jit(self.rule.zero_sums)

    @property
    def summary(self) -> tuple[str, ...]:
        """The numbers that summarize a run, by their names in its history."""
        metrics = [f"{split}_{name}" for split in ("val", "train") for name in (self.task.score.name, "loss")]
        metrics += [f"{split}_{name}" for name in self.rule.metrics for split in ("val", "train")]
        return (*metrics, *(f"val_{name}" for name in self.task.metrics))

    def train(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Outcome]:
        """Updates once, and returns the next state and the batch's outcome with its `weight`; donates the state.

        Augmentation depends on the epoch's key and the sample's index, not on its batch and device.
        """
        if self.settings.camera_augmentation:
            batch = {**batch, "raw": self._re_expose(batch["raw"], batch["index"], key)}
        if not self.settings.freezes_processor:
            return self._train(state, batch, key)
        frozen, trained = self._parts(state.model)
        batch = {**batch, "raw": self._process(state.model, batch["raw"])}
        state, outcome = self._train(state.replace(model=trained), batch, key)
        return state.replace(model=nnx.merge_state(frozen, state.model)), outcome

    def evaluate(self, state: TrainState, batch: Batch) -> Outcome:
        """Computes a batch's outcome with its `weight`, and the rule's metrics."""
        return self._evaluate(state, self._process(state.model, batch["raw"]), batch)

    def _parts(self, model: nnx.State) -> tuple[nnx.State, nnx.State]:
        """Splits a model into its frozen processor, if it has one, and the rest, which updates use."""
        frozen, trained = nnx.split_state(model, self._frozen, ...)
        return frozen, trained

    def _drawn(self, key: jax.Array, statistics: Statistics | None = None) -> nnx.State:
        return nnx.state(self.architecture.model(nnx.Rngs(params=key), statistics))

    def _begun(self, model: nnx.State) -> TrainState:
        _, trained = self._parts(model)
        return TrainState(jnp.zeros((), jnp.int32), model, self.rule.begin(trained), self.rule.zero_sums())

    def _re_exposed(self, raw: Any, index: jax.Array, key: jax.Array) -> Any:
        camera = self.architecture.camera
        assert camera is not None
        # Keys that differ from the keys of the augmentation of images.
        keys = sample_keys(jax.random.fold_in(key, _CAMERA), index)
        return jax.tree.map(lambda each: re_expose(each, keys, camera, self.settings.camera_augmentation), raw)

    def _processed(self, model: nnx.State, raw: Any) -> jax.Array:
        return nnx.merge(self._graph, model).processor(raw)

    def _trained(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Outcome]:
        keys = sample_keys(key, batch["index"])
        batch = self.task.augmented(batch, keys, self.settings.augmentation)
        updated = self.rule.update(state.model, state.opt_state, batch, keys)
        sums = jax.tree.map(jnp.add, state.sums, updated.sums)
        outcome = {**updated.outcome, "weight": batch["weight"]}
        return TrainState(state.step + 1, updated.model, updated.state, sums), outcome

    def _evaluated(self, state: TrainState, images: jax.Array, batch: Batch) -> Outcome:
        outcome = self.task.outcome(nnx.merge(self._graph, state.model).logits(images), batch)
        return outcome | self.rule.measure(state.opt_state, images, batch) | {"weight": batch["weight"]}

    def _traced(self, model: nnx.State, batch: Batch) -> tuple[Logits, list[jax.Array], list[jax.Array]]:
        def mean_loss(perturbations: PyTree) -> tuple[jax.Array, PyTree]:
            logits, images = nnx.merge(self._graph, model).trace(batch["raw"], perturbations)
            return self.task.loss(logits, batch), (logits, images)

        _, shapes = jax.eval_shape(lambda: nnx.merge(self._graph, model).trace(batch["raw"]))
        unperturbed = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        gradients, (logits, images) = jax.grad(mean_loss, has_aux=True)(unperturbed)
        # Lists, since mapping over a dict as a JAX tree sorts it by name.
        return logits, [images[name] for name in self.stages], [gradients[name] for name in self.stages]
