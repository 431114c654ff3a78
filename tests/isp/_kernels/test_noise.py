"""Moments and correlations of the random numbers of sites."""

import jax
import numpy as np
import pytest
from scipy import stats

from isp._kernels import noise

SIZE = 1 << 20


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_numbers_are_uniform_and_normal_to_the_fourth_moment(seed):
    key = jax.random.key(seed)
    uniform = np.asarray(noise.uniform(key, (SIZE,)), np.float64)
    assert 0 < uniform.min() < uniform.max() < 1
    assert stats.kstest(uniform[: 1 << 17], "uniform").pvalue > 1e-3
    normal = np.asarray(noise.normal(key, (SIZE,)), np.float64)
    # The variances of these means over independent normal numbers are 1, 2, 15 and 96.
    moments = [(normal**order).mean() for order in (1, 2, 3, 4)]
    np.testing.assert_array_less(abs(np.array(moments) - [0, 1, 0, 3]), 4 * np.sqrt(np.array([1, 2, 15, 96]) / SIZE))
    assert stats.kstest(normal[: 1 << 17], "norm").pvalue > 1e-3


def test_neighbors_and_keys_are_independent():
    """Neighbors in rows and columns, sites at powers of two, and keys that differ by one or were folded."""
    side = 512
    first = np.asarray(noise.normal(jax.random.key(7), (side, side)), np.float64)

    def correlation(one, other):
        return (one * other).mean() * np.sqrt(one.size)

    shifts = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 64), (256, 0), (0, 256)]
    found = [correlation(first, np.roll(first, shift, (0, 1))) for shift in shifts]
    found += [correlation(first**2 - 1, np.roll(first**2 - 1, shift, (0, 1))) / 2 for shift in shifts]
    keys = [jax.random.key(8), jax.random.fold_in(jax.random.key(7), 0), *jax.random.split(jax.random.key(7))]
    # Keys with one half in common, as small seeds have.
    keys += [jax.random.wrap_key_data(np.array(words, np.uint32)) for words in ((1, 7), (7, 0), (0, 7 << 16))]
    for key in keys:
        other = np.asarray(noise.normal(key, (side, side)), np.float64)
        found += [correlation(first, other), correlation(first**2 - 1, other**2 - 1) / 2]
        found += [correlation(first, np.roll(other, shift, (0, 1))) for shift in shifts[:3]]
    assert max(map(abs, found)) < 4.5


def test_a_key_gives_the_same_numbers_whatever_the_batch():
    keys = jax.random.split(jax.random.key(3), 5)
    batch = jax.vmap(lambda key: noise.normal(key, (4, 6)))(keys)
    for number in (0, 4):
        np.testing.assert_array_equal(batch[number], noise.normal(keys[number], (4, 6)))
