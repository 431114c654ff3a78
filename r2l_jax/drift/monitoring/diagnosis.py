"""Diagnoses how the camera that took new raw images differs from the one of a reference, from other scenes.

Defective sites are found by their positions. All else is an estimate of an `isp.CameraState`: the reference is taken
again with a camera in another state until its mean statistics match the new raw images. Differences are weighted by
the inverse of their covariance over images, which is the method of simulated moments (D. McFadden, Econometrica 57(5),
1989). All quantities are fitted first; then the fewest of them are named that explain as much, by a penalized
chi-square. So where two together look like a third, such as both gains like the exposure, the third is named. Another
mix of the reference's classes competes with the camera as `scene`, and a change that is left over is `unexplained`.

M. Wischow et al. estimate blur and noise of cameras in use with learned estimators, from single images: "Monitoring and
adapting the physical state of a camera for autonomous vehicles", IEEE Transactions on Intelligent Transportation
Systems (2023, arXiv:2112.05456 from 2021), and "Real-time noise source estimation of a camera system from an image and
metadata", arXiv:2404.03251 (2024).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats
from scipy.optimize import least_squares
from sklearn.cluster import KMeans

import isp
from isp.sensor_drift import QUANTITIES
from r2l_jax.drift.monitoring import simulation, sites
from r2l_jax.drift.monitoring.camera_noise import converted, states_noise, with_noise
from r2l_jax.drift.monitoring.simulation import FITTED, HIGH, LOW, NEUTRAL, WHITE

# Changes that are not in the camera: another mix of the reference's classes, and one that nothing explains.
SCENE, UNEXPLAINED = "scene", "unexplained"
_UNITS = {SCENE: "share of other classes", UNEXPLAINED: "times chance"}

# In smaller raw images, the scene hides the noise: at sides of 32, a blur is also mistaken for less noise.
LEAST_SIDE = 64

# The validated numbers of new and of reference images: with fewer, several changes at once are taken for others.
LEAST_IMAGES = 64, 128

# How many raw images of the reference are simulated; of how many of them the first fit takes derivatives; and how many
# are computed at once. Other fits need the derivatives of all, or intervals are too short.
_SIMULATED, _FIRST, _AT_ONCE = 256, 32, 32
# Raw images without labels, or of more than the first number of classes, are clustered into the second number of
# groups.
_MOST_CLASSES, _GROUPS = 12, 4
# The fractions of diagnoses without drift in which chance may name a cause, and a change that nothing explains.
_CHANCE, _BY_CHANCE = 0.01, 1e-4
# A tone curve in raw files is rarer than the drifts that look like it: 20 to 1. Causes that explain about as much,
# within the same odds, widen each other's intervals.
_RARE, _ODDS = ("gamma",), 20
# The most causes, and the most rounds of choosing and fitting them.
_MOST, _ROUNDS = 4, 4
# The expected error of the simulation, as a share of the change of a statistic.
_ERROR = 0.01
# How much correlations shrink toward 0, because they are estimated from few raw images.
_SHRINKAGE = 0.02
# A fit tries at most this many states.
_EVALUATIONS = 12
# Saturated sites are at least this many times as many as sites a thousandth below the highest value.
_PILE = 10
_CONFIDENCE, _DRAWS = 0.95, 1000


class DriftEstimate(NamedTuple):
    """A cause of the difference between two sets of raw images, and its estimated size.

    Attributes:
        name: a quantity of `isp.CameraState`; or `scene`, another mix of the reference's classes; or `unexplained`, a
            change that neither the camera nor the mix explains.
        value: its size in `unit`.
        low: the lower end of its 95% confidence interval.
        high: the upper end.
        unit: the unit of the three.
        evidence: half of the chi-square that only this cause explains, minus the part due to chance; above 0.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    evidence: float

    def __str__(self) -> str:
        # Three digits, without an exponent below a million.
        value, low, high = (f"{float(f'{each:.3g}'):g}" for each in (self.value, self.low, self.high))
        return f"{self.name} {value} {self.unit} ({low} to {high})"


