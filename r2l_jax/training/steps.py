"""The compiled steps of a training: its settings, its state, and the rules that update a model."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import shardings
from r2l_jax.errors import InputError
from r2l_jax.model.augment import re_expose, sample_keys
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import Architecture, Logits, RawToLogit, Statistics
from r2l_jax.model.tasks import Task, task_of
from r2l_jax.optimizers import Optimizer
from r2l_jax.training.settings import AttackSettings

PyTree = Any

# Arrays `(B, ...)` of a batch by name, see `Task.outcome`.
Outcome = dict[str, jax.Array]

# Makes the keys of cameras from the key of an epoch.
_CAMERA = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """All settings of a run's compiled steps, which runs with equal settings share; `task` has the training loss."""

    architecture: Architecture
    task: Task
    optimizer: Optimizer
    augmentation: str
    camera_augmentation: tuple[str, ...]
    ema: float
    freezes_head: bool
    attack: AttackSettings | None

    @classmethod
    def of(cls, config: TrainConfig, dataset: RawDataset, epoch_steps: int) -> "StepSettings":
        """Collects the settings of a run with this many updates in an epoch."""
        task, optimization = task_of(dataset, config.model), config.optimization
        if dataset.camera is None and optimization.camera_augmentation:
            named = f"`camera_augmentation={','.join(optimization.camera_augmentation)}`"
            raise InputError(f"{named}: {dataset.name} is processed already: there is no raw data")
        return cls(
            Architecture(config.processing, task, dataset.camera, tuple(dataset.shape), config.attack.adv_noise_layer),
            optimization.loss_of(task, dataset.labels, config.model.freeze_classifier),
            optimization.build(epoch_steps),
            optimization.augmentation,
            optimization.camera_augmentation or (),
            optimization.ema,
            config.model.freeze_classifier,
            config.attack if config.attack.adv_training else None,
        )

    @property
    def freezes_processor(self) -> bool:
        """Whether the processor stays unchanged."""
        return self.architecture.processing.is_frozen


class Updated(NamedTuple):
    """The next variables and rule state, and the task's outcome of the batch before the update with its sums."""

    model: nnx.State
    state: PyTree
    outcome: dict[str, jax.Array]
    sums: dict[str, Any]  # the loss times the batch's weight, and the others of `GradientDescent.zero_sums`


class Averaging(NamedTuple):
    """The state of gradient descent with averaged weights: the optimizer's, the latest model, and its updates."""

    optimizer: PyTree
    latest: PyTree
    updates: jax.Array


