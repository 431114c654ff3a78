"""Diagnoses the drift of a camera between reference raw images and new ones of other scenes, in camera terms.

Defective sites are found by their positions. At all other sites, the alarm's statistics are compared. The reference is
re-exposed with drifted cameras until its mean statistics match the new raw images. Differences are weighted by
the inverse of their covariance over samples of raw images, which is the method of simulated moments (D. McFadden,
Econometrica 57(5), 1989). Drift types are added one by one, as long as they explain more than chance, and removed again
if others explain their part. So where two types together look like a third, such as both gains like the exposure, the
third is named. Another mix of the reference's classes competes with the drifts of the camera as `scene`, and a change
that is left over is `unexplained`.

M. Wischow et al. estimate blur and noise of cameras in use with learned estimators, from single images: "Monitoring and
adapting the physical state of a camera for autonomous vehicles", IEEE Transactions on Intelligent Transportation
Systems (2023, arXiv:2112.05456 from 2021), and "Real-time noise source estimation of a camera system from an image and
metadata", arXiv:2404.03251 (2024).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from sklearn.cluster import KMeans

import isp
from r2l_jax.drift.monitoring import sites
from r2l_jax.drift.monitoring.drift_types import (
    DRIFT_TYPES,
    HIGH,
    LOW,
    NEUTRAL,
    SCENE,
    STEP,
    UNITS,
    DriftEstimate,
    amount,
    light_factors,
    noise_of,
    re_exposed,
    unit_of,
)
from r2l_jax.drift.monitoring.statistics import mosaic_statistics

CONFIDENCE = 0.95

# In smaller raw images, the scene hides the noise: at sides of 32, a blur is also mistaken for less noise.
LEAST_SIDE = 64

# The validated numbers of new and of reference images: with fewer, several changes at once are taken for others.
LEAST_IMAGES = 64, 128

_NAMES = tuple(DRIFT_TYPES)
# How many raw images of the reference are re-exposed; statistics without drift are from all of them.
_SIMULATED = 128
# The batch size of the statistics, so that they are compiled for one size.
_AT_ONCE = 64
# Raw images without labels, or of more than the first number of classes, are clustered into the second number of
# groups.
_MOST_CLASSES, _GROUPS = 12, 4
# The fraction of diagnoses without drift in which chance may name a drift type.
_CHANCE = 0.01
# A change is unexplained if chance would leave as much in only this fraction of diagnoses.
_UNEXPLAINED = 1e-4
# The expected errors of the simulation: a share of the change of a statistic, and an error in its unit.
_TRUST, _ERROR = 0.02, 0.002
# How much correlations shrink toward 0, because they are estimated from few raw images.
_SHRINKAGE = 0.05
# The maximum numbers of drift types, of candidates for the next one, and of steps of a fit.
_MOST, _TRIED, _ROUNDS = 4, 3, 5
# Above this value, sites are white.
_WHITE = 0.998
_DRAWS = 1000


class Fit(NamedTuple):
    """The best sizes of a set of drift types.

    Attributes:
        kinds: their names.
        numbers: the drifts, see `drift_types.DRIFT_TYPES`.
        shares: the shares of the classes.
        rest: the mean statistics of the new raw images minus the reference under the drift `(K,)`.
        slopes: the derivatives of the reference's statistics with respect to the drifts `(K, drifts)`.
        by_class: the mean statistics of each class under the drift `(classes, K)`.
        covariance: the covariance of the rest `(K, K)`.
        chi: the chi-square of the rest.
    """

    kinds: tuple[str, ...]
    numbers: Float[np.ndarray, " drifts"]
    shares: Float[np.ndarray, " classes"]
    rest: Float[np.ndarray, " k"]
    slopes: Float[np.ndarray, "k drifts"]
    by_class: Float[np.ndarray, "classes k"]
    covariance: Float[np.ndarray, "k k"]
    chi: float

    @property
    def score(self) -> float:
        """Half of the chi-square plus a penalty for each drift type; lower is better."""
        return self.chi / 2 + sum(_penalty(kind, len(self.shares)) for kind in self.kinds)


def _penalty(kind: str, classes: int) -> float:
    """Computes half of the chi-square that a type must explain to be named by chance as rarely as `_CHANCE` says."""
    return float(stats.chi2.isf(_CHANCE / (len(DRIFT_TYPES) + 1), classes - 1 if kind == SCENE else 1)) / 2


@functools.partial(jax.jit, static_argnames="camera")
def _statistics(mosaics: jax.Array, camera: isp.Camera) -> jax.Array:
    return mosaic_statistics(mosaics, camera)


def _of(mosaics: np.ndarray | jax.Array, camera: isp.Camera) -> Float[np.ndarray, "n k"]:
    """Computes the statistics of raw images, in parts of one size."""
    filled = jnp.concatenate([jnp.asarray(mosaics), jnp.zeros((-len(mosaics) % _AT_ONCE, *mosaics.shape[1:]))])
    parts = [_statistics(filled[start : start + _AT_ONCE], camera) for start in range(0, len(filled), _AT_ONCE)]
    return np.concatenate(parts).astype(np.float64)[: len(mosaics)]


class Comparison:
    """Compares new raw images with a reference under drift.

    Args:
        reference: the raw images of the reference.
        labels: their classes, or None for groups of raw images with similar statistics.
        new: the new raw images.
        camera: the camera of the reference.
        seed: the seed of the noise.
    """

    def __init__(
        self, reference: np.ndarray, labels: np.ndarray | None, new: np.ndarray, camera: isp.Camera, seed: int
    ):
        self._camera, self.top = camera, float(new.max())
        self._noise = noise_of(reference, camera)
        known = _of(reference, camera)
        members = _members(labels, known)
        self.shares = members.mean(0)
        some = np.linspace(0, len(reference) - 1, min(_SIMULATED, len(reference))).round().astype(int)
        random = np.random.default_rng(seed)
        self._reference, self._new = (
            (jnp.asarray(mosaics), tuple(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes))
            for mosaics in (reference[some], new)
            for shapes in [(mosaics.shape, (*mosaics.shape[:2], 1))]
        )
        self._sizes = len(reference), len(new)
        self._own, self._of_new = known.mean(0), _of(new, camera)
        self._members = members[some] / np.maximum(members[some].sum(0), 1)
        # The whole reference gives the statistics without a drift, and a part of it their response to drifts.
        self._offset = (members / members.sum(0)).T @ known - self._members.T @ known[some]

    def _seen(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the statistics of the reference under drifts, and of the new raw images to compare with.

        If there is more light than in the reference, both are dimmed, since the reference would have too much noise.
        """
        numbers = np.clip(numbers, LOW, HIGH)
        drifts, (mosaics, drawn) = jnp.asarray(numbers, jnp.float32), self._reference
        height, width = mosaics.shape[1:]
        dimmed = float(light_factors(drifts, height, width, self._camera).max())
        dimmed = dimmed if dimmed > 1.01 else 1.0
        taken = re_exposed(drifts, mosaics, drawn, self._noise, self._camera, dimmed)
        if dimmed == 1:
            return _of(taken, self._camera), self._of_new
        drift = dict(zip(DRIFT_TYPES, numbers, strict=True))
        of_file = [
            {"exposure": -np.log2(dimmed)}.get(name, drift[name] * (name in ("gamma", "black_level")))
            for name in DRIFT_TYPES
        ]
        of_file[_NAMES.index("saturation")] = 1
        new, drawn = self._new
        linear = new ** (2.0 ** -drift["gamma"]) - drift["black_level"] / 4095
        new = re_exposed(jnp.asarray(of_file, jnp.float32), linear, drawn, self._noise, self._camera)
        return _of(taken, self._camera), _of(new, self._camera)

    def _rest(self, numbers: np.ndarray, kinds: Sequence[str], shares: np.ndarray | None = None) -> Fit:
        """Compares the statistics under drifts; without `shares`, these are fitted if `scene` is one of them."""
        taken, new = self._seen(numbers)
        by_class, mean = self._members.T @ taken + self._offset, new.mean(0)
        pooled = (len(taken) * np.cov(taken.T) + len(new) * np.cov(new.T)) / (len(taken) + len(new))
        pooled += _SHRINKAGE * (np.diag(np.diag(pooled)) - pooled)
        error = (_TRUST * (mean - self._own)) ** 2 + _ERROR**2
        covariance = pooled * sum(1 / size for size in self._sizes) + np.diag(error)
        if shares is not None:
            mix = shares
        else:
            mix = self._moved_shares(by_class, mean, covariance) if SCENE in kinds else self.shares
        rest = mean - mix @ by_class
        chi = float(rest @ np.linalg.solve(covariance, rest))
        return Fit(tuple(kinds), numbers, mix, rest, np.zeros((len(rest), 0)), by_class, covariance, chi)

    def _moved_shares(self, by_class: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Fits the shares of the classes, which keep their sum, with a prior of a standard deviation of 1."""
        basis = _directions(len(self.shares))
        slopes = by_class.T @ basis
        weighted = np.linalg.solve(covariance, slopes).T
        normal = weighted @ slopes + np.eye(len(self.shares) - 1)
        moved = self.shares + basis @ np.linalg.solve(normal, weighted @ (mean - self.shares @ by_class))
        shares = np.clip(moved, 0, 1)
        return shares / shares.sum()

    def _slopes(self, fit: Fit, names: Sequence[str]) -> Float[np.ndarray, "k drifts"]:
        columns = []
        for place in [_NAMES.index(name) for name in names if name != SCENE]:
            moved = fit.numbers.copy()
            moved[place] += STEP[place] if LOW[place] <= moved[place] + STEP[place] <= HIGH[place] else -STEP[place]
            other = self._rest(moved, fit.kinds, fit.shares)
            columns.append((fit.rest - other.rest) / (moved[place] - fit.numbers[place]))
        return np.stack(columns, -1) if columns else np.zeros((len(fit.rest), 0))

    def fit(self, kinds: Sequence[str], start: np.ndarray) -> Fit:
        """Fits the sizes of drift types by Gauss-Newton steps, which are shortened if they do not improve the fit."""
        kinds = tuple(sorted(kinds))
        places = [_NAMES.index(kind) for kind in kinds if kind != SCENE]
        best = self._rest(np.clip(start, LOW, HIGH), kinds)
        for _ in range(_ROUNDS if places else 0):
            best = best._replace(slopes=self._slopes(best, kinds))
            weighted = np.linalg.solve(best.covariance, best.slopes).T
            normal = weighted @ best.slopes
            step = np.linalg.solve(normal + 1e-9 * np.diag(np.diag(normal) + 1e-9), weighted @ best.rest)
            for size in (1, 0.5, 0.2):
                numbers = best.numbers.copy()
                numbers[places] = np.clip(numbers[places] + size * step, LOW[places], HIGH[places])
                found = self._rest(numbers, kinds)
                if found.chi < best.chi:
                    break
            else:
                break
            gain, best = best.chi - found.chi, found._replace(slopes=best.slopes)
            if gain < 0.1:
                break
        return best

    def search(self, names: Sequence[str]) -> Fit:
        """Finds the set of drift types, out of those with these names, with the best score."""
        best = self.fit((), NEUTRAL)
        for _ in range(_MOST):
            left = [name for name in names if name not in best.kinds]
            starts = self._near(best, left) if best.kinds else self._far(best, left)
            grown = [self.fit((*best.kinds, name), numbers) for name, numbers in starts]
            found = min((self._pruned(fit) for fit in grown), key=lambda fit: fit.score, default=best)
            if found.score >= best.score:
                break
            best = found
        return best

    def _far(self, fit: Fit, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
        """Returns the drift types that explain most at one of their `first` changes, each with its best numbers."""
        found = {}
        for name in names:
            for change in self._changes(fit, name):
                numbers = fit.numbers.copy()
                if name != SCENE:
                    numbers[_NAMES.index(name)] += change
                tried = self._rest(numbers, (*fit.kinds, name))
                found[name] = min(found.get(name, (np.inf,)), (tried.score, tuple(numbers)))
        return [(name, np.array(found[name][1])) for name in sorted(found, key=found.__getitem__)[:_TRIED]]

    def _changes(self, fit: Fit, name: str) -> Sequence[float]:
        if name == "saturation":
            # Determined by the highest value of the new raw images.
            return (self.top ** (2.0 ** -fit.numbers[_NAMES.index("gamma")]) - 1,)
        return (0.0,) if name == SCENE else DRIFT_TYPES[name].first

    def _near(self, fit: Fit, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
        """Returns the drift types that explain more of the rest of a fit than chance would, judged by slopes."""
        slopes = {name: self._slopes(fit, [name]) for name in (*names, *fit.kinds) if name != SCENE}
        if SCENE in (*names, *fit.kinds):
            slopes[SCENE] = fit.by_class.T @ _directions(len(fit.shares))
        found = {}
        for name in names:
            columns = np.concatenate([slopes[each] for each in (*fit.kinds, name)], 1)
            weighted = np.linalg.solve(fit.covariance, columns).T
            explained = weighted @ fit.rest @ np.linalg.lstsq(weighted @ columns, weighted @ fit.rest, rcond=1e-9)[0]
            found[name] = explained / 2 - _penalty(name, len(fit.shares))
        ranked = sorted((name for name in found if found[name] > 0), key=lambda name: -found[name])[:_TRIED]
        starts = [(name, fit.numbers) for name in ranked]
        # Saturation has no slope where nothing saturates.
        if "saturation" in names and "saturation" not in ranked:
            starts += self._far(fit, ["saturation"])
        return starts

    def _pruned(self, fit: Fit) -> Fit:
        """Removes drift types as long as the score improves."""
        while len(fit.kinds) > 1:
            less = min((self.without(fit, kind) for kind in fit.kinds), key=lambda fit: fit.score)
            if less.score > fit.score:
                break
            fit = less
        return fit

    def without(self, fit: Fit, kind: str) -> Fit:
        """Fits the drift types of a fit except one."""
        numbers = np.where([name == kind for name in _NAMES], NEUTRAL, fit.numbers)
        return self.fit([name for name in fit.kinds if name != kind], numbers)


def _directions(classes: int) -> Float[np.ndarray, "classes directions"]:
    """Returns directions of shares that keep their sum."""
    return np.linalg.svd(np.ones((1, classes)))[2][1:].T


def diagnose(
    reference: Float[np.ndarray, "n height width"],
    labels: Int[np.ndarray, " n"] | None,
    new: Float[np.ndarray, "m height width"],
    camera: isp.Camera,
    *,
    seed: int = 0,
) -> tuple[DriftEstimate, ...]:
    """Diagnoses a change between raw images, which need not show the same scenes.

    Args:
        reference: raw images from before the change, with white at 1 and the black level not subtracted; 128 or more
            are best.
        labels: their classes, from 0; None replaces classes with groups of similar raw images.
        new: raw images to explain; about 64 are enough to name small drifts.
        camera: the camera before the change.
        seed: the seed of the noise and of the intervals.

    Returns:
        The drift types with their 95% confidence intervals, the strongest first; empty if chance explains the change.
    """
    reference, new = (np.asarray(mosaics, np.float32) for mosaics in (reference, new))
    before, after = sites.found(reference, camera), sites.found(new, camera)
    reference, new = sites.repaired(reference, before, camera), sites.repaired(new, after, camera)
    comparison = Comparison(reference, labels, new, camera, seed)
    names = [name for name in DRIFT_TYPES if camera.pattern != isp.cfa.MONO or not name.startswith("white_balance")]
    if comparison.top >= _WHITE:
        names.remove("saturation")
    if len(comparison.shares) > 1:
        names.append(SCENE)
    fit = comparison.search(names)
    estimates = [*_of_sites(before, after), *_of_fit(comparison, fit, camera, seed)]
    return tuple(sorted(estimates, key=lambda each: -each.evidence))


def _members(labels: np.ndarray | None, known: np.ndarray) -> Float[np.ndarray, "n classes"]:
    """Marks the class of each raw image, or the group of raw images with similar statistics."""
    groups = np.zeros(len(known)) if labels is None else np.asarray(labels)
    if not 1 < len(np.unique(groups)) <= _MOST_CLASSES:
        groups = KMeans(_GROUPS, n_init="auto", random_state=0).fit_predict(known / (known.std(0) + 1e-9))
    return (groups[:, None] == np.unique(groups)).astype(np.float64)


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
        low, high = stats.chi2.ppf((1 - CONFIDENCE) / 2, 2 * count), stats.chi2.ppf((1 + CONFIDENCE) / 2, 2 * count + 2)
        value, low, high = (1e6 * max(number - known, 0) / now.size for number in (count, low / 2, high / 2))
        evidence = float(np.square(after.deviation[is_new]).sum() / 2)
        yield DriftEstimate(f"{kind}_sites", value, low, high, UNITS[f"{kind}_sites"], evidence)


def _of_fit(comparison: Comparison, fit: Fit, camera: isp.Camera, seed: int) -> Iterator[DriftEstimate]:
    """Yields the drift types of a fit, with intervals from its curvature, and the unexplained change if it is large."""
    names = [name for name in fit.kinds if name != SCENE]
    basis = _directions(len(fit.shares)) if SCENE in fit.kinds else np.zeros((len(fit.shares), 0))
    slopes = np.concatenate([fit.slopes, fit.by_class.T @ basis], 1)
    normal = slopes.T @ np.linalg.solve(fit.covariance, slopes)
    normal += 1e-9 * np.diag(np.diag(normal) + 1e-9)
    random = np.random.default_rng(seed)
    draws = random.normal(size=(_DRAWS, len(normal))) @ np.linalg.inv(np.linalg.cholesky(normal))

    def estimate(name: str, value: np.ndarray | np.floating, drawn: np.ndarray, evidence: float) -> DriftEstimate:
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return DriftEstimate(name, float(value), float(low), float(high), unit_of(name, camera), evidence)

    for name in fit.kinds:
        evidence = comparison.without(fit, name).score - fit.score
        if name == SCENE:
            shares = np.maximum(fit.shares + draws[:, len(names) :] @ basis.T, 0)
            value, drawn = (
                abs(each / each.sum(-1, keepdims=True) - comparison.shares).sum(-1) / 2 for each in (fit.shares, shares)
            )
        else:
            place, column = _NAMES.index(name), names.index(name)
            drawn = np.clip(fit.numbers[place] + draws[:, column], LOW[place], HIGH[place])
            value, drawn = (amount(name, each, camera) for each in (fit.numbers[place], drawn))
        yield estimate(name, value, drawn, evidence)
    freedom = len(fit.rest) - len(normal)
    limit = float(stats.chi2.isf(_UNEXPLAINED, freedom))
    if fit.chi > limit:
        drawn = random.noncentral_chisquare(freedom, max(fit.chi - freedom, 0), _DRAWS)
        yield estimate("unexplained", np.sqrt(fit.chi / freedom), np.sqrt(drawn / freedom), (fit.chi - limit) / 2)
