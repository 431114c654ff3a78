"""Evaluates a trained model in many cases, from mosaics that are read once."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
import tasks
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.cases import OWN, Case, camera_of
from r2l_jax.drift.outcomes import to_text
from r2l_jax.drift.renderer import Processor, Recipe, Renderer, grouped
from r2l_jax.drift.synthesis.summary import OUTCOMES, PER_CLASS, Numbers
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task, confusions
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.training.artifact import Artifact


class Evaluator:
    """Evaluates cases that share compiled functions and images, see `Renderer`.

    The functions from images to logits, and from these to the sums of loss and confusion and the samples' outcomes, are
    compiled once for all folds of a run, and for all runs with the same head and the same data set.

    Args:
        batch_size: samples at once, a multiple of the devices.
        seed: the seed of the cases' noise.
    """

    def __init__(self, batch_size: int, seed: int = 0):
        self._batch_size = batch_size
        self._renderer = Renderer(seed, shardings().split)
        jit = functools.partial(jax.jit, compiler_options=compiler.options())
        self._logits = jit(_logits, static_argnums=0, out_shardings=shardings().split)
        self._average = jit(_average, static_argnums=0, out_shardings=shardings().split)
        self._add = jit(_add, static_argnums=0, out_shardings=shardings().everywhere)

    def count(self, fold: Artifact, cases: Sequence[Case]) -> int:
        """Returns how many times `evaluate` calls its `tick`."""
        return len(cases) * -(-len(fold.measured_indices) // self._batch_size)

    def evaluate(
        self,
        folds: Sequence[Artifact],
        dataset: RawDataset,
        cases: Sequence[Case],
        tick: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Numbers]]:
        """Computes the numbers of the models of several folds on the same samples, and of their ensemble.

        The ensemble predicts with the mean of the models' probabilities, and comes last; a single model has no
        ensemble. The numbers depend neither on the batch size nor on the other cases.

        Args:
            folds: folds of one recipe.
            dataset: the mosaics at the intensity of the cases.
            cases: the cases.
            tick: called after each case of each batch; an exception from it ends the evaluation.
        """
        first, models = folds[0], [fold.model for fold in folds]
        task, count = first.task, len(folds) + (len(folds) > 1)
        pipelines = {case.pipeline for case in cases if case.pipeline is not None}
        shared: dict[NamedPipeline | None, Processor] = {}
        processors: list[dict[NamedPipeline | None, Processor]] = [
            {None: Processor.of(each.processor)} for each in models
        ]
        if metering_of(models[0].processor):
            # Each model meters by its own target.
            for model, own in zip(models, processors, strict=True):
                own |= {
                    each: Processor.of(each.metered_as(model.processor)(camera_of(first.dataset))) for each in pipelines
                }
        else:
            shared |= {each: Processor.of(each(camera_of(first.dataset))) for each in pipelines}
        heads = [nnx.split(RawToLogit(Unprocessed(), model.normalizer, model.head)) for model in models]
        zeros = {name: jnp.zeros(()) for name in task.metrics}
        zeros |= {"loss": jnp.zeros(task.loss_shape), "confusion": jnp.zeros(2 * (len(task.classes),))}
        zeros = jax.device_put(zeros, shardings().everywhere)
        names = {Recipe.of(case): case.name for case in cases}
        sums = [dict.fromkeys(names.values(), zeros) for _ in range(count)]
        outcomes: list[dict[str, list[jax.Array]]] = [{name: [] for name in names.values()} for _ in range(count)]
        # The device works at most one case ahead, because the images of many cases would fill its memory.
        ahead = OneAhead()
        for batch in loader.eval_batches(dataset, first.measured_indices, self._batch_size, keep_decoded=False):
            batch = to_devices(batch, shardings().split)
            mosaics = (batch["raw"], batch["index"], first.dataset.camera)
            for recipe, rendered in self._images(names, mosaics, processors, shared):
                name = names[recipe]
                logits = [self._logits(*head, images) for head, images in zip(heads, rendered, strict=True)]
                if len(folds) > 1:
                    logits.append(self._average(task, logits, batch["raw"]))
                tested = {**batch, "target": self._renderer.targets(recipe.acquisition, batch["target"])}
                added = [self._add(task, sums[number][name], each, tested) for number, each in enumerate(logits)]
                for number, (total, of_batch) in enumerate(ahead.begun(added)):
                    sums[number][name] = total
                    outcomes[number][name].append(of_batch)
                tick()
        return [
            {name: _numbers(total[name], of_samples[name], first.measured_indices, task) for name in total}
            for total, of_samples in zip(*jax.device_get((sums, outcomes)), strict=True)
        ]

    def _images(
        self,
        recipes: Iterable[Recipe],
        mosaics: tuple[jax.Array, jax.Array, isp.Camera | None],
        processors: Sequence[Mapping[NamedPipeline | None, Processor]],
        shared: Mapping[NamedPipeline | None, Processor],
    ) -> Iterator[tuple[Recipe, Sequence[jax.Array]]]:
        """Yields the images of each recipe for every model: its own, or those that a shared pipeline renders once."""
        own, others = [], []
        for recipe in recipes:
            (own if recipe.processing.pipeline in processors[0] else others).append(recipe)
        # All models process the same mosaics, which are drawn once.
        for acquisition, of_acquisition in grouped(own, lambda recipe: recipe.acquisition):
            taken = self._renderer.mosaics(acquisition, *mosaics)
            steps = [recipe._replace(acquisition=OWN) for recipe in of_acquisition]
            by_model = [self._renderer.images(steps, taken, *mosaics[1:], of_model) for of_model in processors]
            for recipe, rendered in zip(of_acquisition, zip(*by_model, strict=True), strict=True):
                yield recipe, [images for _, images in rendered]
        for recipe, images in self._renderer.images(others, *mosaics, shared):
            yield recipe, [images] * len(processors)


def _logits(graph: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(images)


def _average(task: Task, logits: Sequence[jax.Array], raw: jax.Array) -> jax.Array:
    """Returns the logits of the mean of several models' probabilities."""
    return task.logits_of(jnp.mean(jnp.stack([task.probabilities(each, raw.shape[1]) for each in logits]), 0))


