"""Evaluates a trained model in many cases, from mosaics that are read once."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import tasks
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.cases import Case, camera_of
from r2l_jax.drift.renderer import Processor, Recipe, Renderer
from r2l_jax.drift.synthesis.summary import PER_CLASS, Numbers
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.training.run import TrainedFold


class Evaluator:
    """Evaluates cases that share compiled functions and images, see `Renderer`.

    The function from images to the sums of loss and confusion is compiled once for all folds of a run, and for all runs
    with the same head and the same data set.

    Args:
        batch_size: samples at once, a multiple of the devices.
        seed: the seed of the cases' noise.
    """

    def __init__(self, batch_size: int, seed: int = 0):
        self._batch_size = batch_size
        self._renderer = Renderer(seed, shardings().split)
        self._add = jax.jit(
            _add,
            static_argnums=(0, 1),
            out_shardings=shardings().everywhere,
            compiler_options=compiler.options(),
        )

    def count(self, fold: TrainedFold, cases: Sequence[Case]) -> int:
        """Returns how many times `evaluate` calls its `tick`."""
        return len(cases) * -(-len(fold.measured_indices) // self._batch_size)

    def evaluate(
        self,
        fold: TrainedFold,
        dataset: RawDataset,
        cases: Sequence[Case],
        tick: Callable[[], None] = lambda: None,
    ) -> dict[str, Numbers]:
        """Computes the numbers of a fold's model in some cases, over the validation samples.

        The numbers depend neither on the batch size nor on the other cases.

        The data set holds the mosaics at the intensity of the cases. `tick` is called after each case of each batch; an
        exception from it ends the evaluation.
        """
        model, task = fold.model, fold.task
        pipelines = {case.pipeline for case in cases if case.pipeline is not None}
        processors: dict[NamedPipeline | None, Processor] = {None: nnx.split(model.processor)}
        processors |= {pipeline: nnx.split(pipeline(camera_of(fold.dataset))) for pipeline in pipelines}
        graph, state = nnx.split(RawToLogit(Unprocessed(), model.normalizer, model.head))
        zeros = {name: jnp.zeros(()) for name in task.metrics}
        zeros |= {"loss": jnp.zeros(task.loss_shape), "confusion": jnp.zeros(2 * (len(task.classes),))}
        sums = {case.name: jax.device_put(zeros, shardings().everywhere) for case in cases}
        names = {Recipe.of(case): case.name for case in cases}
        # The device works at most one case ahead, because the images of many cases would fill its memory.
        ahead = OneAhead()
        for batch in loader.eval_batches(dataset, fold.measured_indices, self._batch_size, keep_decoded=False):
            batch = to_devices(batch, shardings().split)
            mosaics = (batch["raw"], batch["index"], fold.dataset.camera)
            for recipe, images in self._renderer.images(names, *mosaics, processors):
                name = names[recipe]
                sums[name] = ahead.begun(self._add(graph, task, state, sums[name], images, batch))
                tick()
        return {name: _numbers(task.totals(total), task) for name, total in jax.device_get(sums).items()}


def _add(
    graph: nnx.GraphDef, task: Task, state: nnx.State, sums: dict[str, jax.Array], images: jax.Array, batch: Batch
) -> dict[str, jax.Array]:
    """Adds the sums of a batch to the running sums."""
    logits = nnx.merge(graph, state)(images)
    return jax.tree.map(jnp.add, sums, task.measure(logits, batch))


def _numbers(sums: Mapping[str, np.ndarray], task: Task) -> Numbers:
    """Computes the numbers of all samples from their sums."""
    confusion = sums["confusion"]
    return {
        "loss": float(sums["loss"] / confusion.sum()),
        task.score: float(task.score_of(confusion)),
        **{metric: float(sums[metric] / confusion.sum()) for metric in task.metrics},
        **{
            metric: dict(zip(task.classes, map(float, getattr(tasks.metrics, metric)(confusion)), strict=True))
            for metric in PER_CLASS
        },
        "confusion": confusion.tolist(),
    }
