"""Scores a model at points of its processing, on all samples and on resamples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from r2l_jax.data.loader import Batch
from r2l_jax.drift import statistics
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, turned
from r2l_jax.drift.search.measure import TOGETHER, Measurer, ticking

RESAMPLES = 200

# The positions of knobs by name, in alphabetical order; knobs that are left out stand at 0.
Point = tuple[tuple[str, float], ...]


def point(positions: Mapping[str, float]) -> Point:
    """Returns the point at which some knobs have these positions, and all others their default."""
    return tuple((name, float(position)) for name, position in sorted(positions.items()) if position)


class Between(NamedTuple):
    """A point, and the known points on both sides of it."""

    point: Point
    inner: Point
    outer: Point


class ScoredPoints:
    """Measures the score at points, each point once, with progress bars on stderr.

    Args:
        frozen: the model.
        knobs: the knobs that points name.
        batches: the samples, see `whole_batches`; samples of weight 0 do not count.
        seed: the seed of the resamples. Each draws as many scenes as there are, with replacement.
        scenes: the number of each sample's scene, from 0; None if each shows a scene of its own.

    Attributes:
        samples: the number of samples.
    """

    def __init__(
        self,
        frozen: Frozen,
        knobs: Mapping[str, Knob],
        batches: Sequence[Batch],
        seed: int,
        scenes: np.ndarray | None = None,
    ):
        self._frozen, self._knobs = frozen, knobs
        self._row = len(batches[0]["weight"])
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
        # Samples that only fill a batch up are left out, so that the batch size does not matter.
        self._samples = jax.tree.map(lambda leaf: leaf[whole["weight"] > 0], whole)
        self.samples = len(self._samples["weight"])
        self._scenes = np.arange(self.samples) if scenes is None else scenes
        count = int(self._scenes.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)[:, self._scenes]
        self._counts = np.concatenate([np.ones((1, self.samples)), drawn]).astype(np.float32)
        self._measurer, self._score = Measurer(frozen), jax.jit(jax.vmap(frozen.task.score_of))
        # For each point the confusion matrices of the samples, `(N, C, C)`; which of them are measured rather than
        # assumed, `(N,)`; and the scores.
        self._known: dict[Point, np.ndarray] = {}
        self._seen: dict[Point, np.ndarray] = {}
        self._scores: dict[Point, np.ndarray] = {}

    def at(self, points: Sequence[Point], title: str) -> np.ndarray:
        """Returns the scores at points, `(points, 1 + RESAMPLES)`: on all samples, then on each resample.

        Points are measured on all samples that were not measured there before, with a progress bar of this title.

        Raises:
            Interrupted: a signal has asked to stop.
        """
        left = {each: ~self._seen.get(each, np.zeros(self.samples, bool)) for each in points}
        self._measure(
            {each: (samples, self._known.get(each)) for each, samples in left.items() if samples.any()}, title
        )
        return self.known(points)

    def known(self, points: Sequence[Point]) -> np.ndarray:
        """Returns the scores at known points, as `at` does, with the outcomes that `between` assumed."""
        return np.stack([self._scored(point) for point in points])

    def outcomes(self, points: Sequence[Point]) -> np.ndarray:
        """Returns the outcome of each sample at known points, `(points, N)`, whose means are the scores."""
        confusions = np.stack([self._known[point] for point in points]).astype(float)
        return statistics.contributions(*self._frozen.task.outcome(confusions))

    def by_scene(self, outcomes: np.ndarray) -> np.ndarray:
        """Joins outcomes of the samples `(N,)` to one for each scene, see `statistics.by_scene`."""
        return statistics.by_scene(outcomes, self._scenes)

    def between(self, points: Sequence[Between], title: str) -> None:
        """Measures points that are not known yet, on the samples whose outcome differs between the points beside them.

        For all other samples, the outcome at both points beside is assumed.

        Raises:
            Interrupted: a signal has asked to stop.
        """
        wanted = {}
        for point, inner, outer in points:
            if point not in self._known:
                wanted[point] = ((self._known[inner] != self._known[outer]).any((1, 2)), self._known[inner])
        self._measure(wanted, title)

    def _measure(self, wanted: Mapping[Point, tuple[np.ndarray, np.ndarray | None]], title: str) -> None:
        """Measures points.

        Args:
            wanted: for each point the samples to measure `(N,)`, and the confusion matrices of the others, in an array
                for all samples, or None where all are measured.
            title: the title of the progress bar.
        """
        rows = [
            (point, indices[start : start + self._row])
            for point, (samples, _) in wanted.items()
            for indices in [np.flatnonzero(samples)]
            for start in range(0, len(indices), self._row)
        ]
        measured: dict[Point, list[np.ndarray]] = {point: [] for point in wanted}
        together = TOGETHER * jax.device_count()
        with ticking(title, len(rows)) as tick:
            for start in range(0, len(rows), together):
                group = rows[start : start + together]
                confusions = self._measurer.confusions([self._as_batch(*row) for row in group], tick)
                for (point, indices), of_row in zip(group, confusions, strict=True):
                    measured[point].append(of_row[: len(indices)])
        for point, confusions in measured.items():
            self._add(point, *wanted[point], confusions)

    def _add(
        self, point: Point, samples: np.ndarray, others: np.ndarray | None, measured: Sequence[np.ndarray]
    ) -> None:
        """Adds the confusion matrices of the samples measured at a point to the stored ones."""
        if others is None:
            whole = np.concatenate(measured)
        else:
            whole = others.copy()
            if measured:
                whole[samples] = np.concatenate(measured)
        self._known[point], self._seen[point] = whole, self._seen.get(point, False) | samples
        self._scores.pop(point, None)

    def _as_batch(self, point: Point, indices: np.ndarray) -> tuple[dict[str, np.ndarray], Batch]:
        """Returns the parameters of a point, and samples, which the last one fills up to the size of a batch."""
        moved = [(self._knobs[name], position) for name, position in point]
        filled = np.append(indices, np.full(self._row - len(indices), indices[-1]))
        batch = jax.tree.map(lambda leaf: leaf[filled], self._samples)
        return turned(self._frozen.facts, self._frozen.default, moved), batch

    def _scored(self, point: Point) -> np.ndarray:
        if point not in self._scores:
            samples, *classes = self._known[point].shape
            # The confusion of a resample is the sum of its samples' confusions.
            confusion = self._counts @ self._known[point].reshape(samples, -1)
            self._scores[point] = np.asarray(self._score(confusion.reshape(-1, *classes)))
        return self._scores[point]
