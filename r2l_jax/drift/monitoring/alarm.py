"""Tests whether images come from the distribution of a reference: one p-value from several tests.

The tests look at different places: the largest Kolmogorov-Smirnov distance over the statistics of the raw images, of
the processed images and of the head's output; the maximum mean discrepancy of the features (A. Gretton et al., "A
kernel two-sample test", JMLR 2012); and the disagreement of the members of a group, as in T. Ginsberg et al., "A
learning based hypothesis test for harmful covariate shift", ICLR 2023, who train models to disagree. Here, the members
of a group do so by themselves.

All tests share the same permutations of the labels "reference" and "new". The smallest of their p-values is compared
with the smallest p-value under each permutation (P. Westfall, S. Young, "Resampling-based multiple testing", 1993). The
false alarm rate is therefore correct, however the tests depend on each other.

Images of a group, such as a patient, depend on each other, so groups are compared by their means. A few groups have too
few permutations for a small p-value; random rotations replace them, which assume that the means of groups are normally
distributed (Ø. Langsrud, "Rotation tests", Statistics and Computing 15, 2005).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from r2l_jax.devices import compiler
from r2l_jax.drift.monitoring.statistics import SKEWED, Others, Seen
from r2l_jax.drift.statistics import holm

# The permutations of a first look; each further look takes ten times as many.
_FIRST = 199
# A p-value is known well enough if this many permutations are at least as extreme as the true labels.
_BEYOND = 20
# The last look takes at least this many permutations.
_LAST = 1999

# The permutations that are computed together.
_TOGETHER = 200

# The distribution functions are compared at this many quantiles of all images.
_POINTS = 32


class Verdict(NamedTuple):
    """The p-value of all tests together, that of each test alone, and the number of permutations."""

    p_value: float
    tests: dict[str, float]
    permutations: int


class Statistic(NamedTuple):
    """The test of a single statistic: its medians in the reference and in the new images, and their difference.

    The Kolmogorov-Smirnov distance is that of the two distributions. The p-value, of groups that of Student's t between
    their means, has Holm's correction for the number of statistics.
    """

    name: str
    reference: float
    new: float
    distance: float
    p_value: float


class _Prepared(NamedTuple):
    """The values of all N images or groups that the tests need, which are the same under every permutation.

    Of groups, `below` has the values themselves, as a single point.
    """

    below: dict[str, Float[Array, "N points _"]]
    kernel: Float[Array, "N N"] | None
    disagreement: Float[Array, " N"] | None


class _Family(NamedTuple):
    """Tests that share permutations, or rotations: of how many images or groups of the reference, and new ones."""

    prepared: _Prepared
    sizes: tuple[int, int]
    rotates: bool


def compare(reference: Seen, new: Seen, level: float, seed: int = 0, others: Others | None = None) -> Verdict:
    """Tests whether new images, or groups of them, come from the distribution of the reference.

    If the images of either depend on each other, their groups are compared, see `Seen.groups`. Raw and processed images
    are then also compared with those of other groups, if there are any; Bonferroni's correction unites these tests with
    those of the network.

    As in J. Besag, P. Clifford, "Sequential Monte Carlo p-values" (Biometrika 78(2), 1991), few permutations are enough
    where many of them are as extreme as the true labels. If 20 or fewer are, a look at ten times as many follows, all
    of them new. Only the last look can raise an alarm, so the level holds.

    The p-value resolves a probability of a false alarm of `level`; the seed decides the permutations.
    """
    needed = max(_LAST, math.ceil(_BEYOND / level) - 1)
    families = _families(reference, new, others)
    verdict = _test(families, _FIRST, seed)
    while verdict.permutations < needed and verdict.p_value <= max(_BEYOND / (verdict.permutations + 1), 2 * level):
        more = min(10 * (verdict.permutations + 1) - 1, needed)
        verdict = _test(families, more, seed)
    return verdict


def _families(reference: Seen, new: Seen, others: Others | None) -> list[_Family]:
    if not is_grouped(reference, new):
        pooled = [np.concatenate(pair) for pair in zip(reference[:4], new[:4], strict=True)]
        disagreement = None
        if reference.disagreement is not None and new.disagreement is not None:
            disagreement = np.concatenate([reference.disagreement, new.disagreement])
        prepared = compiler.jit(_prepare)(pooled, disagreement)
        return [_Family(prepared, (len(reference.mosaic), len(new.mosaic)), False)]
    before, after, apart = by_groups(reference, new, others)
    images = _prepared_groups(before[:2], after[:2], apart, ("raw images", "images"))
    return [images, _prepared_groups(before[2:], after[2:], (), ("outputs", "features", "disagreement"))]


def by_groups(
    reference: Seen, new: Seen, others: Others | None = None
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Computes the means of groups: of the five kinds of values of `Seen` and its disagreement, and of `others`.

    Without groups, new images are a single group. The mean of a group of the reference is that of as many images as a
    new group has on average, so that both have as much noise; that average is the harmonic mean, because the variances
    of the new groups' means add up.
    """
    counts = np.unique(_groups_of(new, np.zeros), return_counts=True)[1]
    most = max(1, int(len(counts) / (1 / counts).sum()))
    before, after = (
        [*each[:4], np.zeros((len(each.mosaic), 0)) if each.disagreement is None else each.disagreement[:, None]]
        for each in (reference, new)
    )
    apart = [] if others is None else _means(others[:2], others.groups, most)
    return _means(before, _groups_of(reference, np.arange), most), _means(after, _groups_of(new, np.zeros)), apart


