"""Chooses the causes that explain the difference of two sets of statistics, and fits their sizes.

Statistics are compared by the generalized method of moments: their differences are weighted by the inverse of the
covariance that they have over samples of mosaics (Hansen, "Large sample properties of generalized method of moments
estimators", Econometrica 50(4), 1982). Causes enter one after the other, the best few sets of causes at a time, and
leave again where others explain their part. A cause must explain more than chance would explain in one of a hundred
diagnoses over all causes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from r2l_jax.drift.watch.response import DRIFTS, SCENE, Observed, Reference, predicted

_NEUTRAL = np.array([drift.neutral for drift in DRIFTS.values()], float)
_LOW, _HIGH, _WIDTH = (np.array([getattr(drift, end) for drift in DRIFTS.values()]) for end in ("low", "high", "width"))
_NAMES = tuple(DRIFTS)
# How often chance may name a cause.
_CHANCE = 0.01
# The logarithm of the odds against a gamma in raw data, which looks like other drifts together where it is small.
_RARE = 10.0
# The expected errors of formulas: a share of the change that they explain, which is least for levels, and an error of
# the logarithms.
_TRUST, _TRUST_IN_LEVELS, _TRUST_IN_BANDS, _ERROR = 0.02, 0.002, 0.05, 0.01
# Further errors if all sites pile up at the highest value. Piling up cuts structure off, and the noise is then measured
# in other patches than in the reference.
_PILED = {"level": 0.002, "zone": 0.002, "band": 3.0, "noise": 3.0}
# The spread of the new statistics is measured as if so many mosaics of the reference were among them.
_BORROWED = 8
_SHRINKAGE = 0.02
# Shares of classes have a prior: logarithms of their factors with this standard deviation.
_PRIOR = 3.0
_ROUNDS, _BEAM, _TRIED, _MOST = 12, 3, 4, 5


class Fit(NamedTuple):
    """Holds the best sizes of a set of causes.

    Attributes:
        causes: their names.
        theta: the drifts, see `response.DRIFTS`.
        logits: the logarithms of factors on the shares of the classes.
        chi: the chi-square of what is left.
        rest: what is left of the statistics, whitened `(K,)`.
        slopes: the derivatives of the whitened statistics by the sizes of the causes `(K, sizes)`, in the order of
            `Comparison.columns`.
    """

    causes: tuple[str, ...]
    theta: Float[np.ndarray, " drifts"]
    logits: Float[np.ndarray, " classes"]
    chi: float
    rest: Float[np.ndarray, " k"]
    slopes: Float[np.ndarray, "k sizes"]


# Derivatives along so many directions are computed together.
_FEW = 4

_value = jax.jit(predicted)


@jax.jit
def _value_and_slopes(
    theta: Array, logits: Array, directions: tuple[Array, Array], reference: Reference, level: Array, top: Array
) -> tuple[Array, Array]:
    """Computes the statistics and their derivatives along directions of theta and of the logits `(K, directions)`."""
    value, along = jax.linearize(
        lambda *numbers: predicted(numbers[0], numbers[1], reference, level, top), theta, logits
    )
    # Not all together, to save memory.
    return value, jax.lax.map(lambda each: along(*each), directions, batch_size=_FEW).T


class Comparison:
    """Compares the statistics of new mosaics with those of the reference under causes.

    Args:
        reference: mosaics of the reference, as many as the responses to drifts need.
        known: the statistics of the whole reference.
        new: the statistics of the new mosaics.
        level: the levels of the noise curve of the new mosaics.
        structure: the variance of structure divided by the variance of the noise, in each bin of the curves.
        top: the highest value of the new mosaics.
    """

    def __init__(
        self,
        reference: Reference,
        known: Observed,
        new: Observed,
        level: Float[np.ndarray, " bins"],
        structure: Float[np.ndarray, " bins"],
        top: float,
    ) -> None:
        self.new, self.known, self.top = new, known, top
        self.shares = np.asarray(reference.members.sum(0) / reference.members.sum(), np.float64)
        self._fixed = reference, jnp.asarray(level, jnp.float32), jnp.float32(top)
        size = len(new.values)
        # Without a drift, the whole reference tells the statistics; a part of it tells how they respond. The noise is
        # predicted from that of the whole reference, at other levels.
        start = self._predict(_NEUTRAL, np.zeros(len(self.shares)))
        self._offset = np.where(np.isin(new.kinds, ("noise", "pile")), 0.0, known.values - start)
        numbers = len(known.influence), len(new.influence)
        usual, spread = (each.influence.std(0, ddof=1) for each in (known, new))
        spread = np.sqrt((spread**2 * numbers[1] + usual**2 * _BORROWED) / (numbers[1] + _BORROWED)) + 1e-9
        self._scale = spread / (usual + 1e-9)
        standard = known.influence / (usual + 1e-9)
        correlation = (1 - _SHRINKAGE) * standard.T @ standard / numbers[0] + _SHRINKAGE * np.eye(size)
        # A covariance that is estimated from few mosaics makes distances too great.
        sampling = correlation * spread[:, None] * spread * sum(1 / n for n in numbers) * (1 + size / numbers[0])
        change = new.values - start - self._offset
        kinds = np.array(new.kinds)
        is_level = np.isin(kinds, ("level", "zone"))
        trust = np.select([is_level, kinds == "band"], [_TRUST_IN_LEVELS, _TRUST_IN_BANDS], _TRUST)
        self._error = np.hypot(trust * change, np.where(np.isin(kinds, ("band", "noise")), _ERROR, 0))
        self._error[kinds == "noise"] += 4 * structure
        piled = np.exp(new.values[kinds == "pile"])
        self._error += piled * [_PILED.get(kind, 0.0) for kind in kinds]
        # Their unit is not a logarithm, so the error is relative to the reference.
        self._error[kinds == "line"] += 3 * piled * abs(start)[kinds == "line"]
        self._error[kinds == "pile"] += 0.3
        self._factor = np.linalg.cholesky(sampling + np.diag(self._error**2))
        self._seen: dict[tuple[str, ...], Fit] = {}

    def _predict(self, theta: np.ndarray, logits: np.ndarray) -> np.ndarray:
        numbers = jnp.asarray(theta, jnp.float32), jnp.asarray(logits, jnp.float32)
        return np.asarray(_value(*numbers, *self._fixed), np.float64)

    def _slopes(self, theta: np.ndarray, logits: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the statistics and their derivatives by some numbers."""
        numbers = jnp.asarray(theta, jnp.float32), jnp.asarray(logits, jnp.float32)
        # Each number of directions is compiled, so there are two.
        count = _FEW if len(columns) <= _FEW else len(theta) + len(logits)
        every = np.zeros((count, len(theta) + len(logits)), np.float32)
        every[np.arange(len(columns)), columns] = 1
        directions = every[:, : len(theta)], every[:, len(theta) :]
        value, slopes = _value_and_slopes(*numbers, directions, *self._fixed)
        return np.asarray(value, np.float64), np.asarray(slopes, np.float64)[:, : len(columns)]

    def _white(self, values: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self._factor, values)

    def _chi(self, theta: np.ndarray, logits: np.ndarray) -> float:
        rest = self._white(self.new.values - self._offset - self._predict(theta, logits))
        return float(rest @ rest)

    def _at(self, causes: tuple[str, ...], theta: np.ndarray, logits: np.ndarray) -> Fit:
        value, slopes = self._slopes(theta, logits, self.columns(causes))
        rest = self._white(self.new.values - self._offset - value)
        return Fit(causes, theta, logits, float(rest @ rest), rest, self._white(slopes))

    def penalty(self, cause: str) -> float:
        """Computes half of the chi-square that chance explains by a cause, in `_CHANCE` of the diagnoses."""
        freedom = max(len(self.shares) - 1, 1) if cause == SCENE else 1
        return float(stats.chi2.isf(_CHANCE / (len(DRIFTS) + 1), freedom)) / 2 + (_RARE if cause == "gamma" else 0)

    def score(self, fit: Fit) -> float:
        """Computes how badly a fit explains the change, causes included: less is better."""
        return fit.chi / 2 + sum(map(self.penalty, fit.causes))

    def columns(self, causes: Sequence[str]) -> np.ndarray:
        """Returns the columns of the Jacobian that belong to causes."""
        drifts = [_NAMES.index(cause) for cause in causes if cause != SCENE]
        classes = range(len(_NAMES), len(_NAMES) + len(self.shares)) if SCENE in causes else ()
        return np.array([*drifts, *classes], int)

    def fit(self, causes: Sequence[str], start: Fit | None = None) -> Fit:
        """Fits the sizes of causes by damped Gauss-Newton steps from another fit, and remembers the result."""
        key = tuple(sorted(causes))
        if key not in self._seen:
            self._seen[key] = self._fitted(key, start)
        return self._seen[key]

    def _fitted(self, causes: tuple[str, ...], start: Fit | None) -> Fit:
        own = np.isin(_NAMES, causes)
        theta, logits = _NEUTRAL.copy(), np.zeros(len(self.shares))
        if start is not None:
            theta, logits = np.where(own, start.theta, theta), start.logits * (SCENE in causes)
            if "saturation" in causes and "saturation" not in start.causes:
                theta[_NAMES.index("saturation")] = self.top ** (2 ** -theta[_NAMES.index("gamma")])
        damping, reach, here = 1e-3, 1.0, self._at(causes, theta, logits)
        columns = self.columns(causes)
        width = np.append(_WIDTH, np.ones(len(logits)))[columns]
        prior = (columns >= len(_NAMES)) / _PRIOR**2
        for _ in range(_ROUNDS if causes else 0):
            numbers = np.append(here.theta, here.logits)
            slopes = here.slopes * width
            normal = slopes.T @ slopes + np.diag(prior + 1e-9)
            gradient = slopes.T @ here.rest - prior * numbers[columns]
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            numbers[columns] += width * np.clip(step, -reach, reach)
            theta, logits = np.clip(numbers[: len(_NAMES)], _LOW, _HIGH), numbers[len(_NAMES) :]
            gain = here.chi - self._chi(theta, logits) + (here.logits @ here.logits - logits @ logits) / _PRIOR**2
            if gain > 0:
                here, damping, reach = self._at(causes, theta, logits), damping / 10, 2 * reach
                if gain < 0.05:
                    break
            elif (damping := max(30 * damping, 0.01)) > 1e4:
                break
            else:
                reach = 1.0
        return here

    def search(self, names: Sequence[str]) -> Fit:
        """Finds the set of causes, out of those with these names, with the best score."""
        best = self.fit(())
        beam = [best]
        for _ in range(_MOST):
            grown = [self.fit((*fit.causes, name), fit) for fit in beam for name in self._promising(fit, names)]
            shrunk = {}
            for fit in sorted(grown, key=self.score)[:_BEAM]:
                fit = self._pruned(fit)
                shrunk[fit.causes] = fit
            beam = sorted(shrunk.values(), key=self.score)
            if not beam or self.score(beam[0]) >= self.score(best):
                break
            best = beam[0]
        return best

    def _promising(self, fit: Fit, names: Sequence[str]) -> Sequence[str]:
        """Chooses the causes that may explain most of what a fit leaves, as far as slopes tell."""
        names = [name for name in names if name not in fit.causes]
        if not fit.causes:
            return names

        places = np.arange(len(fit.theta) + len(fit.logits))
        jacobian = self._white(self._slopes(fit.theta, fit.logits, places)[1])

        def left(name: str) -> float:
            slopes = jacobian[:, self.columns((*fit.causes, name))]
            slopes = slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-9)
            size = np.linalg.lstsq(slopes, fit.rest, rcond=1e-6)[0]
            return float(np.square(fit.rest - slopes @ size).sum()) / 2 + self.penalty(name)

        # Saturation has no slope where nothing saturates.
        return list(dict.fromkeys([*sorted(names, key=left)[:_TRIED], *({"saturation"} & {*names})]))

    def _pruned(self, fit: Fit) -> Fit:
        """Takes causes away as long as the score gets better."""
        while fit.causes:
            less = min((self.without(fit, cause) for cause in fit.causes), key=self.score)
            if self.score(less) > self.score(fit):
                break
            fit = less
        return fit

    def without(self, fit: Fit, cause: str) -> Fit:
        """Fits the causes but one."""
        return self.fit([name for name in fit.causes if name != cause], fit)

    def draws(self, fit: Fit, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws mosaics of both sets with replacement, and follows the fit linearly.

        Returns:
            The drifts, the logits and the chi-squares, the draws' own part taken off, of each draw.
        """
        random = np.random.default_rng(seed)

        def resampled(influence: np.ndarray) -> np.ndarray:
            number = len(influence)
            return random.multinomial(number, np.full(number, 1 / number), count) @ influence / number

        moved = resampled(self.new.influence) - resampled(self.known.influence) * self._scale
        moved = self._white((moved + self._error * random.normal(size=moved.shape)).T)
        columns = self.columns(fit.causes)
        slopes = fit.slopes
        prior = np.diag((columns >= len(_NAMES)) / _PRIOR**2 + 1e-9)
        steps = np.linalg.solve(slopes.T @ slopes + prior, slopes.T @ moved)
        numbers = np.tile(np.append(fit.theta, fit.logits), (count, 1))
        numbers[:, columns] += steps.T
        left = moved - slopes @ steps
        chi = fit.chi + 2 * fit.rest @ left
        return np.clip(numbers[:, : len(_NAMES)], _LOW, _HIGH), numbers[:, len(_NAMES) :], chi