def _add(
    task: Task, sums: dict[str, jax.Array], logits: jax.Array, batch: Batch
) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
    """Adds the sums of a batch to the running sums, and returns the samples' indices and outcomes `(2, B)`."""
    total = jax.tree.map(jnp.add, sums, task.measure(logits, batch))
    return total, (batch["index"], jnp.stack(task.outcome(confusions(task, logits, batch))))


def _numbers(
    sums: Mapping[str, Any], outcomes: Sequence[tuple[np.ndarray, np.ndarray]], samples: np.ndarray, task: Task
) -> Numbers:
    """Computes the numbers of all samples from their sums, and puts their outcomes in the order of the samples."""
    sums = task.totals(sums)
    confusion = sums["confusion"]
    index, of_samples = (np.concatenate(parts, -1) for parts in zip(*outcomes, strict=True))
    order, ordered = np.argsort(samples), np.zeros((len(samples), 2), np.float32)
    # Samples that only fill up the last batch have 0 of 0.
    np.add.at(ordered, order[np.searchsorted(samples, index, sorter=order)], of_samples.T)
    return {
        "loss": float(sums["loss"] / confusion.sum()),
        task.score: float(task.score_of(confusion)),
        **{metric: float(sums[metric] / confusion.sum()) for metric in task.metrics},
        **{
            metric: dict(zip(task.classes, map(float, getattr(tasks.metrics, metric)(confusion)), strict=True))
            for metric in PER_CLASS
        },
        "confusion": confusion.tolist(),
        OUTCOMES: to_text(ordered.T),
    }