def is_grouped(reference: Seen, new: Seen) -> bool:
    """Tells whether groups are compared, because images of either depend on each other."""
    given = [each.groups for each in (reference, new) if each.groups is not None]
    return any(len(np.unique(groups)) < len(groups) for groups in given)


def group_counts(reference: Seen, new: Seen) -> tuple[int, int] | None:
    """Counts the groups of the reference and of the new images; None if images are compared instead."""
    if not is_grouped(reference, new):
        return None
    return len(np.unique(_groups_of(reference, np.arange))), len(np.unique(_groups_of(new, np.zeros)))


def _groups_of(seen: Seen, by_default: Callable[[int], np.ndarray]) -> np.ndarray:
    return by_default(len(seen.mosaic)) if seen.groups is None else seen.groups


def _means(values: Sequence[np.ndarray], groups: np.ndarray, most: int | None = None) -> list[np.ndarray]:
    """Averages the first images of each group."""
    places = [np.flatnonzero(groups == group)[:most] for group in np.unique(groups)]
    return [np.stack([each[place].mean(0) for place in places]) for each in values]


def _prepared_groups(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], others: Sequence[np.ndarray], names: Sequence[str]
) -> _Family:
    """Prepares the means of groups, each statistic with mean 0 and length 1 over all groups.

    Statistics of these are then the cosine of a contrast and its square, which are monotone in Student's t and in the
    share of the features' variance that the contrast explains.
    """
    known = [np.concatenate(each) for each in zip(before, others, strict=True)] if others else before
    scaled = {name: _scaled(np.concatenate(pair)) for name, *pair in zip(names, known, after, strict=True)}
    sizes = len(known[0]), len(after[0])
    if "raw images" in scaled:
        scaled = {name: np.delete(each, SKEWED[name], 1) for name, each in scaled.items()}
    below = {name: jnp.asarray(each[:, None], jnp.float32) for name, each in scaled.items() if each.shape[1]}
    features = below.pop("features", None)
    kernel = None if features is None else features[:, 0] @ features[:, 0].T / features.shape[2]
    return _Family(_Prepared(below, kernel, None), sizes, True)


def _scaled(means: Float[np.ndarray, "groups S"]) -> Float[np.ndarray, "groups S"]:
    """Scales each statistic to mean 0 and length 1; to 0 if all groups share it, and differ by rounding."""
    centered = means.astype(np.float64) - means.mean(0, np.float64)
    length = np.linalg.norm(centered, axis=0)
    return np.where(length > 1e-6 * (1 + np.abs(means).max(0)), centered / np.maximum(length, 1e-30), 0)


def _contrast(known: int, new: int) -> Float[np.ndarray, " groups"]:
    """Returns the direction of the difference between the means of known and of new groups, of length 1."""
    weights = np.repeat([-1 / known, 1 / new], (known, new))
    return weights / np.linalg.norm(weights)


def _test(families: Sequence[_Family], permutations: int, seed: int) -> Verdict:
    found = [_test_family(each, permutations, seed) for each in families]
    # Two groups differ in one way only, so all their rotations are alike.
    able = max(1, sum(sum(each.sizes) > 2 for each in families))
    together = min(1.0, able * min(p_value for p_value, _ in found))
    return Verdict(together, {name: value for _, tests in found for name, value in tests.items()}, permutations)


def _test_family(family: _Family, permutations: int, seed: int) -> tuple[float, dict[str, float]]:
    (known, new), rng = family.sizes, np.random.default_rng((seed, permutations))
    own = np.repeat(np.array([-1 / known, 1 / new], np.float32), family.sizes)
    if family.rotates:
        own = _contrast(known, new).astype(np.float32)
    compute, found = compiler.jit(_under_permutations), []
    for start in range(0, permutations + 1, _TOGETHER):
        weights = np.tile(own, (_TOGETHER, 1))
        # The first row has the true labels.
        part = weights[1:] if start == 0 else weights
        if family.rotates:
            part[:] = rng.normal(size=part.shape)
            part -= part.mean(1, keepdims=True)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        else:
            rng.permuted(part, axis=1, out=part)
        found.append(jax.device_get(compute(jnp.asarray(weights), family.prepared)))
    by_test = {name: np.concatenate([each[name] for each in found])[: permutations + 1] for name in found[0]}
    p_values = {name: _tail(_with_ties(values)) for name, values in by_test.items()}
    # Small p-values are extreme: the tail of their negatives.
    together = _tail(-np.min(list(p_values.values()), axis=0))
    return float(together[0]), {name: float(each[0]) for name, each in p_values.items()}