def state_of(diagnosis: Iterable[DriftEstimate]) -> isp.CameraState:
    """Returns the camera state of a diagnosis; what is not in the camera is left out."""
    return isp.CameraState(**{each.name: each.value for each in diagnosis if each.name in QUANTITIES})


class Fit(NamedTuple):
    """An estimate of a camera and of the mix of classes.

    Attributes:
        causes: the quantities, and `scene`, that differ from the reference.
        values: the numbers of `simulation.FITTED`, and how far the shares of classes moved in each direction.
        whiten: makes differences of statistics independent, with a variance of 1 `(K, K)`.
        rest: the mean statistics of the new raw images minus those of the reference in this state, whitened, and minus
            the moves of shares, whose prior has a standard deviation of 1 `(K + moves,)`.
        slopes: minus the derivatives of `rest` `(K + moves, values)`.
        taken: the statistics of the reference in this state `(n, K)`.
        new: the statistics of the new raw images `(m, K)`.
    """

    causes: tuple[str, ...]
    values: Float[np.ndarray, " values"]
    whiten: Float[np.ndarray, "k k"]
    rest: Float[np.ndarray, " rest"]
    slopes: Float[np.ndarray, "rest values"]
    taken: Float[np.ndarray, "n k"]
    new: Float[np.ndarray, "m k"]


