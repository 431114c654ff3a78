"""Measures sensitivities: gradients of the task loss for parameters and for the images after stages."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from isp.parameter import MOST_ELEMENTS
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import moved
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.runtime.hosts import gathered, no_bar

PyTree = Any

# The distance that values move, in natural ranges.
PER_CENT = 0.01


class Change(NamedTuple):
    """The changes of the loss of each sample when a parameter or an image moves by 1% of its natural range.

    Attributes:
        worst: the change when each value moves in the direction that raises the loss, `(N,)`.
        together: the change when all values move up, `(N,)`.
    """

    worst: jax.Array | np.ndarray
    together: jax.Array | np.ndarray


class Sensitivity(NamedTuple):
    """The sensitivity of samples.

    Attributes:
        loss: the task loss of each sample, `(N,)`.
        parameters: the change with each parameter of the pipeline, in the order of the stages.
        elements: the change when a single value moves up, `(N, ...)` in the parameter's shape; for each parameter of 2
            to `MOST_ELEMENTS` values, in the same order.
        stages: the change with the image after each stage, in order.
    """

    loss: jax.Array | np.ndarray
    parameters: dict[str, Change]
    elements: dict[str, jax.Array | np.ndarray]
    stages: dict[str, Change]


def measure(
    frozen: Frozen,
    dataset: RawDataset,
    indices: np.ndarray,
    batch_size: int,
    tick: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Measures the sensitivity of each sample, with a progress bar on stderr; returns NumPy arrays.

    Args:
        frozen: the model.
        dataset: the data set.
        indices: the samples.
        batch_size: samples at once. The numbers do not depend on it.
        tick: called after each batch; an exception from it ends the measuring.
    """
    devices = jax.device_count()
    batch_size = -(-min(batch_size, len(indices)) // devices) * devices
    default, rest = jax.device_put((frozen.default, frozen.rest), shardings().everywhere)
    function = compiled(frozen)
    ahead, measured, taken = OneAhead(), [], []
    total = -(-len(indices) // batch_size)
    with tqdm(total=total, desc="sensitivity", unit="batch", disable=no_bar()) as bar:
        for batch in loader.eval_batches(dataset, indices, batch_size, whole=True):
            taken.append(batch["weight"] > 0)
            on_devices = to_devices(batch, shardings().split, whole=True)
            measured.append(ahead.begun(function(default, rest, on_devices)))
            bar.update()
            tick()
    taken = np.concatenate(taken)
    every = jax.tree.map(lambda *parts: np.concatenate(parts)[taken], *gathered(measured))
    # JAX sorts the dicts of a tree by name; these are in the order of the stages.
    pipeline = frozen.pipeline(frozen.default)
    parameters = list(pipeline.parameters())
    return Sensitivity(
        every.loss,
        {name: every.parameters[name] for name in parameters},
        {name: every.elements[name] for name in parameters if name in every.elements},
        {name: every.stages[name] for name in pipeline.stage_names},
    )


def compiled(frozen: Frozen) -> Callable[[dict[str, jax.Array], PyTree, Batch], Sensitivity]:
    """Compiles the sensitivity of each sample of a batch, a function of `(frozen.default, frozen.rest, batch)`.

    Each sample is a batch of its own, since the Dice loss of a batch is that of all its pixels together.
    Batch norms use their running statistics, so that no sample depends on the others.
    """

    def of_sample(default, rest, sample):
        batch = jax.tree.map(lambda leaf: leaf[None], sample)

        def loss(offsets, perturbations):
            images, _ = frozen.pipeline(moved(frozen.facts, default, offsets)).trace(batch["raw"], perturbations)
            return frozen.sums(images, rest, batch)["loss"]

        _, images = jax.eval_shape(lambda: frozen.pipeline(default).trace(batch["raw"]))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (default, images))
        value, (parameters, stages) = jax.value_and_grad(loss, argnums=(0, 1))(*zeros)
        parameters, stages = jax.tree.map(lambda gradient: PER_CENT * gradient, (parameters, stages))
        return Sensitivity(
            value,
            {name: _change(each) for name, each in parameters.items()},
            {name: each for name, each in parameters.items() if 1 < each.size <= MOST_ELEMENTS},
            {name: _change(each) for name, each in stages.items()},
        )

    return jax.jit(
        jax.vmap(of_sample, (None, None, 0)),
        out_shardings=shardings().split,
        compiler_options=compiler.options(),
    )


def _change(each: jax.Array) -> Change:
    return Change(jnp.abs(each).sum(), each.sum())
