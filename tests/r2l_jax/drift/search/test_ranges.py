import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.ranges import moved, valid_offsets, values_at
from r2l_jax.runtime.errors import InputError

PIPELINES = {
    "drone": isp.parametrized(isp.CAMERAS["drone"], additive_layer=(4, 4)),
    "static": isp.static(isp.CAMERAS["drone"], "bilinear", "unsharp_masking", "tv_chambolle"),
}
DRONE = PIPELINES["drone"].facts
LEVELS = {"black_level": np.random.default_rng(0).uniform(0, 0.3, (1000, 4)).astype(np.float32)}


@pytest.fixture(params=PIPELINES)
def pipeline(request):
    """The declarations of the parameters of a pipeline, and their values."""
    return PIPELINES[request.param].facts, PIPELINES[request.param].parameters()


def everywhere(default, offset):
    return {name: np.full(np.shape(value), offset) for name, value in default.items()}


def test_a_hundredth_of_a_range(pipeline):
    facts, default = pipeline
    values = moved(facts, default, everywhere(default, 0.01))
    np.testing.assert_allclose(values["black_level"], default["black_level"] + 0.001, rtol=1e-5)
    np.testing.assert_allclose(values["colour_correction"], default["colour_correction"] + 0.01, rtol=1e-5)
    for name in ("white_balance", "gamma_correct"):
        np.testing.assert_allclose(values[name], default[name] * math.exp(0.01), rtol=1e-5)


def test_tuned_parameters_and_gains(pipeline):
    facts, _ = pipeline
    assert set(facts) - set(ranges.tuned(facts)) == ({"debayer"} & set(facts))
    assert ranges.gains(facts, facts) == ["white_balance"]
    assert ranges.gains(facts, ["black_level", "gamma_correct"]) == []


def test_what_one_cause_moves_together_costs_nothing(pipeline):
    facts, default = pipeline
    together = moved(facts, default, everywhere(default, 0.1))
    matrices = [name for name, value in default.items() if np.ndim(value) > 1]
    assert float(ranges.apart(facts, default, together)) == pytest.approx(0.01 * len(matrices), rel=1e-3)
    red = moved(facts, default, {"white_balance": np.float32([0.3, 0, 0])})
    assert float(ranges.apart(facts, default, red)) == pytest.approx(0.02, rel=1e-3)


def test_offsets_that_cannot_be_counted_are_refused():
    pipeline = PIPELINES["static"]
    shading = isp.Stage("shading", lambda image, strength: image, {"strength": isp.Parameter(0.0)})
    edited = pipeline.inserted(shading, before="gamma_correct")
    ranges.check(pipeline.facts, pipeline.parameters())
    with pytest.raises(
        InputError, match=r"^parameter strength has no natural range, .* isp.Parameter\(..., width=...\)"
    ):
        ranges.check(edited.facts, edited.parameters())
    black = pipeline.parameters() | {"white_balance": np.float32([1, 0, 1])}  # as no training leaves it
    with pytest.raises(InputError, match=r"^parameter white_balance has a value of 0, which no factor moves"):
        ranges.check(pipeline.facts, black)


@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_rounding_makes_no_value_invalid_and_at_a_limit_values_move_as_fast_as_elsewhere(far):
    @jax.jit
    def end(levels):
        offsets = valid_offsets(DRONE, levels, jax.tree.map(lambda level: jnp.full_like(level, far), levels))
        return values_at(DRONE, levels, offsets)["black_level"], offsets

    ends, offsets = end(LEVELS)
    ends = np.asarray(ends)
    assert ends.min() >= 0
    assert ends.max() <= np.float32(0.95)
    np.testing.assert_allclose(ends, 0.95 if far > 0 else 0, atol=1e-6)
    gradients = jax.grad(lambda offsets: values_at(DRONE, LEVELS, offsets)["black_level"].sum())(offsets)
    np.testing.assert_allclose(gradients["black_level"], 0.1, rtol=1e-6)
