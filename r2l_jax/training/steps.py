"""The training state and the compiled steps that change it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.augment import sample_keys
from r2l_jax.model.build import make_model
from r2l_jax.model.tasks import Task, task_of
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import shardings
from r2l_jax.training.update import GradientDescent, UpdateRule, draw_blueprint

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """Everything that a training step changes, or the shapes of it.

    Attributes:
        step: the number of updates done.
        model: the variables of a `RawToLogit`.
        opt_state: the update rule's state.
        sums: added up since the epoch began: the task's `loss` and `confusion (C, C)`, and those of the update rule,
            such as `gradient_norm`, of each of the processor's parameters.
    """

    step: Any
    model: nnx.State
    opt_state: PyTree
    sums: PyTree

    @property
    def processor(self) -> Mapping[str, Any]:
        """The variables of the model's processor, by name."""
        return nnx.to_pure_dict(self.model).get("processor", {})


class Steps(NamedTuple):
    """The compiled functions of a run. They depend on shapes alone, so that all folds share them.

    Attributes:
        init: makes a model's variables from a key, and the statistics that `Standardize` takes (None if nothing does).
        begin: makes the state in which a model's training begins.
        train: updates once, `(state, batch, key) -> (state, loss)`; consumes the state. The key is that of the epoch:
            a sample's augmentation follows from it and from the sample's index, not from its batch and devices.
        lower: traces and lowers what `train` compiles, apart from fixed processing, for arguments that may be shapes.
            Once its result is compiled, the first call of `train` does not compile it again.
        evaluate: adds a batch to sums, `(state, sums, batch) -> sums`: those that task and rule measure, and the number
            of `samples (C,)` that hold each class; consumes the sums. `Task.totals` computes the loss from those of all
            batches.
        trace: `(model, batch) -> (logits, images, gradients)`: the image after each stage, and the mean loss's gradient
            for it.
        stages: the names of the stages, in the order of those lists.
        zero_sums: returns the sums of no training batch.
        zero_evaluated: returns the sums of `evaluate` of no batch.
        task: the task that the model is trained for.
        rule: the update rule.
    """

    init: jax.stages.Wrapped
    begin: Callable[[nnx.State], TrainState]
    train: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, jax.Array]]
    lower: Callable[[TrainState, Batch, jax.Array], jax.stages.Lowered]
    evaluate: Callable[[TrainState, PyTree, Batch], PyTree]
    trace: Callable[[nnx.State, Batch], tuple[jax.Array, list[jax.Array], list[jax.Array]]]
    stages: tuple[str, ...]
    zero_sums: Callable[[], PyTree]
    zero_evaluated: Callable[[], PyTree]
    task: Task
    rule: UpdateRule

    @property
    def summary(self) -> tuple[str, ...]:
        """The numbers that sum a run up, by their names in its history."""
        metrics = [f"{split}_{name}" for split in ("val", "train") for name in (self.task.score, "loss")]
        return (*metrics, *(f"{split}_{name}" for name in self.rule.metrics for split in ("val", "train")))

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the task's metrics in the history, where the last epoch always has them."""
        return tuple(f"val_{name}" for name in self.task.metrics)


