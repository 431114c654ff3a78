"""The training state and the compiled steps that change it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from isp.published import additive_layer_stage
from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.forensics.attack import Attack
from r2l_jax.model.processors import NeuralProcessor, half_size
from r2l_jax.model.raw_to_logit import RawToLogit, Standardize
from r2l_jax.model.tasks import Objective, make_objective
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import shardings
from tasks.layers import BatchNorm

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes.

    Attributes:
        step: updates done.
        model: the variables of a `RawToLogit`.
        opt_state: the optimiser's; of adversarial training an `AttackState`.
        sums: added up since the epoch began: `loss` and `confusion (C, C)` as the `Objective` says, `gradient_norm` of
            each of the processor's parameters, or of all those of its network, and in adversarial training the
            `deviation` of each sample's image from its default rendering.
    """

    step: jax.Array
    model: nnx.State
    opt_state: PyTree
    sums: PyTree


class Steps(NamedTuple):
    """The compiled functions of a run. They depend on shapes alone, so that all folds share them.

    Attributes:
        init: a fresh model's variables from a key, and the statistics that `Standardize` takes (None if nothing does).
        begin: the state in which a model's training begins.
        train: one update, `(state, batch, key) -> (state, loss)`; consumes the state.
        evaluate: adds a batch to sums, `(state, sums, batch) -> sums`; consumes the sums.
        trace: `(model, batch) -> (logits, images, gradients)`: the image after each stage, and the mean loss's gradient
            for it.
        stages: the names of the stages, in the order of those lists.
        zero_sums: the sums of no training batch.
        objective: what the model is trained for.
        summary: the numbers that a run is summed up by, by their names in its history.
    """

    init: Callable[..., nnx.State]
    begin: Callable[[nnx.State], TrainState]
    train: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, jax.Array]]
    evaluate: Callable[[TrainState, PyTree, Batch], PyTree]
    trace: Callable[[nnx.State, Batch], tuple[jax.Array, list[jax.Array], list[jax.Array]]]
    stages: tuple[str, ...]
    zero_sums: Callable[[], PyTree]
    objective: Objective
    summary: tuple[str, ...]


