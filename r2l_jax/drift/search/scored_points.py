"""Scores a model at points of its processing, on all samples and on resamples, and keeps the scores in a file."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from r2l_jax.data.loader import Batch
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, turned
from r2l_jax.drift.search.measure import TOGETHER, Measured, Measurer, ticking
from r2l_jax.runtime.hosts import on_first_process
from r2l_jax.runtime.store import Identity, Unfinished, identity

RESAMPLES = 200

# The positions of knobs by name, in alphabetical order; knobs that are left out stand at 0.
Point = tuple[tuple[str, float], ...]


def point(positions: Mapping[str, float]) -> Point:
    """Returns the point at which some knobs have these positions, and all others their default."""
    return tuple((name, float(position)) for name, position in sorted(positions.items()) if position)


class ScoredPoints:
    """Measures the score at points, each point once, with progress bars on stderr.

    Args:
        frozen: the model.
        knobs: the knobs that points name.
        batches: the samples, see `whole_batches`; those of weight 0 do not count.
        seed: the seed of the resamples. Each draws as many samples as there are, with replacement.
        stop: asked after each batch, and ends the measuring there; the same answer in all processes.
        file: keeps the scores of measured points, unless it is None. They are valid for the same model, the same
            samples and the same seed.

    Attributes:
        samples: the number of samples.
    """

    def __init__(
        self,
        frozen: Frozen,
        knobs: Mapping[str, Knob],
        batches: Sequence[Batch],
        seed: int,
        stop: Callable[[], bool],
        file: pathlib.Path | None,
    ):
        self._frozen, self._knobs, self._batches, self._stop = frozen, knobs, batches, stop
        self.samples = sum(int((batch["weight"] > 0).sum()) for batch in batches)
        chances = np.full(self.samples, 1 / self.samples)
        drawn = np.random.default_rng(seed).multinomial(self.samples, chances, RESAMPLES)
        self._counts = np.concatenate([np.ones((1, self.samples)), drawn]).astype(np.float32)
        self._measurer, self._scores = Measurer(frozen), jax.jit(jax.vmap(frozen.task.score_of))
        self._keeps = file is not None
        self._unfinished = Unfinished(file, _identity(frozen, batches, seed))
        self._known = self._load()

    def at(self, points: Sequence[Point], title: str) -> np.ndarray:
        """Returns the scores at points, `(points, 1 + RESAMPLES)`: on all samples, then on each resample.

        Args:
            points: the points; those that are not known yet are measured.
            title: the title of the progress bar.

        Raises:
            Interrupted: `stop` returned True.
        """
        new = [point for point in dict.fromkeys(points) if point not in self._known]
        # Scores are saved after each group of points that the measurer takes together.
        together = TOGETHER * jax.device_count()
        total = len(new) * len(self._batches)

        def stopped() -> str:
            goes_on = "the same command goes on from there" if self._keeps else "nothing is kept"
            return f"stopped with {len(self._known)} processings measured; {goes_on}"

        with ticking(title, total, self._stop, stopped) as tick:
            for start in range(0, len(new), together):
                part = new[start : start + together]
                parameters = [
                    turned(
                        self._frozen.facts,
                        self._frozen.default,
                        [(self._knobs[name], position) for name, position in point],
                    )
                    for point in part
                ]
                measured = self._measurer.measure(parameters, self._batches, tick)
                self._known |= dict(zip(part, map(self._resampled, measured), strict=True))
                self._save()
        return np.stack([self._known[point] for point in points])

    def _resampled(self, measured: Measured) -> np.ndarray:
        samples, *classes = measured.confusion.shape
        # The confusion of a resample is the sum of its samples' confusions.
        confusion = self._counts @ measured.confusion.reshape(samples, -1)
        return np.asarray(self._scores(confusion.reshape(-1, *classes)))

    def _save(self) -> None:
        points = np.array(json.dumps(list(self._known)))
        scores = np.stack(list(self._known.values()))
        on_first_process(lambda: self._unfinished.save({"points": points, "scores": scores}))

    def _load(self) -> dict[Point, np.ndarray]:
        if (arrays := on_first_process(self._unfinished.load)) is None:
            return {}
        points = [tuple(map(tuple, point)) for point in json.loads(str(arrays["points"]))]
        return dict(zip(points, arrays["scores"], strict=True))


def _identity(frozen: Frozen, batches: Sequence[Batch], seed: int) -> Identity:
    """Collects everything that scores depend on."""
    digest = hashlib.sha256()
    # Samples that only fill a batch up are left out, so that the batch size does not matter.
    for name in ("raw", "target"):
        for batch in batches:
            digest.update(np.asarray(batch[name])[np.asarray(batch["weight"]) > 0].tobytes())
    return identity({"seed": seed}, model=frozen.fingerprint, data=digest.hexdigest())