def make_steps(config: TrainConfig, dataset: RawDataset, make_rule: type[UpdateRule] = GradientDescent) -> Steps:
    """Makes the compiled functions of a run, compiled at their first use.

    Args:
        config: the run.
        dataset: its task, and the shapes of its samples.
        make_rule: how a step changes the model.
    """
    task = task_of(dataset, config.model)
    blueprint = draw_blueprint(config, dataset, task)
    rule = make_rule(config, task, blueprint)
    stages, augmentation = blueprint.model.processor.stage_names, config.optimization.augmentation

    def zeros(loss_shape=()):
        classes = len(task.classes)
        return {"loss": jnp.zeros(loss_shape), "confusion": jnp.zeros((classes, classes))}

    def zero_sums():
        return zeros() | rule.zero_sums()

    def zero_evaluated():
        measured = {name: jnp.zeros(()) for name in (*task.metrics, *rule.metrics)}
        return zeros(task.loss_shape) | measured | {"samples": jnp.zeros(len(task.classes))}

    def init(key, statistics=None):
        return nnx.state(make_model(config, dataset, task, nnx.Rngs(params=key), statistics))

    def begin(model):
        _, trained = parts(model)
        return TrainState(jnp.zeros((), jnp.int32), model, rule.begin(trained), zero_sums())

    def parts(model):
        """Splits a model into its fixed processor, if it has one, and all that updates compute with."""
        is_fixed = config.processing.is_fixed
        return nnx.split_state(model, nnx.PathContains("processor") if is_fixed else nnx.Nothing(), ...)

    def process(model, raw):
        return nnx.merge(blueprint.evaluating, model).processor(raw)

    def train(state, batch, key):
        keys = sample_keys(key, batch["index"])
        updated = rule.update(state.model, state.opt_state, task.augmented(batch, keys, augmentation), keys)
        sums = jax.tree.map(jnp.add, state.sums, updated.sums)
        return TrainState(state.step + 1, updated.model, updated.state, sums), updated.loss

    def train_processed(state, batch, key):
        fixed, trained = parts(state.model)
        batch = batch | {"raw": compiled_process(state.model, batch["raw"])}
        state, loss = compiled_train(state.replace(model=trained), batch, key)
        return state.replace(model=nnx.merge_state(fixed, state.model)), loss

    def lower_processed(state, batch, key):
        _, trained = parts(state.model)
        images = jax.eval_shape(compiled_process, state.model, batch["raw"])
        images = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=shardings().split)
        return compiled_train.lower(state.replace(model=trained), batch | {"raw": images}, key)

    def evaluate(state, sums, images, batch):
        logits = nnx.merge(blueprint.evaluating, state.model).logits(images)
        samples = batch["weight"] @ task.contained(batch["target"]).astype(jnp.float32)
        measured = task.measure(logits, batch) | rule.measure(state.opt_state, images, batch)
        of_batch = measured | {"samples": samples}
        return jax.tree.map(jnp.add, sums, of_batch)

    def trace(model, batch):
        def mean_loss(perturbations):
            logits, images = nnx.merge(blueprint.evaluating, model).trace(batch["raw"], perturbations)
            return task.sums(logits, batch)["loss"] / batch["weight"].sum(), (logits, images)

        _, shapes = jax.eval_shape(lambda: nnx.merge(blueprint.evaluating, model).trace(batch["raw"]))
        unperturbed = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        gradients, (logits, images) = jax.grad(mean_loss, has_aux=True)(unperturbed)
        # Lists, since whatever maps over a dict sorts it by name.
        return logits, [images[name] for name in stages], [gradients[name] for name in stages]

    def evaluate_raw(state, sums, batch):
        return compiled_evaluate(state, sums, compiled_process(state.model, batch["raw"]), batch)

    jit = functools.partial(jax.jit, out_shardings=shardings().everywhere, compiler_options=compiler.options())
    # Compiled apart from the head, whose functions runs with other processing then find in the cache.
    compiled_process = jax.jit(process, out_shardings=shardings().split, compiler_options=compiler.options())
    compiled_train, compiled_evaluate = jit(train, donate_argnums=0), jit(evaluate, donate_argnums=1)
    return Steps(
        init=jit(init, compiler_options=compiler.for_one_call()),
        begin=jit(begin),
        train=train_processed if config.processing.is_fixed else compiled_train,
        lower=lower_processed if config.processing.is_fixed else compiled_train.lower,
        evaluate=evaluate_raw,
        trace=jit(trace),
        stages=stages,
        zero_sums=jit(zero_sums),
        zero_evaluated=jit(zero_evaluated),
        task=task,
        rule=rule,
    )
