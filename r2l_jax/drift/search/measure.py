"""A trained model under many processings at once, sample by sample."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.stacks import Stacks
from r2l_jax.runtime.devices import OneAhead
from r2l_jax.runtime.stop import Interrupted

# Processings that a device works on together: more fill its memory and make it no faster.
TOGETHER = 16

# Drops of a score below a thousandth are noise, and ratios to them mean nothing.
LEAST_DROP = 1e-3


class Measured(NamedTuple):
    """What a model comes to under one processing.

    Attributes:
        loss: the mean task loss.
        score: the task's.
        ssim: the mean structural similarity to the default rendering.
        confusion: of each sample, `(N, C, C)`.
    """

    loss: float
    score: float
    ssim: float
    confusion: np.ndarray


@contextlib.contextmanager
def ticking(
    title: str, total: int, stop: Callable[[], bool], stopped: Callable[[], str]
) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, of so many samples' batches under a processing, and what moves it on.

    Args:
        title: of the bar.
        total: how many there are; none makes no bar.
        stop: asked after each batch.
        stopped: what to say if it says so.

    Yields:
        What `Measurer.measure` takes as its `tick`.

    Raises:
        Interrupted: `stop` said so.
    """
    with tqdm(total=total, desc=title, unit="batch", disable=not total) as bar:

        def tick(count: int) -> None:
            bar.update(count)
            if stop():
                raise Interrupted(stopped())

        yield tick


class Measurer:
    """Measures a frozen model; what it compiles serves all calls with batches of one shape.

    Args:
        frozen: the model.
        devices: which devices share the processings; all of this process if left out.
    """

    def __init__(self, frozen: Frozen, devices: Sequence[jax.Device] | None = None):
        self._frozen, self._stacks = frozen, Stacks(devices)

    def measure(
        self,
        parameters: Sequence[dict[str, np.ndarray]],
        batches: Iterable[Batch],
        tick: Callable[[int], None] = lambda count: None,
    ) -> list[Measured]:
        """Measures the model under several processings.

        Args:
            parameters: the values of each, all of the pipeline's.
            batches: the samples, those of weight 0 left out.
            tick: called with the number of processings that a batch was measured under; what it raises ends the
                measuring.
        """
        batches = list(batches)
        together = len(self._stacks.devices) * TOGETHER
        results = []
        for start in range(0, len(parameters), together):
            results += self._measure(parameters[start : start + together], batches, tick)
        return results

    def _measure(self, parameters, batches, tick) -> list[Measured]:
        # All calls' stacks are of few sizes, so that few are compiled: powers of two for each device.
        count = 2 ** max(-(-len(parameters) // len(self._stacks.devices)) - 1, 0).bit_length()
        padded = [*parameters, *[parameters[-1]] * (count * len(self._stacks.devices) - len(parameters))]
        stack = self._stacks.stack([jax.tree.map(np.float32, dict(values)) for values in padded])
        shared = (self._frozen.default, self._frozen.rest)
        function = self._stacks.compile(self._of_batch, (stack,), (*shared, batches[0]))
        stack, *shared = jax.device_put((stack, *shared), function.input_shardings[0][:3])
        ahead, measured = OneAhead(), []
        for batch in batches:
            measured.append(ahead.begun(function(stack, *shared, batch)))
            tick(len(parameters))
        taken = np.concatenate([batch["weight"] for batch in batches]) > 0
        of_each = [self._stacks.unstack(of_batch, len(parameters)) for of_batch in measured]
        return [self._summary(taken, *parts) for parts in zip(*of_each, strict=True)]

    def _of_batch(self, parameters, default, rest, batch: Batch) -> dict[str, jax.Array]:
        images, default = (self._frozen.pipeline(values)(batch["raw"]) for values in (parameters, default))
        logits = self._frozen.logits(images, rest)
        task = self._frozen.task

        def confusion(logits, sample):
            return task.sums(logits[None], jax.tree.map(lambda leaf: leaf[None], sample))["confusion"]

        return {
            "loss": task.sums(logits, batch)["loss"],
            "ssim": jax.vmap(tasks.losses.ssim)(images, default),
            "confusion": jax.vmap(confusion)(logits, batch),
        }

    def _summary(self, taken: np.ndarray, *batches: dict[str, Any]) -> Measured:
        ssim, confusion = (np.concatenate([batch[name] for batch in batches])[taken] for name in ("ssim", "confusion"))
        loss = sum(batch["loss"] for batch in batches) / taken.sum()
        score = self._frozen.task.score_of(confusion.sum(0))
        return Measured(float(loss), float(score), float(ssim.mean()), confusion)
