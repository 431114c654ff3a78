import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isp
from r2l_jax.drift.search.descent import cost_of, descend, deviation
from r2l_jax.training.settings import AUX_LOSSES

LEVELS = jnp.asarray(np.random.default_rng(0).uniform(0, 0.3, (1000, 4)).astype(np.float32))
DECLARATIONS = {
    name: isp.parametrized(isp.CAMERAS["drone"]).declarations[name] for name in ("black_level", "gamma_correct")
}
DEFAULT = {"black_level": LEVELS, "gamma_correct": jnp.float32(2.2)}
START = jax.tree.map(jnp.zeros_like, DEFAULT)
RNG = np.random.default_rng(0)
IMAGES, RENDERED = (jnp.asarray(RNG.random((4, 6, 5, 3), np.float32)) for _ in range(2))


@pytest.mark.parametrize(("direction", "weight", "sign"), [("best", 3.0, 1), ("worst", 3.0, -1)])
@pytest.mark.parametrize("aux_loss", AUX_LOSSES)
def test_a_search_pays_for_deviation_in_both_directions(direction, weight, sign, aux_loss):
    cost, away = cost_of(direction, jnp.float32(2), IMAGES, RENDERED, aux_loss, weight)
    assert float(away) == float(deviation(IMAGES, RENDERED, aux_loss)) > 0.01
    # The study's sum over a batch is the mean times the number of its values.
    price = weight * (4 * 6 * 5 * 3 if aux_loss == "l2_sum" else 1)
    assert float(cost) == pytest.approx(sign * 2 + price * float(away), rel=1e-6)


@pytest.mark.parametrize(("sign", "limit"), [(1, 0.0), (-1, np.float32(0.95))])
def test_every_rendered_value_is_valid_and_a_limit_is_left_again(sign, limit):
    optimizer, free = optax.sgd(1e3), {"black_level": 1.0, "gamma_correct": 1.0}

    @jax.jit
    def step(offsets, state, sign):
        def cost(values):
            return sign * sum(value.sum() for value in values.values()), values

        return descend(optimizer, DECLARATIONS, DEFAULT, cost, offsets, state, free)

    offsets, state, values = step(START, optimizer.init(START), sign)
    np.testing.assert_array_equal(values["black_level"], LEVELS)
    offsets, state, values = step(offsets, state, -sign)
    levels = np.asarray(values["black_level"])
    assert ((levels >= 0) & (levels <= np.float32(0.95))).all()
    np.testing.assert_allclose(levels, limit, atol=1e-6)
    _, _, values = step(offsets, state, sign)
    np.testing.assert_allclose(values["black_level"], np.float32(0.95) - limit, atol=1e-6)


def test_what_is_not_free_stays_and_the_rest_goes_downhill():
    optimizer = optax.sgd(0.1)

    def cost(values):
        return values["black_level"].sum() + values["gamma_correct"], "seen"

    offsets, _, seen = descend(
        optimizer, DECLARATIONS, DEFAULT, cost, START, optimizer.init(START), {"black_level": 0.0, "gamma_correct": 1.0}
    )
    assert seen == "seen"
    np.testing.assert_array_equal(offsets["black_level"], 0)
    # The slope of a value on a log scale is the value.
    assert float(offsets["gamma_correct"]) == pytest.approx(-0.1 * 2.2)
