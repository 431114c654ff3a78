"""Estimates, without labels, the score to expect under a drift, and the gain of adapting to it.

The diagnosis is applied to the labeled reference, and the models are measured on it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import Model, Outcomes, Samples, measure
from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.camera_noise import with_noise
from r2l_jax.drift.monitoring.diagnosis import SCENE, UNEXPLAINED, DriftEstimate, state_of
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.simulation import taken
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import MOST
from r2l_jax.results.result import Interval, points
from r2l_jax.training.run import BATCH, Run

# A diagnosis is refuted if chance would leave as much of a difference with this probability.
_REFUTED = 0.05

# The number of drifts drawn from their intervals.
_DRAWS = 6

# The samples on which drawn drifts are measured.
_PART = 96

# The ends of causes' 95% confidence intervals, in standard deviations.
_DEVIATIONS = 1.96


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

    def text(self, command: str) -> str:
        """States the gain of adapting, with the command that predicts with adapted models if it helps."""
        if self.gain is None:
            return f"adapting by statistics would not help: {self.refused}"
        gain, low, high = map(points, self.gain)
        gains = f"would gain {gain} ({low} to {high}) points"
        # Whether the score rises at the displayed precision, a tenth of a point.
        helps = self.gain[0] >= 0.0005
        return f"adapting by statistics {f'{gains}: {command}' if helps else f'would not help: it {gains}'}"


def explained_by_camera(diagnosis: Sequence[DriftEstimate]) -> bool:
    """Tells whether new images have a diagnosis whose strongest cause is in the camera."""
    return bool(diagnosis) and diagnosis[0].name not in (SCENE, UNEXPLAINED)


def outcomes_of(run: Run, reference: Reference, raws: np.ndarray, places: np.ndarray) -> Outcomes:
    """Measures the models, and their ensemble as the last one, on samples of the reference with other raw images."""
    models = {str(number): Model(fold.model) for number, fold in enumerate(run)}
    samples = Samples(run.task, reference.dataset(run, raws), places, BATCH)
    return measure(models, [CLEAN], samples, ensemble="all" if len(models) > 1 else None)


class Drifted(NamedTuple):
    """The reference under a diagnosed drift.

    Attributes:
        score: the score to expect, with the ends of its 95% confidence interval.
        raws: the raw images under the estimated drift.
        outcomes: the outcomes of these raw images.
        loss: the loss in score to expect, with the ends of its 95% confidence interval.
    """

    score: Interval
    raws: np.ndarray
    outcomes: Outcomes
    loss: Interval


def without_drift(run: Run, reference: Reference) -> Drifted:
    """Measures the score on the reference as it is."""
    outcomes = outcomes_of(run, reference, reference.raws, np.arange(len(reference)))
    score = _interval(_by_group(outcomes), (outcomes.scoring.least, 1.0))
    return Drifted(score, reference.raws, outcomes, (0.0, 0.0, 0.0))


def by_camera(
    run: Run, reference: Reference, diagnosis: Sequence[DriftEstimate], clean: Outcomes, seed: int = 0
) -> Drifted:
    """Measures the score on the reference under the diagnosed drift.

    The score is the mean over drifts that are drawn from their intervals, each with new noise and new defective sites.
    The interval covers these draws and the groups of samples. The effect of drawn drifts is measured on a part of the
    samples. The loss is paired with the outcomes of the reference as it is (`clean`).
    """
    assert run.camera is not None
    rng, every = np.random.default_rng(seed), np.arange(len(reference))
    take = functools.partial(taken, camera=run.camera, measured=with_noise(run.camera, reference.raws))
    drifted = np.asarray(take(reference.raws, state_of(diagnosis), seed=seed))
    outcomes = outcomes_of(run, reference, drifted, every)
    part, changes = np.sort(rng.permutation(len(reference))[:_PART]), [0.0]
    for number in range(1, _DRAWS + 1):
        raws = np.zeros_like(reference.raws)
        state = state_of([_redrawn(estimate, rng) for estimate in diagnosis])
        raws[part] = take(reference.raws[part], state, seed=seed + number)
        of_part, (*_, model) = outcomes_of(run, reference, raws, part), outcomes.models
        changes.append(of_part.score(model) - outcomes.score(model, taken=np.isin(every, part)))
    scores, least = _by_group(outcomes), outcomes.scoring.least
    score = _interval(scores, (least, 1.0), changes)
    loss = _interval(_by_group(clean) - scores, (least - 1.0, 1.0 - least), [-change for change in changes])
    return Drifted(score, drifted, outcomes, loss)


def _redrawn(estimate: DriftEstimate, rng: np.random.Generator) -> DriftEstimate:
    """Draws the value of a cause from its interval, which may be asymmetric."""
    deviation = rng.normal() / _DEVIATIONS
    end = estimate.high if deviation > 0 else estimate.low
    return estimate._replace(value=estimate.value + abs(deviation) * (end - estimate.value))


def still_differs(
    run: Run, drifted: Drifted, known: np.ndarray, new: np.ndarray, groups: np.ndarray | None = None
) -> str:
    """Tells new raw images from the reference under the diagnosed drift by the alarm's test; empty if it cannot.

    Args:
        run: the models.
        drifted: the reference under the diagnosed drift.
        known: the groups of the reference.
        new: the new raw images.
        groups: their groups; None if these are not known.
    """
    p_value = alarm.compare(see(run, drifted.raws, known), see(run, new, groups), _REFUTED).p_value
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
    after = outcomes_of(adapted, reference, drifted.raws, rest)
    least = after.scoring.least
    return Remedy(len(by), _interval(_by_group(after) - _by_group(drifted.outcomes, rest), (least - 1.0, 1.0 - least)))


def _by_group(outcomes: Outcomes, places: Any = slice(None)) -> np.ndarray:
    """Computes a number of the last model for each group of the samples at some places; their mean is the score."""
    outcome = {name: array[places] for name, array in outcomes.at(outcomes.models[-1]).items()}
    return statistics.by_group(outcomes.scoring, outcome, outcomes.groups_or_samples[places])


def _interval(by_group: np.ndarray, bounds: tuple[float, float], changes: Sequence[float] = (0.0, 0.0)) -> Interval:
    """Estimates a mean over groups, shifted by the mean change of drawn drifts; its interval covers groups and drifts.

    A single group does not show how much groups differ, so its interval ends at the bounds.
    """
    mean, about_groups = by_group.mean() + np.mean(changes), np.inf
    if len(by_group) > 1:
        found = statistics.interval(by_group[None], "model")
        about_groups = found.high - found.estimate
    half = np.hypot(about_groups, _DEVIATIONS * np.std(changes, ddof=1))
    estimate, low, high = np.clip([mean, mean - half, mean + half], *bounds).tolist()
    return estimate, low, high
