import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._engine import units


def test_apart_changes_no_number_and_passes_derivatives_through():
    def function(x, y):
        return jnp.sin(jnp.clip(x, 0, 1) * y), x.sum()

    x, y = jnp.array(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32), jnp.float32(2)
    apart = units.apart(function)
    for transform in (
        lambda f: f,
        jax.jit,
        lambda f: jax.grad(lambda x, y: sum(out.sum() for out in f(x, y)), (0, 1)),
        lambda f: lambda x, y: jax.vmap(f, (0, None))(x, y),
        lambda f: lambda x, y: jax.jvp(f, (x, y), (x, y)),
    ):
        expected, result = (jax.tree.leaves(transform(f)(x, y)) for f in (function, apart))
        for ours, theirs in zip(result, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


traces = []


def _scaled(factor, x):
    traces.append(x.shape)
    return x * factor


@pytest.mark.cpu
def test_units_of_the_same_static_arguments_are_traced_once():
    @jax.jit
    def twice(x):
        return units.apart_with(_scaled, 2)(units.apart_with(_scaled, 2)(x)) + units.apart_with(_scaled, 3)(x)

    np.testing.assert_array_equal(twice(jnp.ones(3)), [7, 7, 7])
    assert traces == [(3,), (3,)]


@pytest.mark.cpu
def test_apart_is_not_inlined():
    """An attribute of the call keeps XLA from fusing it, and must survive differentiation."""
    apart = units.apart(lambda x: jnp.clip(jnp.sin(x), 0, 1))
    for function, calls in ((apart, 1), (jax.grad(lambda x: apart(x).sum()), 2)):
        assert jax.jit(function).lower(jnp.ones(3)).as_text().count('inlineable = "false"') == calls
