import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isp
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.ranges import cost_of, descend, deviation, moved
from r2l_jax.errors import InputError
from r2l_jax.training.settings import AUX_LOSSES

PIPELINES = {
    "drone": isp.parametrized(isp.CAMERAS["drone"], additive_layer=(4, 4)),
    "static": isp.static(isp.CAMERAS["drone"], "bilinear", "unsharp_masking", "tv_chambolle"),
}


@pytest.fixture(params=PIPELINES)
def pipeline(request):
    """The declarations of the parameters of a pipeline, and their values."""
    return PIPELINES[request.param].declarations, PIPELINES[request.param].parameters()


def test_what_one_cause_moves_together_costs_nothing(pipeline):
    declarations, default = pipeline
    together = moved(declarations, default, {name: np.full(np.shape(value), 0.1) for name, value in default.items()})
    matrices = [name for name, value in default.items() if np.ndim(value) > 1]
    assert float(ranges.apart(declarations, default, together)) == pytest.approx(0.01 * len(matrices), rel=1e-3)
    red = moved(declarations, default, {"white_balance": np.float32([0.3, 0, 0])})
    assert float(ranges.apart(declarations, default, red)) == pytest.approx(0.02, rel=1e-3)


def test_offsets_that_cannot_be_counted_are_refused():
    pipeline = PIPELINES["static"]
    shading = isp.Stage("shading", lambda image, strength: image, {"strength": isp.Parameter(0.0)})
    edited = pipeline.inserted(shading, before="gamma_correct")
    ranges.check(pipeline.declarations, pipeline.parameters())
    with pytest.raises(
        InputError, match=r"^parameter strength needs a natural range: .* isp.Parameter\(..., width=...\)"
    ):
        ranges.check(edited.declarations, edited.parameters())
    black = pipeline.parameters() | {"white_balance": np.float32([1, 0, 1])}  # as no training leaves it
    with pytest.raises(InputError, match=r"^parameter white_balance has a log scale, but a value of 0"):
        ranges.check(pipeline.declarations, black)


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

    offsets, state, _, values = step(START, optimizer.init(START), sign)
    np.testing.assert_array_equal(values["black_level"], LEVELS)
    offsets, state, _, values = step(offsets, state, -sign)
    levels = np.asarray(values["black_level"])
    assert ((levels >= 0) & (levels <= np.float32(0.95))).all()
    np.testing.assert_allclose(levels, limit, atol=1e-6)
    *_, values = step(offsets, state, sign)
    np.testing.assert_allclose(values["black_level"], np.float32(0.95) - limit, atol=1e-6)


def test_what_is_not_free_stays_and_the_rest_goes_downhill():
    optimizer = optax.sgd(0.1)

    def cost(values):
        return values["black_level"].sum() + values["gamma_correct"], "seen"

    offsets, _, _, seen = descend(
        optimizer, DECLARATIONS, DEFAULT, cost, START, optimizer.init(START), {"black_level": 0.0, "gamma_correct": 1.0}
    )
    assert seen == "seen"
    np.testing.assert_array_equal(offsets["black_level"], 0)
    # The slope of a value on a log scale is the value.
    assert float(offsets["gamma_correct"]) == pytest.approx(-0.1 * 2.2)