def _with_ties(values: np.ndarray) -> np.ndarray:
    """Rounds values, because float32 rounding would break ties between distances, and not at random."""
    return np.round(values.astype(np.float64) / max(values.max(), 1e-30), 4)


def _tail(values: np.ndarray) -> np.ndarray:
    """Returns the share of values that are at least as large as each."""
    return (len(values) - np.searchsorted(np.sort(values), values)) / len(values)


def _prepare(pooled: Sequence[Array], disagreement: Array | None) -> _Prepared:
    *single, features = pooled
    below = {
        name: _below(values)
        for name, values in zip(("raw images", "images", "outputs"), single, strict=True)
        if values.shape[-1]
    }
    return _Prepared(below, _kernel(features), disagreement)


def _under_permutations(weights: Float[Array, "P N"], prepared: _Prepared) -> dict[str, Float[Array, " P"]]:
    """Computes the statistic of each test under each permutation."""
    found = {name: _distances(weights, below).max(1) for name, below in prepared.below.items()}
    if prepared.kernel is not None:
        found["features"] = _discrepancies(weights, prepared.kernel)
    if prepared.disagreement is not None:
        found["disagreement"] = jnp.abs(weights @ prepared.disagreement)
    return found


def _students(known: Float[np.ndarray, "G S"], new: Float[np.ndarray, "K S"]) -> Float[np.ndarray, " S"]:
    """Computes the p-values of Student's t between known and new groups; two groups have none, so theirs is 1."""
    means = np.concatenate([known, new])
    freedom, cosine = len(means) - 2, np.abs(_contrast(len(known), len(new)) @ _scaled(means))
    with np.errstate(divide="ignore"):
        t = cosine * np.sqrt(freedom / np.maximum(1 - cosine**2, 0))
    return 2 * stats.t.sf(t, freedom) if freedom else np.ones(means.shape[1])


def _below(values: Float[Array, "N S"]) -> Float[Array, "N points S"]:
    """Marks the images at or below each of some quantiles of all images, for each statistic."""
    points = jnp.sort(values, 0)[np.linspace(0, len(values) - 1, _POINTS + 1).astype(int)[:-1]]
    return (values[:, None] <= points).astype(jnp.float32)


def _distances(weights: Float[Array, "P N"], below: Float[Array, "N points S"]) -> Float[Array, "P S"]:
    """Computes the Kolmogorov-Smirnov distance of each statistic under each permutation."""
    return jnp.abs(jnp.tensordot(weights, below, 1)).max(1)


def _kernel(features: Float[Array, "N F"]) -> Float[Array, "N N"]:
    """Computes a Gaussian kernel whose squared width is the median of the squared distances.

    The scale of the features and this width come from all images, so they are the same under each permutation.
    """
    scaled = (features - features.mean(0)) / jnp.maximum(features.std(0), 1e-6)
    squares = jnp.square(scaled).sum(1)
    distances = jnp.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0)
    return jnp.exp(-distances / jnp.maximum(jnp.median(distances), 1e-6))


def _discrepancies(weights: Float[Array, "P N"], kernel: Float[Array, "N N"]) -> Float[Array, " P"]:
    """Computes the squared maximum mean discrepancy under each permutation."""
    return jnp.maximum((weights @ kernel * weights).sum(1), 0)


def rates_of_one_reference(level: float, new: int, known: int) -> tuple[float, float]:
    """Computes the lowest and the highest false alarm rate of 95% of references; their mean is the level.

    The error of a reference shifts its differences from all windows alike. The rates are those of a test of one normal
    statistic; several statistics average them.

    Args:
        level: the probability of a false alarm with a random reference.
        new: the number of images in a window.
        known: the number of images in the reference.
    """
    ratio = new / known
    threshold = stats.norm.isf(level / 2) * math.sqrt(1 + ratio)
    low, high = (
        float(stats.norm.sf(threshold - shift) + stats.norm.sf(threshold + shift))
        for shift in (0.0, stats.norm.isf(0.025) * math.sqrt(ratio))
    )
    return low, high


def single_statistics(
    reference: Seen, new: Seen, names: tuple[str, ...], others: Others | None = None
) -> list[Statistic]:
    """Tests each statistic of raw images, processed images and outputs by itself; returns the most extreme first."""
    before, after = (np.concatenate(each[:3], 1) for each in (reference, new))
    tests = [stats.ks_2samp(*columns)[:2] for columns in zip(before.T, after.T, strict=True)]
    distances, p_values = np.array(tests, np.float64).T
    if is_grouped(reference, new):
        known, grouped, apart = by_groups(reference, new, others)
        known[: len(apart)] = map(np.concatenate, zip(known, apart, strict=False))
        pairs = zip(known[:3], grouped[:3], strict=True)
        p_values = np.concatenate([_students(*pair) for pair in pairs])
    corrected, medians = holm(p_values), [np.median(each, 0) for each in (before, after)]
    return [
        Statistic(names[place], *(float(each[place]) for each in (*medians, distances, corrected)))
        for place in np.argsort(p_values, kind="stable")
    ]
