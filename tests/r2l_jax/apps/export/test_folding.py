import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from r2l_jax.apps.export.folding import concatenate, folded

BATCH = jax.ShapeDtypeStruct(jax.export.symbolic_shape("B, 6"), jnp.float32)


def operations(traced):
    return [equation.primitive.name for equation in traced.jaxpr.eqns]


def values(function, x):
    (result,) = core.jaxpr_as_fun(folded(function, jax.ShapeDtypeStruct(x.shape, x.dtype)))(x)
    return np.asarray(result)


X = np.random.default_rng(0).random((3, 6), np.float32)


def test_operations_on_constants_and_calls_vanish():
    taps = jnp.arange(6.0)

    @jax.jit
    def smoothed(x):
        return x * jax.nn.softmax(-(taps**2)) + jax.checkpoint(jnp.sin)(taps).sum()

    assert operations(folded(smoothed, BATCH)) == ["mul", "add"]
    np.testing.assert_allclose(values(smoothed, X), smoothed(X), rtol=1e-6)


def test_results_that_nobody_reads_vanish_and_all_that_depends_on_the_number_of_images_stays():
    assert operations(folded(lambda x: (jnp.exp(x), x + 1)[1], BATCH)) == ["add"]
    assert "broadcast_in_dim" in operations(folded(lambda x: x + jnp.zeros(x.shape), BATCH))


def each_stops_by_itself(x):
    def halved(x):
        return jax.lax.while_loop(
            lambda state: state[0].sum() > 1, lambda state: (state[0] / 2, ~state[1]), (x, x[0] > 1)
        )

    return jax.vmap(lambda x: halved(x)[0])(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.pad(x, ((0, 0), (2, 1)), constant_values=3.0),
        lambda x: jnp.pad(x, ((0, 0), (2, 3)), "edge"),
        lambda x: jax.lax.pad(x, 0.0, [(0, 0, 0), (-1, 2, 1)]),
        lambda x: jax.lax.scan(lambda carry, row: (carry + jnp.clip(row, 0.2, 0.6), carry), x[0], x)[0],
        lambda x: 8 * each_stops_by_itself(8 * x),
    ],
)
def test_rewritten_operations_compute_the_same(function):
    np.testing.assert_allclose(values(function, X), function(X), rtol=1e-6)


def test_margins_and_joined_arrays_without_elements_vanish():
    assert operations(folded(lambda x: jnp.pad(x, ((0, 0), (1, 0)), "edge"), BATCH)).count("concatenate") == 1
    assert concatenate(jnp.zeros((0, 2)), jnp.zeros((0, 2)), dimension=0).shape == (0, 2)
