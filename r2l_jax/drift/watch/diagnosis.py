"""Says what changed in a camera between reference mosaics and new ones of other scenes, in the camera's own terms.

Defective sites are found by place. Of all other sites, statistics are compared that depend on the camera: levels of
each color, fall-off, saturation, noise against level, spectrum, and the levels of rows, see `moments`. The causes are
those drifts that explain the change best, and no more than it needs, see `fitting`. So where two causes together look
like a third, such as both gains like the exposure, the third is named. Another mix of the reference's classes competes
with the drifts of the camera as `scene`, and a change that is left over is `unexplained`.

M. Wischow et al. estimate blur and noise of cameras in use with learned estimators, from single images: "Monitoring and
adapting the physical state of a camera for autonomous vehicles", IEEE Transactions on Intelligent Transportation
Systems (2023, arXiv:2112.05456 from 2021), and "Real-time noise source estimation of a camera system from an image and
metadata", arXiv:2404.03251 (2024).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from sklearn.cluster import KMeans

import isp
from r2l_jax.drift.watch import sites
from r2l_jax.drift.watch.causes import UNITS, unit_of
from r2l_jax.drift.watch.fitting import Comparison, Fit
from r2l_jax.drift.watch.moments import measured, noise_curve
from r2l_jax.drift.watch.response import DRIFTS, SCENE, Observed, amount, observed, reference_of
from r2l_jax.drift.watch.results import Cause

CONFIDENCE = 0.95

# In smaller mosaics, the scene hides the noise: of those with sides of 32, a blur is taken for less noise as well.
LEAST_SIDE = 64

# Responses to drifts are computed for so many mosaics of the reference.
_MOST = 128
# Mosaics without labels, or of more classes than that, form groups.
_MOST_CLASSES, _GROUPS = 12, 4
_DRAWS = 1000
# A change is unexplained if chance leaves as much in one of so many diagnoses.
_CHANCE = 1e-4
# Above this value, sites are white.
_WHITE = 0.998


def diagnose(
    reference: Float[np.ndarray, "n height width"],
    labels: Int[np.ndarray, " n"] | None,
    new: Float[np.ndarray, "m height width"],
    camera: isp.Camera,
    *,
    seed: int = 0,
) -> tuple[Cause, ...]:
    """Finds the causes of a change between mosaics, which need not show the same scenes.

    Args:
        reference: mosaics from before the change, with white at 1 and the black level in them; 128 or more are best.
        labels: their classes, from 0, or None: then groups of similar mosaics take the place of classes.
        new: mosaics to explain; 64 or so name small drifts.
        camera: the camera before the change.
        seed: the seed of the intervals.

    Returns:
        The causes with their intervals of 95%, from the bootstrap over the mosaics of both sets; the strongest first,
        and none if chance explains the change.
    """
    reference, new = (np.asarray(mosaics, np.float32) for mosaics in (reference, new))
    before, after = sites.found(reference, camera), sites.found(new, camera)
    reference, new = sites.repaired(reference, before, camera), sites.repaired(new, after, camera)
    comparison = _compared(reference, labels, new, camera)
    names = [name for name in DRIFTS if camera.pattern != isp.cfa.MONO or not name.startswith("white_balance")]
    if comparison.top >= _WHITE:
        names.remove("saturation")
    if len(comparison.shares) > 1:
        names.append(SCENE)
    fit = comparison.search(names)
    causes = [*_of_sites(before, after), *_of_fit(comparison, fit, camera, seed)]
    return tuple(sorted(causes, key=lambda cause: -cause.evidence))


def _compared(reference: np.ndarray, labels: np.ndarray | None, new: np.ndarray, camera: isp.Camera) -> Comparison:
    """Measures both sets."""
    moments, of_new = (measured(mosaics, camera.pattern) for mosaics in (reference, new))
    curve, curve_of_new = (noise_curve(mosaics, camera.pattern) for mosaics in (reference, new))
    known = observed(reference, moments, curve)
    members = _members(labels, known)
    some = np.linspace(0, len(reference) - 1, min(_MOST, len(reference))).round().astype(int)
    part = jax.tree.map(lambda values: values[some], moments)
    responding = reference_of(jnp.asarray(reference[some]), part, curve, members[some], camera)
    structure = np.maximum(curve.structure, curve_of_new.structure)
    statistics = observed(new, of_new, curve_of_new)
    return Comparison(responding, known, statistics, curve_of_new.level, structure, float(new.max()))


def _members(labels: np.ndarray | None, known: Observed) -> Float[np.ndarray, "n classes"]:
    """Marks the class of each mosaic, or the group of mosaics with similar statistics."""
    groups = np.zeros(len(known.influence)) if labels is None else np.asarray(labels)
    if not 1 < len(np.unique(groups)) <= _MOST_CLASSES:
        spread = known.influence.std(0) + 1e-9
        groups = KMeans(_GROUPS, n_init="auto", random_state=0).fit_predict(known.influence / spread)
    return (groups[:, None] == np.unique(groups)).astype(np.float32)


def _of_sites(before: sites.Defects, after: sites.Defects) -> Iterator[Cause]:
    """Counts the sites that have become dead or hot; the interval is that of Poisson counts."""
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
        yield Cause(f"{kind}_sites", value, low, high, UNITS[f"{kind}_sites"], evidence)


def _of_fit(comparison: Comparison, fit: Fit, camera: isp.Camera, seed: int) -> Iterator[Cause]:
    """States the causes of a fit, and what it leaves unexplained."""
    theta, logits, chi = comparison.draws(fit, _DRAWS, seed)

    def cause(name: str, value: np.ndarray, draws: np.ndarray, evidence: float | np.floating) -> Cause:
        low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Cause(name, float(value), float(low), float(high), unit_of(name, camera), float(evidence))

    for name in fit.causes:
        evidence = comparison.score(comparison.without(fit, name)) - comparison.score(fit)
        if name == SCENE:
            yield cause(name, _moved(comparison.shares, fit.logits), _moved(comparison.shares, logits), evidence)
        else:
            number = list(DRIFTS).index(name)
            value, draws = (amount(name, numbers[..., number], camera) for numbers in (fit.theta, theta))
            yield cause(name, value, draws, evidence)
    freedom = len(fit.rest) - len(comparison.columns(fit.causes))
    limit = stats.chi2.isf(_CHANCE, freedom)
    if fit.chi > limit:
        value, draws = (np.asarray(np.sqrt(np.maximum(each, 0) / freedom)) for each in (fit.chi, chi))
        yield cause("unexplained", value, draws, fit.chi / 2 - float(limit) / 2)


def _moved(shares: Float[np.ndarray, " classes"], logits: Float[np.ndarray, "*n classes"]) -> np.ndarray:
    """Computes the share of mosaics that would have to change their class: the total variation distance."""
    new = shares * np.exp(logits)
    return np.asarray(abs(new / new.sum(-1, keepdims=True) - shares).sum(-1) / 2)