class GradientDescent:
    """Updates a model by gradient descent on the task loss, for all parameters that are not frozen.

    With averaged weights, the average is validated, kept and used; the state has the latest model, from which the next
    update starts. Other rules override these methods.
    """

    metrics: tuple[str, ...] = ()  # names of numbers of each sample whose means are reported
    sign: int = 1  # 1 if the best epoch has the highest score, -1 if it has the lowest
    keeps_statistics: bool = False  # whether the normalization's statistics stay as they are at the start
    state_is_result: bool = False  # whether a finished run needs the rule's state, which may be dropped otherwise
    records_differences: bool = False  # whether to record pictures next to those of the `reference`

    def __init__(self, settings: StepSettings, model: RawToLogit):
        """Takes a run's model in evaluation mode, with shapes in place of arrays."""
        self._augmentation, self._decay = settings.augmentation, settings.ema
        self._task, self._optimizer = settings.task, settings.optimizer.transformation()
        frozen = {"processor": settings.freezes_processor, "head": settings.freezes_head}
        kept = [nnx.PathContains(part) for part in frozen if frozen[part]]
        self._trained = nnx.All(nnx.Param, nnx.Not(nnx.Any(*kept)))
        self._processor_parameters = processor_of(self._split(nnx.state(model))[0]).keys()
        training = nnx.merge(*nnx.split(model))
        training.train()
        if settings.freezes_head:
            training.head.eval()  # A frozen head also keeps its batch statistics.
        # A frozen processor is not part of it: updates get the processed images.
        processor = Unprocessed() if settings.freezes_processor else training.processor
        self._graph = nnx.graphdef(training.processed_by(processor))

    @staticmethod
    def check(settings: StepSettings, pipeline: isp.Pipeline | None) -> None:
        """Raises an InputError unless the rule can update a model with this pipeline, if it has one."""

    def begin(self, model: nnx.State) -> PyTree:
        """Returns the rule's state before the first update of a model, given without a frozen processor."""
        optimizer = self._optimizer.init(self._split(model)[0])
        if not self._decay:
            return optimizer
        # A copy, since a step donates model and state, and no array can be donated twice.
        latest = nnx.to_pure_dict(jax.tree.map(jnp.copy, model))
        return Averaging(optimizer, latest, jnp.zeros((), jnp.int32))

    def zero_sums(self) -> dict[str, Any]:
        """Returns the initial sums of an epoch: the loss, and norms of the processor's gradients."""
        return {"loss": jnp.zeros(()), "gradient_norm": {name: jnp.zeros(()) for name in self._processor_parameters}}

    def update(self, model: nnx.State, state: PyTree, batch: Batch, keys: jax.Array) -> Updated:
        """Updates a model, given without a frozen processor; the state is from `begin`, or from the update before.

        The targets of the batch follow the augmentation of its images, which `keys` decide, one for each sample.
        """
        if not self._decay:
            return self._updated(model, state, batch, keys)
        latest = jax.tree.map(lambda variable: variable, model)
        nnx.replace_by_pure_dict(latest, state.latest)
        updated = self._updated(latest, state.optimizer, batch, keys)
        # The decay is smaller for the first updates, so that the average soon forgets the initial weights.
        decay = jnp.minimum(self._decay, (1 + state.updates) / (10 + state.updates))

        def averaged(before: jax.Array, now: jax.Array) -> jax.Array:
            return decay * before + (1 - decay) * now if jnp.issubdtype(now.dtype, jnp.floating) else now

        average = jax.tree.map(averaged, model, updated.model)
        following = Averaging(updated.state, nnx.to_pure_dict(updated.model), state.updates + 1)
        return updated._replace(model=average, state=following)

    def measure(self, state: PyTree, images: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns the numbers `(B,)` that `metrics` names for processed images, in evaluation."""
        return {}

    def reference(self, model: nnx.State, state: PyTree) -> nnx.State | None:
        """Returns the model before the first update, if results are compared with it."""
        return None

    def _updated(self, model: nnx.State, state: PyTree, batch: Batch, keys: jax.Array) -> Updated:
        parameters, rest = self._split(model)

        def mean_loss(parameters):
            module = nnx.merge(self._graph, parameters, rest, copy=True)  # A copy, whose statistics may change.
            logits = module(batch["raw"], keys, self._augmentation)
            _, updated = self._split(nnx.state(module))
            return self._task.loss(logits, batch), (self._task.outcome(logits, batch), updated)

        (loss, (outcome, rest)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(parameters)
        squares = {name: map(jnp.vdot, *2 * [jax.tree.leaves(tree)]) for name, tree in processor_of(gradients).items()}
        norms = {name: jnp.sqrt(sum(each)) for name, each in squares.items()}
        updates, state = self._optimizer.update(gradients, state, parameters)
        parameters = cast(nnx.State, optax.apply_updates(parameters, updates))
        sums = {"loss": loss * batch["weight"].sum(), "gradient_norm": norms}
        return Updated(nnx.merge_state(parameters, rest), state, outcome, sums)

    def _split(self, model: nnx.State) -> tuple[nnx.State, nnx.State]:
        trained, rest = nnx.split_state(model, self._trained, ...)
        return trained, rest


def processor_of(state: nnx.State) -> Mapping[str, PyTree]:
    """Returns the variables of a model's processor, by name."""
    return nnx.to_pure_dict(state).get("processor", {})


class TrainState(flax.struct.PyTreeNode):
    """The state that a training step updates, or its shapes; `sums` are the rule's, over the epoch so far."""

    step: Any
    model: nnx.State
    opt_state: PyTree
    sums: PyTree


@functools.lru_cache(maxsize=8)
def make_steps(settings: StepSettings, rule: type[GradientDescent] = GradientDescent) -> "Steps":
    """Makes the compiled functions of a run; runs of equal settings share them."""
    model = settings.architecture.abstract()
    return Steps(settings, model, rule(settings, model))


class Steps:
    """The functions of a run, compiled on first use. They depend only on shapes, so all folds share them.

    `init` makes a model's variables from a key, and the statistics that `Standardize` takes, if needed. `trace` returns
    the logits, and as lists in the order of `stages` the image after each stage and the mean loss's gradient for it.
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
