"""Estimates without labels what a drift costs: the score to expect under it, and with mended statistics.

Where the causes are known, the labeled reference is changed as they say, and the models are measured on it. Where they
are not, the confidence of the models must do: by a threshold (S. Garg et al., "Leveraging unlabeled data to predict
out-of-distribution performance", ICLR 2022), or by the cost of moving the predictions to the classes of the reference
(Y. Lu et al., "Characterizing out-of-distribution error via optimal transport", NeurIPS 2023).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Float
from scipy import optimize

from r2l_jax.drift.results import Estimate
from r2l_jax.drift.watch.causes import under
from r2l_jax.drift.watch.reference import Reference
from r2l_jax.drift.watch.response import with_noise_of
from r2l_jax.drift.watch.results import Cause, ExpectedScore, Remedy
from r2l_jax.model.mending import MOST
from r2l_jax.model.tasks import Task, confusions
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.run import Run

# The methods: the reference under the causes; the confidence, by a threshold or by transport; the reference as it is.
CAMERA, ATC, COT, NO_DRIFT = "camera", "ATC", "COT", "reference"

# Causes that say that the camera does not explain the new images.
NOT_THE_CAMERA = ("scene", "unexplained")

# How many times the causes are drawn from their intervals, and samples anew for an interval.
_DRAWS, _RESAMPLES = 6, 500

# The samples on which drawn causes are measured.
_PART = 96

_INTERVAL = (2.5, 97.5)

# Intervals of causes are of 95%.
_DEVIATIONS = 1.96

# The temperatures among which the calibration chooses.
_TEMPERATURES = np.geomspace(0.25, 4, 33)

# The outcomes of samples: numerators and denominators of the score, see `Task.outcome`.
Outcomes = Float[np.ndarray, "2 N"]


def explained_by_camera(causes: Sequence[Cause]) -> bool:
    """Tells whether causes explain new images, the strongest of them by the camera."""
    return bool(causes) and causes[0].name not in NOT_THE_CAMERA


def outcomes_of(run: Run, reference: Reference, raws: np.ndarray, places: np.ndarray | None = None) -> Outcomes:
    """Measures the models together on the reference, with other mosaics in place of its own.

    Args:
        run: the models.
        reference: the reference.
        raws: the mosaics.
        places: which samples of the reference they stand for; None for all.
    """
    places = np.arange(len(reference)) if places is None else places
    return _outcomes(run.task, reference, run.predict(raws), places)


def _outcomes(task: Task, reference: Reference, probabilities: np.ndarray, places: np.ndarray) -> Outcomes:
    batch = jax.tree.map(lambda leaf: leaf[places], {**reference.batch, "raw": np.zeros(len(reference))})
    found = confusions(task, task.logits_of(jnp.asarray(probabilities)), batch)
    return np.stack([np.asarray(part, np.float64) for part in task.outcome(np.asarray(found))])


def score_of(outcomes: Outcomes) -> float:
    """Computes the score of outcomes."""
    return float(outcomes[0].sum() / max(outcomes[1].sum(), 1e-12))


def without_drift(run: Run, reference: Reference) -> ExpectedScore:
    """Measures the score on the reference as it is."""
    if run.task.name == "classification":
        known = reference.seen.probabilities.mean(0)
        outcomes = _outcomes(run.task, reference, known, np.arange(len(reference)))
    else:
        outcomes = outcomes_of(run, reference, reference.raws)
    return ExpectedScore(score_of(outcomes), *_interval(lambda rng: score_of(_drawn(rng, outcomes))), NO_DRIFT)


class Drifted(NamedTuple):
    """The reference under the causes of a drift.

    Attributes:
        score: the score to expect.
        raws: the mosaics under the causes as estimated.
        outcomes: the outcomes of these mosaics.
    """

    score: ExpectedScore
    raws: np.ndarray
    outcomes: Outcomes


def by_camera(run: Run, reference: Reference, causes: Sequence[Cause], seed: int = 0) -> Drifted:
    """Measures the score on the reference under the causes.

    The score is the mean over causes that are drawn from their intervals, each with other noise and other defective
    sites. The interval is of these and of the samples. What drawn causes change is measured on a part of the samples.
    """
    assert run.camera is not None
    rng = np.random.default_rng(seed)
    take = functools.partial(under, camera=run.camera, noisy=with_noise_of(reference.raws, run.camera))
    drifted = np.asarray(take(causes, reference.raws, seed=seed))
    outcomes = outcomes_of(run, reference, drifted)
    part = np.sort(rng.permutation(len(reference))[:_PART])
    changes = []
    for number in range(1, _DRAWS + 1):
        drawn = [_redrawn(cause, rng) for cause in causes]
        raws = np.asarray(take(drawn, reference.raws[part], seed=seed + number))
        changes.append(score_of(outcomes_of(run, reference, raws, part)) - score_of(outcomes[:, part]))
    ends = _interval(lambda rng: score_of(_drawn(rng, outcomes)) + rng.choice([0, *changes]))
    low, high = np.clip(ends, 0, 1).tolist()
    mean = float(np.clip(score_of(outcomes) + np.mean([0, *changes]), 0, 1))
    return Drifted(ExpectedScore(mean, low, high, CAMERA), drifted, outcomes)


def _redrawn(cause: Cause, rng: np.random.Generator) -> Cause:
    """Draws the value of a cause from its interval, whose halves may differ in length."""
    deviation = rng.normal() / _DEVIATIONS
    end = cause.high if deviation > 0 else cause.low
    return msgspec.structs.replace(cause, value=cause.value + abs(deviation) * (end - cause.value))


def by_confidence(
    known: Float[np.ndarray, "N C"], targets: np.ndarray, new: Float[np.ndarray, "M C"]
) -> dict[str, ExpectedScore]:
    """Estimates the accuracy on new images by the confidence of the models, calibrated on the reference.

    Args:
        known: the probabilities of the reference.
        targets: its classes.
        new: the probabilities of the new images.
    """
    temperature = min(_TEMPERATURES, key=lambda each: _cost(tempered(known, each), targets))
    known, new = tempered(known, temperature), tempered(new, temperature)
    found = {}
    for method, estimate in ((ATC, thresholded), (COT, transported)):

        def again(rng: np.random.Generator, estimate: Callable[..., float] = estimate) -> float:
            chosen, others = (rng.integers(0, len(each), len(each)) for each in (known, new))
            return estimate(known[chosen], targets[chosen], new[others])

        found[method] = ExpectedScore(estimate(known, targets, new), *_interval(again), method)
    return found


def tempered(probabilities: Float[np.ndarray, "N C"], temperature: float) -> Float[np.ndarray, "N C"]:
    """Divides the logits of probabilities by a temperature."""
    logits = np.log(np.maximum(probabilities, 1e-12)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _cost(probabilities: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-12)).mean())


def thresholded(known: Float[np.ndarray, "N C"], targets: np.ndarray, new: Float[np.ndarray, "M C"]) -> float:
    """Estimates the accuracy as the share of new images beyond a threshold of the negative entropy (ATC).

    Beyond the threshold is as large a share of the reference as is predicted correctly.
    """
    before, after = ((each * np.log(np.maximum(each, 1e-12))).sum(1) for each in (known, new))
    errors = float((known.argmax(1) != targets).mean())
    return float((after >= np.quantile(before, errors)).mean())


def transported(known: Float[np.ndarray, "N C"], targets: np.ndarray, new: Float[np.ndarray, "M C"]) -> float:
    """Estimates the accuracy by the cheapest transport of predictions to classes as frequent as in the reference (COT).

    Moving a prediction to a class costs one less its probability, and the mean cost is the estimated error.
    """
    frequencies = np.bincount(targets, minlength=known.shape[1]) / len(targets)
    counts = np.floor(frequencies * len(new)).astype(int)
    lacking = np.argsort(counts - frequencies * len(new), kind="stable")[: len(new) - counts.sum()]
    counts[lacking] += 1
    costs = 1 - new[:, np.repeat(np.arange(len(counts)), counts)]
    return float(1 - costs[optimize.linear_sum_assignment(costs)].mean())


def remedy(run: Run, reference: Reference, drifted: Drifted, command: str) -> Remedy:
    """Measures the gain of mending by statistics, on the reference under the causes.

    The models are mended by some of its images without labels, and measured on the others.

    Args:
        run: the models.
        reference: the reference.
        drifted: the reference under the causes.
        command: predicts with mended models.
    """
    order = np.random.default_rng(0).permutation(len(reference))
    by, rest = np.split(order, [min(MOST, len(order) // 2)])
    try:
        mended = run.mended(drifted.raws[by])
    except InputError as error:
        return Remedy(len(by), command, refused=str(error))
    before, after = drifted.outcomes[:, rest], outcomes_of(mended, reference, drifted.raws[rest], rest)

    def gain(rng: np.random.Generator) -> float:
        drawn = rng.integers(0, len(rest), len(rest))
        return score_of(after[:, drawn]) - score_of(before[:, drawn])

    scores = score_of(before), score_of(after)
    return Remedy(len(by), command, *scores, Estimate(scores[1] - scores[0], *_interval(gain)))


def _drawn(rng: np.random.Generator, outcomes: Outcomes) -> Outcomes:
    return outcomes[:, rng.integers(0, outcomes.shape[1], outcomes.shape[1])]


def _interval(draw: Callable[[np.random.Generator], float]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    low, high = np.percentile([draw(rng) for _ in range(_RESAMPLES)], _INTERVAL)
    return float(low), float(high)
