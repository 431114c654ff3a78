"""Tests whether images come from the distribution of a reference: one p-value from several tests.

The tests look at different places: the largest Kolmogorov-Smirnov distance over the statistics of the mosaics, of the
processed images and of the head's output; the maximum mean discrepancy of the features (A. Gretton et al., "A kernel
two-sample test", JMLR 2012); and the disagreement of the members of a group, as in T. Ginsberg et al., "A learning
based hypothesis test for harmful covariate shift", ICLR 2023, who train models to disagree. Here, the members of a
group do so by themselves.

All tests share the same permutations of the labels "reference" and "new". The smallest of their p-values is compared
with the smallest p-value under each permutation (P. Westfall, S. Young, "Resampling-based multiple testing", 1993). The
false alarms of the whole are therefore right, however the tests depend on each other.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from r2l_jax.drift.watch.results import Statistic
from r2l_jax.drift.watch.statistics import Seen
from r2l_jax.runtime import compiler

# The permutations of a first look. A p-value at which it stays clear of an alarm is not computed more finely.
_FIRST = 1999
_CLEAR = 0.1

# A level is resolved by about this many permutations that are more extreme.
_BEYOND = 20

# The permutations that are computed together.
_TOGETHER = 1000

# The distribution functions are compared at this many quantiles of all images.
_POINTS = 32


class Verdict(NamedTuple):
    """The result of all tests.

    Attributes:
        p_value: of all tests together.
        tests: the p-value of each test by itself.
        permutations: the number of permutations.
    """

    p_value: float
    tests: dict[str, float]
    permutations: int


def compare(reference: Seen, new: Seen, level: float, seed: int = 0) -> Verdict:
    """Tests whether new images come from the distribution of the reference.

    For a level below 1%, a first look with fewer permutations decides whether the p-value is computed finely enough.
    A p-value at or below the level comes from one set of permutations alone, so the level holds.

    Args:
        reference: the statistics of the reference.
        new: those of the new images.
        level: the probability of a false alarm to resolve.
        seed: decides the permutations.
    """
    verdict = _test(reference, new, _FIRST, 2 * seed)
    needed = math.ceil(_BEYOND / level) - 1
    if needed <= _FIRST or verdict.p_value > max(_CLEAR, level):
        return verdict
    return _test(reference, new, needed, 2 * seed + 1)


def _test(reference: Seen, new: Seen, permutations: int, seed: int) -> Verdict:
    sizes = len(reference.mosaic), len(new.mosaic)
    pooled = [np.concatenate(pair) for pair in zip(reference[:4], new[:4], strict=True)]
    disagreement = None
    if reference.disagreement is not None and new.disagreement is not None:
        disagreement = np.concatenate([reference.disagreement, new.disagreement])
    own = np.repeat(np.array([-1 / sizes[0], 1 / sizes[1]], np.float32), sizes)
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, permutations + 1, _TOGETHER):
        weights = np.tile(own, (_TOGETHER, 1))
        # The first row is the truth.
        part = weights[1:] if start == 0 else weights
        rng.permuted(part, axis=1, out=part)
        found.append(jax.device_get(_compiled()(weights, *pooled, disagreement)))
    by_test = {name: np.concatenate([each[name] for each in found])[: permutations + 1] for name in found[0]}
    p_values = {name: _tail(_with_ties(values)) for name, values in by_test.items()}
    # Small p-values are extreme: the tail of their negatives.
    together = _tail(-np.min(list(p_values.values()), axis=0))
    return Verdict(float(together[0]), {name: float(each[0]) for name, each in p_values.items()}, permutations)


def _with_ties(values: np.ndarray) -> np.ndarray:
    """Rounds values, because rounding in float32 would break the ties of distances, and not at random."""
    return np.round(values.astype(np.float64) / max(values.max(), 1e-30), 4)


def _tail(values: np.ndarray) -> np.ndarray:
    """Returns the share of values that are at least as large as each."""
    return (len(values) - np.searchsorted(np.sort(values), values)) / len(values)


@functools.cache
def _compiled():
    def compute(
        weights: Float[Array, "P N"],
        mosaic: Array,
        image: Array,
        output: Array,
        features: Array,
        disagreement: Float[Array, " N"] | None,
    ) -> dict[str, Float[Array, " P"]]:
        found = {
            name: _distances(weights, values).max(1)
            for name, values in (("mosaics", mosaic), ("images", image), ("outputs", output))
        }
        found["features"] = _discrepancies(weights, features)
        if disagreement is not None:
            found["disagreement"] = jnp.abs(weights @ disagreement)
        return found

    # Made at the first use: the compiler is not asked for its options when this module is imported.
    return jax.jit(compute, compiler_options=compiler.options())


def _distances(weights: Float[Array, "P N"], values: Float[Array, "N S"]) -> Float[Array, "P S"]:
    """Computes the Kolmogorov-Smirnov distance of each statistic under each permutation."""
    points = jnp.sort(values, 0)[np.linspace(0, len(values) - 1, _POINTS + 1).astype(int)[:-1]]
    below = (values[:, None] <= points).astype(weights.dtype).reshape(len(values), -1)
    return jnp.abs(weights @ below).reshape(len(weights), *points.shape).max(1)


def _discrepancies(weights: Float[Array, "P N"], features: Float[Array, "N F"]) -> Float[Array, " P"]:
    """Computes the squared maximum mean discrepancy of features under each permutation.

    The kernel is Gaussian, and its squared width is the median of the squared distances. All that is taken from the
    features is the same under each permutation.
    """
    scaled = (features - features.mean(0)) / jnp.maximum(features.std(0), 1e-6)
    squares = jnp.square(scaled).sum(1)
    distances = jnp.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0)
    kernel = jnp.exp(-distances / jnp.maximum(jnp.median(distances), 1e-6))
    return jnp.maximum((weights @ kernel * weights).sum(1), 0)


def single_statistics(reference: Seen, new: Seen, names: tuple[str, ...]) -> list[Statistic]:
    """Tests each statistic by itself, with Holm's correction; returns the most extreme first.

    Args:
        reference: the statistics of the reference.
        new: those of the new images.
        names: the names of those of mosaics, images and outputs.
    """
    before, after = (np.concatenate(each[:3], 1) for each in (reference, new))
    tests = [stats.ks_2samp(*columns)[:2] for columns in zip(before.T, after.T, strict=True)]
    distances, p_values = np.array(tests, np.float64).T
    order, corrected = np.argsort(p_values, kind="stable"), 0.0
    found = []
    for rank, place in enumerate(order):
        corrected = max(corrected, min(1.0, float(p_values[place]) * (len(order) - rank)))
        old, now = (float(np.median(each[:, place])) for each in (before, after))
        found.append(Statistic(names[place], old, now, float(distances[place]), corrected))
    return found