class Comparison:
    """Compares new raw images with a reference in other states.

    Args:
        reference: the raw images of the reference.
        labels: their classes, or None for clusters of raw images with similar statistics.
        groups: the groups of raw images that depend on each other, or None if they do not.
        new: the new raw images.
        new_groups: their groups, likewise.
        camera: the camera of the reference, with its noise.
        seed: the seed of the noise and of the intervals.
    """

    def __init__(
        self,
        reference: np.ndarray,
        labels: np.ndarray | None,
        groups: np.ndarray | None,
        new: np.ndarray,
        new_groups: np.ndarray | None,
        camera: isp.Camera,
        seed: int,
    ):
        self.camera, self._random = camera, np.random.default_rng(seed)
        some = np.linspace(0, len(reference) - 1, min(_SIMULATED, len(reference))).round().astype(int)
        keys = jax.random.split(jax.random.key(seed), len(reference) + len(new))
        known = self._of(NEUTRAL, reference, keys[: len(reference)])
        self._reference, self._new = (reference[some], keys[some]), (new, keys[len(reference) :])
        self._of_new, self._own = self._of(NEUTRAL, *self._new), known.mean(0)
        members = _members(labels, known)
        self.shares, self._basis = members.mean(0), np.linalg.svd(np.ones((1, members.shape[1])))[2][1:].T
        # The whole reference gives the statistics without a drift, and a part of it their response to drifts.
        self._members = members[some] / np.maximum(members[some].sum(0), 1)
        self._offset = (members / members.sum(0)).T @ known - self._members.T @ known[some]
        # Images of one group count as one.
        self._groups = np.unique(np.arange(len(reference)) if groups is None else groups, return_inverse=True)[1]
        self._size, self._groups = self._groups.max() + 1, np.unique(self._groups[some], return_inverse=True)[1]
        self._new_size = len(new) if new_groups is None else len(np.unique(new_groups))
        self._order = self._random.permutation(len(some))
        # Where a variance is 0, its derivative is lost in the noise.
        noise = isp.sensor.noise_of(camera).read_noise
        small = isp.CameraState(defocus=0.5, read_noise=1.2, photon_noise=1.2, row_noise=noise)
        moved = np.zeros(len(self.shares) - 1)
        self._neutral, self._high, self._floor = (
            np.append(*each) for each in ((NEUTRAL, moved), (HIGH, moved + 1), (LOW, moved - 1))
        )
        self._names = [each for each in FITTED if camera.pattern != isp.cfa.MONO or not QUANTITIES[each].needs_colors]
        start = simulation.numbers(small)
        self._low = np.append(np.where(start != NEUTRAL, 0.1 * start, LOW), moved - 1)
        if _saturates(new):
            start += simulation.numbers(isp.CameraState(saturation=float(new.max())))
        else:
            self._names.remove("saturation")
        self._start = np.append(start, moved)
        self._names += [SCENE] * bool(len(moved))

    def _of(self, values: np.ndarray, raws: np.ndarray, keys: Array, function: Callable | None = None) -> np.ndarray:
        """Computes the statistics of raw images, in parts of one size."""
        compute, count = function or simulation.statistics, len(raws)
        numbers, places = jnp.asarray(values[: len(FITTED)], jnp.float32), np.arange(-(-count // _AT_ONCE) * _AT_ONCE)
        parts = np.split(np.minimum(places, count - 1), len(places) // _AT_ONCE)
        found = [compute(numbers, raws[part], keys[part], self.camera) for part in parts]
        return np.concatenate(found).astype(np.float64)[:count]

    def _seen(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the statistics of the reference in a state, and of the new raw images to compare with."""
        new = self._of(values, *self._new, simulation.with_excess) if _is_brighter(values) else self._of_new
        return self._of(values, *self._reference), new

    def _of_classes(self, taken: np.ndarray) -> Float[np.ndarray, "classes k"]:
        return self._members.T @ taken + self._offset

    def shares_at(self, values: np.ndarray) -> Float[np.ndarray, " classes"]:
        """Returns the shares of the classes."""
        return self.shares + self._basis @ values[len(FITTED) :]

    def _rest(self, values: np.ndarray, whiten: np.ndarray, taken: np.ndarray, new: np.ndarray) -> np.ndarray:
        rest = new.mean(0) - self.shares_at(values) @ self._of_classes(taken)
        return np.append(whiten @ rest, -values[len(FITTED) :])

    def _slopes(self, values: np.ndarray, whiten: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:
        """Computes minus the derivatives of the rest with respect to all values, from some images of each set."""
        order = self._order[:count]
        weights = np.maximum(self._members @ self.shares_at(values), 0)[order]
        of_camera = self._mean_slopes(values, *self._reference, order, weights)
        if _is_brighter(values):
            order = np.arange(min(count, len(self._of_new)))
            of_camera -= self._mean_slopes(values, *self._new, order, np.ones(len(order)), excess=True)
        of_all = np.concatenate([of_camera, self._of_classes(taken).T @ self._basis], 1)
        return np.concatenate([whiten @ of_all, np.eye(len(values))[len(FITTED) :]])

    def _mean_slopes(
        self,
        values: np.ndarray,
        raws: np.ndarray,
        keys: Array,
        order: np.ndarray,
        weights: np.ndarray,
        excess: bool = False,
    ) -> np.ndarray:
        """Computes the derivatives of the weighted mean of some raw images' statistics, in parts of one size."""
        numbers, found = jnp.asarray(values[: len(FITTED)], jnp.float32), 0
        for start in range(0, len(order), _AT_ONCE):
            part = np.resize(order[start : start + _AT_ONCE], _AT_ONCE)
            weight = np.append(weights[start : start + _AT_ONCE], np.zeros(_AT_ONCE))[:_AT_ONCE] / weights.sum()
            found += simulation.slopes(numbers, raws[part], keys[part], np.float32(weight), self.camera, excess)
        return np.array(found, np.float64)

    def _whitening(self, taken: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Returns the matrix that makes differences of statistics independent, with a variance of 1.

        The inverse of an estimated covariance is too large, see J. Hartlap et al., Astronomy & Astrophysics 464 (2007).
        """
        count, features = len(taken) + len(new), taken.shape[1]
        pooled = (len(taken) * np.cov(taken.T) + len(new) * np.cov(new.T)) / count
        pooled += _SHRINKAGE * (np.diag(np.diag(pooled)) - pooled)
        covariance = pooled * (1 / self._size + 1 / self._new_size)
        covariance += np.diag((_ERROR * (new.mean(0) - self._own)) ** 2 + 1e-12)
        share = max((count - features - 3) / (count - 2), 0.1)
        return np.sqrt(share) * np.linalg.inv(np.linalg.cholesky(covariance))

    def _places(self, causes: Iterable[str]) -> list[int]:
        """Returns the places of the values of causes."""
        of_scene = range(len(FITTED), len(self._neutral))
        return [place for each in causes for place in (of_scene if each == SCENE else (FITTED.index(each),))]

    def fit(self, causes: Sequence[str], start: np.ndarray, ftol: float = 1e-2, images: int = _SIMULATED) -> Fit:
        """Fits the values of causes, from the values at the start; others are neutral.

        Args:
            causes: the quantities to fit, and `scene`.
            start: all values; others than those of the causes do not count.
            ftol: the fit ends when the chi-square improves by less than this share of it.
            images: the number of raw images of which derivatives are taken on the way.
        """
        places, values = self._places(causes), self._neutral.copy()
        low, high = self._low[places], self._high[places]
        values[places] = np.clip(start[places], low + 1e-6, high - 1e-6)
        whiten = self._whitening(*self._seen(values))

        def moved(found: np.ndarray) -> np.ndarray:
            result = values.copy()
            result[places] = found
            return result

        def rest(found: np.ndarray) -> np.ndarray:
            return self._rest(moved(found), whiten, *self._seen(moved(found)))

        kept: list[np.ndarray] = []

        def slopes(found: np.ndarray) -> np.ndarray:
            # Derivatives are kept while values move by less than a standard error.
            if not kept or np.linalg.norm(kept[1] @ (found - kept[0])) > 1:
                taken = self._of(moved(found), *self._reference)
                kept[:] = found, self._slopes(moved(found), whiten, taken, images)[:, places]
            return -kept[1]

        if places:
            # The annotations of SciPy know no function as `jac`.
            limits: Any = {"jac": slopes, "bounds": (low, high), "x_scale": "jac"}
            found = least_squares(rest, values[places], **limits, ftol=ftol, xtol=1e-3, max_nfev=_EVALUATIONS)
            values = moved(found.x)
        taken, new = self._seen(values)
        whiten = self._whitening(taken, new)
        slopes_at = self._slopes(values, whiten, taken, _SIMULATED)
        return Fit(tuple(causes), values, whiten, self._rest(values, whiten, taken, new), slopes_at, taken, new)

    def search(self) -> Fit:
        """Finds the causes with the best score: fits all, and chooses where derivatives say that fewer are enough."""
        fit, found = self.fit(self._names, self._start, 0.05, _FIRST), {}
        for _ in range(_ROUNDS):
            causes, values = self._chosen(fit)
            if causes in found:
                break
            fit = found[causes] = self.fit(causes, values)
        return min(found.values(), key=self._score)

    def _score(self, fit: Fit) -> float:
        """Computes half of the chi-square plus a penalty for each cause; lower is better."""
        return float(fit.rest @ fit.rest) / 2 + sum(map(self._penalty, fit.causes))

    def _penalty(self, cause: str) -> float:
        """Computes half of the chi-square that a cause must explain to be named by chance as rarely as promised."""
        by_chance = float(stats.chi2.isf(_CHANCE / len(self._names), len(self._places([cause])))) / 2
        return by_chance + math.log(_ODDS) * (cause in _RARE)

    def _linear(self, fit: Fit, causes: Iterable[str]) -> tuple[float, np.ndarray]:
        """Returns the score of causes, and their values, from the derivatives of a fit."""
        causes = tuple(causes)
        places, values = self._places(causes), self._neutral.copy()
        rest = fit.rest + fit.slopes @ (fit.values - self._neutral)
        columns = fit.slopes[:, places]
        values[places] += np.linalg.lstsq(columns, rest, rcond=1e-9)[0]
        rest = rest - columns @ (values - self._neutral)[places]
        return float(rest @ rest) / 2 + sum(map(self._penalty, causes)), values

    def _chosen(self, fit: Fit) -> tuple[tuple[str, ...], np.ndarray]:
        """Chooses the causes with the best score from the derivatives of a fit, with values within limits."""
        _, causes, values = min(self._sets(fit), key=lambda each: each[0])
        return causes, values

    def _sets(self, fit: Fit) -> Iterator[tuple[float, tuple[str, ...], np.ndarray]]:
        """Yields the scores, causes and values of all sets of causes whose values are within limits."""
        for causes in (each for count in range(_MOST + 1) for each in itertools.combinations(self._names, count)):
            score, values = self._linear(fit, causes)
            places = self._places(causes)
            if (self._low[places] <= values[places]).all() and (values[places] <= self._high[places]).all():
                yield score, causes, values

    def alternatives(self, fit: Fit) -> list[Fit]:
        """Returns a fit, and others with more or other causes that explain about as much, from its derivatives."""
        others = [
            fit._replace(causes=causes, values=values)
            for score, causes, values in self._sets(fit)
            if score < self._score(fit) + math.log(_ODDS) and {*causes} != {*fit.causes} and {*causes} & {*fit.causes}
        ]
        return [fit, *others]

    def evidence(self, fit: Fit, cause: str) -> float:
        """Computes by how much a cause of a fit improves the score."""
        return self._linear(fit, [each for each in fit.causes if each != cause])[0] - self._score(fit)

    def draws(self, fit: Fit) -> Float[np.ndarray, "draws values"]:
        """Draws the values of a fit from a bootstrap over new images, and over the reference's images or groups.

        Each draw is one step from the fit along its derivatives; it includes the expected error of the simulation.
        """
        places = self._places(fit.causes)
        step = np.linalg.pinv(fit.slopes[:, places])[:, : len(fit.whiten)] @ fit.whiten
        of_new = (fit.new - fit.new.mean(0)) @ step.T
        # If shares are fitted, a reference with other shares would give the same values.
        members = self._members if SCENE in fit.causes else (self._members @ self.shares)[:, None]
        of_taken = (fit.taken - (members.T @ fit.taken)[members.argmax(1)]) @ step.T
        size, weights = self._groups.max() + 1, self._members @ self.shares_at(fit.values)
        counts = self._random.multinomial(size, np.full(size, 1 / size), _DRAWS)[:, self._groups] - 1
        changes = self._random.multinomial(len(of_new), np.full(len(of_new), 1 / len(of_new)), _DRAWS) @ of_new
        changes = (
            changes / np.sqrt(len(of_new) * self._new_size) - (counts * weights) @ of_taken * (size / self._size) ** 0.5
        )
        error = _ERROR * (fit.new.mean(0) - self._own)
        changes += self._random.normal(size=(_DRAWS, len(error))) @ (step * error).T
        drawn = np.tile(fit.values, (_DRAWS, 1))
        drawn[:, places] += changes
        return np.clip(drawn, self._floor, self._high)


def diagnose(
    reference: Float[np.ndarray, "n height width"],
    labels: Int[np.ndarray, " n"] | None,
    new: Float[np.ndarray, "m height width"],
    camera: isp.Camera,
    *,
    groups: Int[np.ndarray, " n"] | None = None,
    new_groups: Int[np.ndarray, " m"] | None = None,
    seed: int = 0,
) -> tuple[DriftEstimate, ...]:
    """Diagnoses a change between raw images, which need not show the same scenes.

    Args:
        reference: raw images from before the change, with white at 1 and the black level not subtracted; 128 or more
            are best.
        labels: their classes, from 0; None replaces classes with clusters of similar raw images.
        new: raw images to explain; about 64 are enough to name small drifts.
        camera: the camera before the change.
        groups: the groups of reference images that depend on each other; None if they do not.
        new_groups: the groups of new images, likewise.
        seed: the seed of the noise and of the intervals.

    Returns:
        The causes with their 95% confidence intervals, the strongest first; empty if chance explains the change.
    """
    reference, new = (np.asarray(mosaics, np.float32) for mosaics in (reference, new))
    before, after = sites.found(reference, camera), sites.found(new, camera)
    reference, new = sites.repaired(reference, before, camera), sites.repaired(new, after, camera)
    comparison = Comparison(reference, labels, groups, new, new_groups, with_noise(camera, reference), seed)
    estimates = [*_of_sites(before, after), *_of_fit(comparison, comparison.search(), camera)]
    return tuple(sorted(estimates, key=lambda each: -each.evidence))


def _is_brighter(values: np.ndarray) -> bool:
    """Tells whether a state has more light than the reference somewhere, and so too much of the reference's noise."""
    return bool((values[:3] > 0).any() or values[3] < 0)


def _members(labels: np.ndarray | None, known: np.ndarray) -> Float[np.ndarray, "n classes"]:
    """Marks the class of each raw image, or the cluster of raw images with similar statistics."""
    groups = np.zeros(len(known)) if labels is None else np.asarray(labels)
    if not 1 < len(np.unique(groups)) <= _MOST_CLASSES:
        groups = KMeans(_GROUPS, n_init="auto", random_state=0).fit_predict(known / (known.std(0) + 1e-9))
    return (groups[:, None] == np.unique(groups)).astype(np.float64)


def _saturates(mosaics: np.ndarray) -> bool:
    """Tells whether the sites of raw images pile up at their highest value, below white."""
    top = mosaics.max()
    piled, below = ((mosaics > top - step / 1000).sum() for step in (1, 2))
    return bool(top < WHITE and piled > _PILE * (below - piled + 1))


def _of_sites(before: sites.Defects, after: sites.Defects) -> Iterator[DriftEstimate]:
    """Counts the sites that have become dead or hot, with Poisson intervals."""
    same = before.dead.shape == after.dead.shape
    for kind in ("dead", "hot"):
        old, now = getattr(before, kind), getattr(after, kind)
        is_new = now & ~old if same else now
        count = is_new.sum()
        if not count:
            continue
        known = 0 if same else old.mean() * now.size
        low, high = (
            stats.chi2.ppf((1 - _CONFIDENCE) / 2, 2 * count),
            stats.chi2.ppf((1 + _CONFIDENCE) / 2, 2 * count + 2),
        )
        value, low, high = (1e6 * max(number - known, 0) / now.size for number in (count, low / 2, high / 2))
        evidence = float(np.square(after.deviation[is_new]).sum() / 2)
        yield DriftEstimate(f"{kind}_sites", value, low, high, QUANTITIES[f"{kind}_sites"].parameter.unit, evidence)


def _of_fit(comparison: Comparison, fit: Fit, camera: isp.Camera) -> Iterator[DriftEstimate]:
    """Yields the causes of a fit with their intervals, and the unexplained change if it is large."""
    sizes: dict[str, list[np.ndarray]] = {cause: [] for cause in fit.causes}
    for each in comparison.alternatives(fit):
        drawn = np.vstack([each.values, comparison.draws(each)])
        states = converted(simulation.state_at(drawn[:, : len(FITTED)].T), comparison.camera, camera)
        moved = np.maximum([comparison.shares_at(values) for values in drawn], 0)
        moved = abs(moved / moved.sum(1, keepdims=True) - comparison.shares).sum(1) / 2
        for cause in sizes.keys() & {*each.causes}:
            sizes[cause].append(moved if cause == SCENE else np.asarray(getattr(states, cause), np.float64))
    for cause, (values, *others) in sizes.items():
        ends = [np.quantile(each[1:], [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]) for each in (values, *others)]
        low, high = float(np.min(ends)), float(np.max(ends))
        unit = _UNITS[cause] if cause == SCENE else QUANTITIES[cause].parameter.unit
        if cause == "read_noise" and not states_noise(camera):
            unit = "times {1:g} of {0:g} electrons".format(*isp.sensor.noise_of(camera))
        yield DriftEstimate(cause, float(values[0]), low, high, unit, comparison.evidence(fit, cause))
    # Hotelling's test: the covariance is estimated from as many images.
    freedom, images = len(fit.rest) - len(fit.causes), len(fit.taken) + len(fit.new)
    chi, limit = fit.rest @ fit.rest, freedom * stats.f.isf(_BY_CHANCE, freedom, max(images - freedom, 1))
    if chi > limit:
        ends = stats.ncx2.ppf([(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], freedom, chi - freedom)
        value, low, high = np.sqrt(np.array([chi, *ends]) / freedom).tolist()
        yield DriftEstimate(UNEXPLAINED, value, low, high, _UNITS[UNEXPLAINED], float(chi - limit) / 2)
