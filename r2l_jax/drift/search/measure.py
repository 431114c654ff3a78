"""Measures a trained model under many processings at once, sample by sample."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

import isp
import tasks
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.outcomes import Outcomes, joined
from r2l_jax.drift.search import stacks
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task, confusions
from r2l_jax.runtime import compiler, stop
from r2l_jax.runtime.devices import OneAhead
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.run import BATCH

# Processings that a device works on together: more fill its memory and make it no faster.
TOGETHER = 16

# Drops of a score below a thousandth are noise, and ratios to them mean nothing.
LEAST_DROP = 1e-3


class Measured(NamedTuple):
    """The numbers of a model under one processing.

    Attributes:
        loss: the task loss of all samples, see `Task.totals`.
        score: the task's score.
        ssim: the mean structural similarity to the default rendering.
        confusion: the confusion matrix of each sample, `(N, C, C)`.
        change: the largest difference from the default rendering, of all pixels and channels; images are in [0, 1].
        color: the color difference CIEDE2000 from the default rendering: its mean over all pixels, and the 95th
            percentile over the pixels of a sample, averaged over the samples. The images are taken for sRGB.
        square: the mean square difference from the default rendering.
    """

    loss: float
    score: float
    ssim: float
    confusion: np.ndarray
    change: float = 0.0
    color: tuple[float, float] = (0.0, 0.0)
    square: float = 0.0


def whole_batches(dataset: RawDataset, indices: np.ndarray, batch_size: int) -> list[Batch[np.ndarray]]:
    """Loads samples to measure on: all of them in every process, since processes share the processings."""
    return list(loader.eval_batches(dataset, indices, batch_size))


def own_outcomes(folds: Sequence[Artifact]) -> np.ndarray:
    """Measures the models of a run on its own images, with a function that all runs of one structure share.

    Returns:
        The outcomes of the measured scenes `(S,)`, whose mean is the score, see `outcomes.joined`.
    """
    measured = []
    for fold in folds:
        batches = whole_batches(fold.dataset, fold.measured_indices, BATCH)
        confusion = confusions_of(fold.model, fold.task, batches)
        scenes = fold.dataset.scenes(fold.measured_indices)
        measured.append(Outcomes(fold.measured_indices, {"own": np.stack(fold.task.outcome(confusion))}, scenes))
    return joined(measured, "own")


def confusions_of(model: RawToLogit, task: Task, batches: Sequence[Batch]) -> np.ndarray:
    """Measures a model with a function that all models of one structure share.

    Returns:
        The confusion matrix of each sample, `(N, C, C)`.
    """
    split, ahead = nnx.split(model), OneAhead()
    found = jax.device_get([ahead.begun(_confusions()(*split, task, batch)) for batch in batches])
    return np.concatenate(found)[np.concatenate([batch["weight"] for batch in batches]) > 0]


@functools.cache
def _confusions() -> Callable[..., jax.Array]:
    def compute(graph: nnx.GraphDef, state: nnx.State, task: Task, batch: Batch) -> jax.Array:
        return confusions(task, nnx.merge(graph, state)(batch["raw"]), batch)

    # Made at the first use: the compiler is not asked for its options when this module is imported.
    return jax.jit(compute, static_argnums=(0, 2), compiler_options=compiler.options())


@contextlib.contextmanager
def ticking(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar of `total` steps, none without steps, and yields the function that moves it.

    That function raises Interrupted if a signal has asked to stop.
    """
    with tqdm(total=total, desc=title, unit="batch", disable=None if total else True) as bar:

        def tick(count: int) -> None:
            bar.update(count)
            if stop.requested():
                raise Interrupted("stopped; the same command begins this analysis anew")

        yield tick


