import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from tasks import losses


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_cross_entropy(transform):
    logits = 5 * np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    targets = np.arange(20) % 9
    actual = transform(losses.cross_entropy)(jnp.asarray(logits), jnp.asarray(targets))
    assert actual.shape == (20,)
    expected = sklearn.metrics.log_loss(targets, scipy.special.softmax(logits.astype(float), -1))
    np.testing.assert_allclose(actual.mean(), expected, rtol=1e-6)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([0, 1])), [0, 2e4])
    gradient = jax.grad(lambda logits: losses.cross_entropy(logits, jnp.array([0, 1])).sum())(logits)
    np.testing.assert_allclose(gradient, [[0, 0], [1, -1]])
