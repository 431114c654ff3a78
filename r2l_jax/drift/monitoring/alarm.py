"""Tests whether images come from the distribution of a reference: one p-value from several tests.

The tests look at different places: the largest Kolmogorov-Smirnov distance over the statistics of the raw images, of
the processed images and of the head's output; the maximum mean discrepancy of the features (A. Gretton et al., "A
kernel two-sample test", JMLR 2012); and the disagreement of the members of a group, as in T. Ginsberg et al., "A
learning based hypothesis test for harmful covariate shift", ICLR 2023, who train models to disagree. Here, the members
of a group do so by themselves.

All tests share the same permutations of the labels "reference" and "new". The smallest of their p-values is compared
with the smallest p-value under each permutation (P. Westfall, S. Young, "Resampling-based multiple testing", 1993). The
false alarm rate is therefore correct, however the tests depend on each other.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from r2l_jax.devices import compiler
from r2l_jax.drift.monitoring.statistics import Seen
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

    The Kolmogorov-Smirnov distance is that of the two distributions. The p-value has Holm's correction for the number
    of statistics.
    """

    name: str
    reference: float
    new: float
    distance: float
    p_value: float


class _Prepared(NamedTuple):
    """The values of all N images that the tests need, which are the same under every permutation."""

    below: dict[str, Float[Array, "N points _"]]
    kernel: Float[Array, "N N"]
    disagreement: Float[Array, " N"] | None


def compare(reference: Seen, new: Seen, level: float, seed: int = 0) -> Verdict:
    """Tests whether new images come from the distribution of the reference.

    As in J. Besag, P. Clifford, "Sequential Monte Carlo p-values" (Biometrika 78(2), 1991), few permutations are enough
    where many of them are as extreme as the true labels. If 20 or fewer are, a look at ten times as many follows, all
    of them new. Only the last look can raise an alarm, so the level holds.

    The p-value resolves a probability of a false alarm of `level`; the seed decides the permutations.
    """
    needed = max(_LAST, math.ceil(_BEYOND / level) - 1)
    pooled = [np.concatenate(pair) for pair in zip(reference[:4], new[:4], strict=True)]
    disagreement = None
    if reference.disagreement is not None and new.disagreement is not None:
        disagreement = np.concatenate([reference.disagreement, new.disagreement])
    prepared = compiler.jit(_prepare)(pooled, disagreement)
    sizes = len(reference.mosaic), len(new.mosaic)
    verdict = _test(prepared, sizes, _FIRST, seed)
    while verdict.permutations < needed and verdict.p_value <= max(_BEYOND / (verdict.permutations + 1), 2 * level):
        more = min(10 * (verdict.permutations + 1) - 1, needed)
        verdict = _test(prepared, sizes, more, seed)
    return verdict


def _test(prepared: _Prepared, sizes: tuple[int, int], permutations: int, seed: int) -> Verdict:
    own = np.repeat(np.array([-1 / sizes[0], 1 / sizes[1]], np.float32), sizes)
    rng = np.random.default_rng((seed, permutations))
    compute, found = compiler.jit(_under_permutations), []
    for start in range(0, permutations + 1, _TOGETHER):
        weights = np.tile(own, (_TOGETHER, 1))
        # The first row has the true labels.
        part = weights[1:] if start == 0 else weights
        rng.permuted(part, axis=1, out=part)
        found.append(jax.device_get(compute(jnp.asarray(weights), prepared)))
    by_test = {name: np.concatenate([each[name] for each in found])[: permutations + 1] for name in found[0]}
    p_values = {name: _tail(_with_ties(values)) for name, values in by_test.items()}
    # Small p-values are extreme: the tail of their negatives.
    together = _tail(-np.min(list(p_values.values()), axis=0))
    return Verdict(float(together[0]), {name: float(each[0]) for name, each in p_values.items()}, permutations)


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
    found["features"] = _discrepancies(weights, prepared.kernel)
    if prepared.disagreement is not None:
        found["disagreement"] = jnp.abs(weights @ prepared.disagreement)
    return found


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


def single_statistics(reference: Seen, new: Seen, names: tuple[str, ...]) -> list[Statistic]:
    """Tests each statistic of raw images, processed images and outputs by itself; returns the most extreme first."""
    before, after = (np.concatenate(each[:3], 1) for each in (reference, new))
    tests = [stats.ks_2samp(*columns)[:2] for columns in zip(before.T, after.T, strict=True)]
    distances, p_values = np.array(tests, np.float64).T
    corrected, medians = holm(p_values), [np.median(each, 0) for each in (before, after)]
    return [
        Statistic(names[place], *(float(each[place]) for each in (*medians, distances, corrected)))
        for place in np.argsort(p_values, kind="stable")
    ]