def _norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm of all values of a tree together."""
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


Statistics = tuple[jax.Array, jax.Array]


def unknown_statistics() -> Statistics:
    """A mean and a standard deviation that change nothing, for a model whose own are still to come."""
    return jnp.zeros(3), jnp.ones(3)


def make_model(
    config: TrainConfig, dataset: RawDataset, objective: Objective, rngs: nnx.Rngs, statistics: Statistics | None
) -> RawToLogit:
    """Makes a run's model, in training mode.

    Args:
        config: names the processing.
        dataset: its camera is what the processing starts from, its mosaics' size an additive layer's.
        objective: makes the head.
        rngs: draw the weights.
        statistics: mean and standard deviation for `Standardize`; not used if nothing takes them.
    """
    if config.processing_mode == "neural_network":
        processor = NeuralProcessor(dataset.camera.pattern, Standardize(*statistics), rngs)
    else:
        processor = (config.named_pipeline or half_size)(dataset.camera)
    if config.adv_noise_layer:
        raw, _ = dataset[0]
        processor = processor.inserted(additive_layer_stage(raw.shape), after=processor.stage_names[-1])
    normalizer = BatchNorm(3, affine=False, rngs=rngs) if config.learns_processing else Standardize(*statistics)
    return RawToLogit(processor, normalizer, objective.make_head(rngs))


def make_steps(config: TrainConfig, dataset: RawDataset) -> Steps:
    """Makes what a run computes, compiled at the first use: a model for the data set's task, trained by Adam.

    In adversarial training, that is an `Attack` on it.
    """
    objective = make_objective(config, dataset)
    optimizer = optax.adam(config.lr)
    frozen = {"processor": config.freeze_processor or not config.learns_processing, "head": config.freeze_classifier}
    trained = nnx.All(nnx.Param, nnx.Not(nnx.Any(*(nnx.PathContains(part) for part in frozen if frozen[part]))))

    def parameters(model):
        return nnx.split_state(model, trained, ...)[0]

    def processor_gradients(gradients):
        return nnx.to_pure_dict(gradients).get("processor", {})

    module = nnx.eval_shape(lambda: make_model(config, dataset, objective, nnx.Rngs(0), unknown_statistics()))
    module.eval()
    eval_graph, stages = nnx.graphdef(module), module.processor.stage_names
    attack = Attack(config, objective, eval_graph, module.processor) if config.adv_training else None
    module.train()
    # What is frozen keeps its batch statistics, too.
    if config.freeze_processor:
        module.processor.eval()
    if config.freeze_classifier:
        module.head.eval()
    train_graph = nnx.graphdef(module)
    processor_parameters = processor_gradients(parameters(nnx.state(module))).keys()

    def zero_sums():
        classes = len(objective.classes)
        sums = {"loss": jnp.zeros(()), "confusion": jnp.zeros((classes, classes))}
        if attack:
            sums["deviation"] = jnp.zeros(())
        return sums | {"gradient_norm": {name: jnp.zeros(()) for name in processor_parameters}}

    def init(key, statistics=None):
        return nnx.state(make_model(config, dataset, objective, nnx.Rngs(params=key), statistics))

    def begin(model):
        opt_state = attack.begin(model) if attack else optimizer.init(parameters(model))
        return TrainState(jnp.zeros((), jnp.int32), model, opt_state, zero_sums())

    def learn(model, opt_state, batch, key):
        params, fixed = nnx.split_state(model, trained, ...)

        def mean_loss(params):
            module = nnx.merge(train_graph, params, fixed, copy=True)  # a copy, whose statistics may change in here
            logits = module(batch["raw"], key, config.augmentation)
            sums = objective.sums(logits, batch)
            _, updated = nnx.split_state(nnx.state(module), trained, ...)
            return sums["loss"] / batch["weight"].sum(), (sums, updated)

        (loss, (sums, fixed)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
        sums["gradient_norm"] = {name: _norm(tree) for name, tree in processor_gradients(gradients).items()}
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return nnx.merge_state(optax.apply_updates(params, updates), fixed), opt_state, loss, sums

    update = attack.update if attack else learn

    def train(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        batch = objective.augmented(batch, key, config.augmentation)
        model, opt_state, loss, sums = update(state.model, state.opt_state, batch, key)
        return TrainState(state.step + 1, model, opt_state, jax.tree.map(jnp.add, state.sums, sums)), loss

    def evaluate(state, sums, batch):
        module = nnx.merge(eval_graph, state.model)
        images = module.processor(batch["raw"])
        of_batch = objective.sums(module.logits(images), batch)
        if attack:
            of_batch["deviation"] = attack.deviations(state.opt_state, images, batch)
        return jax.tree.map(jnp.add, sums, of_batch)

    def trace(model, batch):
        def mean_loss(perturbations):
            logits, images = nnx.merge(eval_graph, model).trace(batch["raw"], perturbations)
            return objective.sums(logits, batch)["loss"] / batch["weight"].sum(), (logits, images)

        _, shapes = jax.eval_shape(lambda: nnx.merge(eval_graph, model).trace(batch["raw"]))
        unperturbed = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        gradients, (logits, images) = jax.grad(mean_loss, has_aux=True)(unperturbed)
        # Lists, since whatever maps over a dict sorts it by name.
        return logits, [images[name] for name in stages], [gradients[name] for name in stages]

    jit = functools.partial(jax.jit, out_shardings=shardings().everywhere, compiler_options=compiler.options())
    return Steps(
        init=jit(init),
        begin=jit(begin),
        train=jit(train, donate_argnums=0),
        evaluate=jit(evaluate, donate_argnums=1),
        trace=jit(trace),
        stages=stages,
        zero_sums=jit(zero_sums),
        objective=objective,
        summary=objective.summary + (("val_deviation", "train_deviation") if attack else ()),
    )