class Measurer:
    """Measures a frozen model under processings that the devices share, see `stacks`.

    Calls with batches of one shape share compiled functions.
    """

    def __init__(self, frozen: Frozen):
        self._frozen = frozen

    def measure_samples(
        self,
        parameters: Sequence[dict[str, np.ndarray]],
        dataset: RawDataset,
        indices: np.ndarray,
        batch_size: int,
        title: str = "",
    ) -> list[Measured]:
        """Measures the model under several processings on samples of a data set, with a progress bar if it has a title.

        Args:
            parameters: for each processing, the values of all parameters of the pipeline.
            dataset: the data set.
            indices: the samples.
            batch_size: samples at once.
            title: the title of the progress bar.
        """
        batches = whole_batches(dataset, indices, batch_size)
        with ticking(title, len(parameters) * len(batches) if title else 0) as tick:
            return self.measure(parameters, batches, tick)

    def measure(
        self,
        parameters: Sequence[dict[str, np.ndarray]],
        batches: Iterable[Batch],
        tick: Callable[[int], None] = lambda count: None,
    ) -> list[Measured]:
        """Measures the model under several processings.

        Args:
            parameters: as for `measure_samples`.
            batches: the samples, see `whole_batches`; samples of weight 0 do not count.
            tick: called after each batch with the number of processings; an exception from it ends the measuring.
        """
        batches = list(batches)
        taken = np.concatenate([batch["weight"] for batch in batches]) > 0
        results, together = [], jax.device_count() * TOGETHER
        for start in range(0, len(parameters), together):
            part = parameters[start : start + together]
            stack, frozen = stacks.placed(
                _stack([jax.tree.map(np.float32, dict(values)) for values in part]), self._frozen
            )
            ahead, measured = OneAhead(), []
            for batch in batches:
                measured.append(ahead.begun(stacks.mapped(_of_batch)(None, stack, (), (frozen, batch))))
                tick(len(part))
            of_each = [stacks.unstack(of_batch, len(part)) for of_batch in measured]
            results += [self._summary(taken, *parts) for parts in zip(*of_each, strict=True)]
        return results

    def confusions(
        self, rows: Sequence[tuple[dict[str, np.ndarray], Batch]], tick: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Returns for each row the confusion matrix of each sample, `(N, C, C)`.

        Args:
            rows: at most `TOGETHER` a device: processings, each with samples of its own. All have as many.
            tick: called with the number of rows.
        """
        if not rows:
            return []
        stack = _stack([(jax.tree.map(np.float32, dict(values)), batch) for values, batch in rows])
        stack, frozen = stacks.placed(stack, self._frozen)
        results = stacks.unstack(stacks.mapped(_of_row)(None, stack, (), frozen), len(rows))
        tick(len(rows))
        return results

    def _summary(self, taken: np.ndarray, *batches: dict[str, Any]) -> Measured:
        arrays = {
            name: np.concatenate([batch[name] for batch in batches])[taken] for name in batches[0].keys() - {"loss"}
        }
        total, task = arrays["confusion"].sum(0), self._frozen.task
        loss = task.totals({"loss": sum(batch["loss"] for batch in batches), "confusion": total})["loss"] / taken.sum()
        return Measured(
            float(loss),
            float(task.score_of(total)),
            float(arrays["ssim"].mean()),
            arrays["confusion"],
            float(arrays["change"].max()),
            (float(arrays["color"].mean()), float(arrays["color_95"].mean())),
            float(arrays["square"].mean()),
        )


def _stack(trees: list[Any]) -> Any:
    """Stacks trees, to a power of two for each device, so that stacks have few sizes to compile for."""
    return stacks.stack(trees, 2 ** max(-(-len(trees) // jax.device_count()) - 1, 0).bit_length())


def _of_batch(options: None, parameters, stacked: tuple[()], shared: tuple[Frozen, Batch]) -> dict[str, jax.Array]:
    frozen, batch = shared
    images, default = (frozen.images(values, batch) for values in (parameters, frozen.default))
    logits = frozen.logits(images)
    return {
        "loss": frozen.task.measure(logits, batch)["loss"],
        "ssim": jax.vmap(tasks.losses.ssim)(images, default),
        **_differences(images, default),
        "confusion": confusions(frozen.task, logits, batch),
    }


def _of_row(options: None, row: tuple[dict[str, jax.Array], Batch], stacked: tuple[()], frozen: Frozen) -> jax.Array:
    parameters, batch = row
    return confusions(frozen.task, frozen.logits(frozen.images(parameters, batch)), batch)


def _differences(images: jax.Array, default: jax.Array) -> dict[str, jax.Array]:
    """Computes the largest and the mean square change of a value, and CIEDE2000 (mean, 95th percentile), by image."""
    color = isp.color.ciede2000(isp.color.srgb_to_lab(images), isp.color.srgb_to_lab(default))
    pixels = (-2, -1)
    return {
        "change": jnp.abs(images - default).max((-3, -2, -1)),
        "square": jnp.square(images - default).mean((-3, -2, -1)),
        "color": color.mean(pixels),
        "color_95": jnp.percentile(color, 95, pixels),
    }
