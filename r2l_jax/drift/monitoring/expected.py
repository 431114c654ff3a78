"""Estimates, without labels, the score to expect under a drift, and the gain of adapting to it.

The diagnosis is applied to the labeled reference, and the models are measured on it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.camera_noise import with_noise
from r2l_jax.drift.monitoring.diagnosis import SCENE, UNEXPLAINED, DriftEstimate, state_of
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.simulation import taken
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import MOST
from r2l_jax.model.scores import Outcome, Score
from r2l_jax.results.result import Interval, points
from r2l_jax.training.run import BATCH, Run

# A diagnosis is refuted if chance would leave as much of a difference with this probability.
_REFUTED = 0.05

# The number of drifts drawn from their intervals, and the number of resamples for an interval.
_DRAWS, _RESAMPLES = 6, 500

# The samples on which drawn drifts are measured.
_PART = 96

_INTERVAL = (2.5, 97.5)

# The ends of causes' 95% confidence intervals, in standard deviations.
_DEVIATIONS = 1.96


class ExpectedScore(NamedTuple):
    """A score to expect, with the ends of its 95% confidence interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Remedy:
    """The gain of adapting by statistics, on the reference under the diagnosed drift.

    Attributes:
        images: how many images the models are adapted to.
        gain: the gain in score on the others, with the ends of its 95% confidence interval; None if adapting is
            refused.
        refused: why it is refused.
    """

    images: int
    gain: Interval | None = None
    refused: str | None = None

    @property
    def helps(self) -> bool:
        """Whether the score would rise at the displayed precision, a tenth of a point."""
        return self.gain is not None and self.gain[0] >= 0.0005

    def text(self, command: str) -> str:
        """States the gain of adapting, with the command that predicts with adapted models if it helps."""
        if self.gain is None:
            return f"adapting by statistics would not help: {self.refused}"
        gain, low, high = map(points, self.gain)
        gains = f"would gain {gain} ({low} to {high}) points"
        return f"adapting by statistics {f'{gains}: {command}' if self.helps else f'would not help: it {gains}'}"


def explained_by_camera(diagnosis: Sequence[DriftEstimate]) -> bool:
    """Tells whether new images have a diagnosis whose strongest cause is in the camera."""
    return bool(diagnosis) and diagnosis[0].name not in (SCENE, UNEXPLAINED)


@dataclasses.dataclass(frozen=True)
class Scored:
    """The outcomes of samples, with their score."""

    score: Score
    outcome: Outcome

    def of(self, weights: np.ndarray) -> float:
        """Computes the score of weighted samples."""
        return float(self.score(self.outcome, weights))

    def of_all(self) -> float:
        """Computes the score of all samples."""
        return self.score.of_all(self.outcome)

    def taken(self, places: np.ndarray) -> "Scored":
        """Returns the outcomes of some samples."""
        return Scored(self.score, {name: array[places] for name, array in self.outcome.items()})

    def __len__(self) -> int:
        return len(next(iter(self.outcome.values())))


def outcomes_of(run: Run, reference: Reference, raws: np.ndarray, places: np.ndarray) -> Scored:
    """Measures the ensemble of the models on samples of the reference with other raw images."""
    models = {str(number): Model(fold.model) for number, fold in enumerate(run)}
    samples = Samples(run.task, reference.dataset(run, raws), places, BATCH)
    found = measure(models, [CLEAN], samples, ensemble="all" if len(models) > 1 else None)
    return Scored(found.scoring, found.at(found.models[-1]))


class Drifted(NamedTuple):
    """The reference under a diagnosed drift.

    Attributes:
        score: the score to expect.
        raws: the raw images under the estimated drift.
        outcomes: the outcomes of these raw images.
        loss: the loss in score to expect, with the ends of its 95% confidence interval.
    """

    score: ExpectedScore
    raws: np.ndarray
    outcomes: Scored
    loss: Interval


def without_drift(run: Run, reference: Reference) -> Drifted:
    """Measures the score on the reference as it is."""
    outcomes = outcomes_of(run, reference, reference.raws, np.arange(len(reference)))
    ends = _interval(lambda rng: outcomes.of(_drawn(rng, len(outcomes))))
    return Drifted(ExpectedScore(outcomes.of_all(), *ends), reference.raws, outcomes, (0.0, 0.0, 0.0))


