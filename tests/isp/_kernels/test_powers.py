import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._kernels import powers, xla

# Numbers of all sizes, about as many from each power of two to the next.
NUMBERS = np.exp2(np.random.default_rng(0).uniform(-125, 127, 200_000)).astype(np.float32)


def test_logarithms_are_as_exact_as_float32():
    expected = np.log2(NUMBERS.astype(np.float64))
    found = np.asarray(jax.jit(powers.log2)(NUMBERS), np.float64)
    assert (np.abs(found - expected) <= 2 * np.spacing(np.abs(expected).astype(np.float32))).all()
    near_one = np.linspace(0.9, 1.1, 10_001, dtype=np.float32)
    expected = np.log2(near_one.astype(np.float64))
    np.testing.assert_allclose(powers.log2(jnp.array(near_one)), expected, rtol=2.5e-7)


@pytest.mark.cpu
def test_exponentials_are_as_exact_as_float32():
    exponents = np.random.default_rng(1).uniform(-126, 127, 200_000).astype(np.float32)
    np.testing.assert_allclose(jax.jit(powers.exp2)(exponents), np.exp2(exponents.astype(np.float64)), rtol=2e-7)
    whole = np.arange(-126, 128, dtype=np.float32)
    np.testing.assert_array_equal(powers.exp2(jnp.array(whole)), np.ldexp(np.float32(1), whole.astype(int)))
    beyond = powers.exp2(jnp.array([-jnp.inf, -1e9, -127.0, 128.0, 1e9, jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(beyond, np.float32([2.0**-126] * 3 + [np.inf] * 3 + [np.nan]))
    np.testing.assert_array_equal(powers.log2(jnp.array([jnp.inf, jnp.nan])), [jnp.inf, jnp.nan])


@pytest.mark.parametrize("function", [powers.log2, powers.exp2])
def test_derivatives_are_those_of_the_plain_formulation(function):
    x = jnp.linspace(0.1, 5, 100)

    def derivatives():
        slopes = jax.vmap(jax.grad(function))(x)
        _, tangents = jax.jvp(function, (x,), (jnp.ones_like(x),))
        curvatures = jax.vmap(jax.grad(jax.grad(function)))(x)
        return slopes, tangents, curvatures

    found = derivatives()
    with xla.plain():
        expected = derivatives()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, expected)
