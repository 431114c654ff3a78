import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from r2l_jax.apps.export.folding import folded


def values(function, x):
    (result,) = core.jaxpr_as_fun(folded(function, jax.ShapeDtypeStruct(x.shape, x.dtype)))(x)
    return np.asarray(result)


X = np.random.default_rng(0).random((3, 6), np.float32)


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