def by_camera(
    run: Run, reference: Reference, diagnosis: Sequence[DriftEstimate], clean: Scored, seed: int = 0
) -> Drifted:
    """Measures the score on the reference under the diagnosed drift.

    The score is the mean over drifts that are drawn from their intervals, each with new noise and new defective sites.
    The interval covers these draws and the samples. The effect of drawn drifts is measured on a part of the samples.
    The loss is paired with the outcomes of the reference as it is (`clean`).
    """
    assert run.camera is not None
    rng = np.random.default_rng(seed)
    take = functools.partial(taken, camera=run.camera, measured=with_noise(run.camera, reference.raws))
    drifted = np.asarray(take(reference.raws, state_of(diagnosis), seed=seed))
    outcomes = outcomes_of(run, reference, drifted, np.arange(len(reference)))
    part = np.sort(rng.permutation(len(reference))[:_PART])
    changes = []
    for number in range(1, _DRAWS + 1):
        raws = np.zeros_like(reference.raws)
        state = state_of([_redrawn(estimate, rng) for estimate in diagnosis])
        raws[part] = take(reference.raws[part], state, seed=seed + number)
        changes.append(outcomes_of(run, reference, raws, part).of_all() - outcomes.taken(part).of_all())
    ends = _interval(lambda rng: outcomes.of(_drawn(rng, len(outcomes))) + rng.choice([0, *changes]))
    least = outcomes.score.least
    low, high = np.clip(ends, least, 1).tolist()
    mean = float(np.clip(outcomes.of_all() + np.mean([0, *changes]), least, 1))

    def lost(rng: np.random.Generator) -> float:
        weights = _drawn(rng, len(outcomes))
        return clean.of(weights) - outcomes.of(weights) - rng.choice([0, *changes])

    loss = clean.of_all() - outcomes.of_all() - float(np.mean([0, *changes]))
    return Drifted(ExpectedScore(mean, low, high), drifted, outcomes, (loss, *_interval(lost)))


def _redrawn(estimate: DriftEstimate, rng: np.random.Generator) -> DriftEstimate:
    """Draws the value of a cause from its interval, which may be asymmetric."""
    deviation = rng.normal() / _DEVIATIONS
    end = estimate.high if deviation > 0 else estimate.low
    return estimate._replace(value=estimate.value + abs(deviation) * (end - estimate.value))


def still_differs(run: Run, drifted: Drifted, new: np.ndarray) -> str:
    """Tells new raw images from the reference under the diagnosed drift by the alarm's test; empty if it cannot."""
    p_value = alarm.compare(see(run, drifted.raws), see(run, new), _REFUTED).p_value
    if p_value > _REFUTED:
        return ""
    differs = f"under the diagnosis, the reference still differs from the new images (p = {p_value:.2g})"
    return f"{differs}, so it cannot predict the score"


def remedy(run: Run, reference: Reference, drifted: Drifted) -> Remedy:
    """Measures the gain of adapting by statistics, on the reference under the diagnosed drift.

    The models are adapted to some of its images without labels, and measured on the others.
    """
    order = np.random.default_rng(0).permutation(len(reference))
    by, rest = np.split(order, [min(MOST, len(order) // 2)])
    try:
        adapted = run.adapted(drifted.raws[by])
    except InputError as error:
        return Remedy(len(by), refused=str(error))
    before, after = drifted.outcomes.taken(rest), outcomes_of(adapted, reference, drifted.raws, rest)

    def gain(rng: np.random.Generator) -> float:
        drawn = _drawn(rng, len(rest))
        return after.of(drawn) - before.of(drawn)

    return Remedy(len(by), (after.of_all() - before.of_all(), *_interval(gain)))


def _drawn(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Draws a resample of the samples: how often each is in it."""
    return np.bincount(rng.integers(0, samples, samples), minlength=samples)


def _interval(draw: Callable[[np.random.Generator], float]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    low, high = np.percentile([draw(rng) for _ in range(_RESAMPLES)], _INTERVAL)
    return float(low), float(high)
