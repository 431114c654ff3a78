import jax
import numpy as np
import pytest

import isp
from r2l_jax.drift.search import knobs as knobs_module

PIPELINES = {
    "drone": isp.parametrized(isp.CAMERAS["drone"], additive_layer=(4, 4)),
    "static": isp.static(isp.CAMERAS["microscopy"], "bilinear", "unsharp_masking", "tv_chambolle"),
}
# By name, the declarations of all of their parameters.
DECLARATIONS = {name: each for pipeline in PIPELINES.values() for name, each in pipeline.declarations.items()}
DRONE = jax.device_get(PIPELINES["drone"].parameters())


def knobs_of(parameters):
    return knobs_module.knobs_of(DECLARATIONS, parameters)


def turned(default, positions):
    return knobs_module.turned(DECLARATIONS, default, positions)


@pytest.fixture(params=PIPELINES)
def default(request):
    return jax.device_get(PIPELINES[request.param].parameters())


def test_every_value_of_a_camera_is_a_knob_and_all_values_together_are_one(default):
    names = set(knobs_of(default))
    assert {"black_level", "black_level.blue", "white_balance", "white_balance.blue", "gamma_correct"} <= names
    assert "colour_correction.green_from_red" in names
    filters = {"sharpening_filter", "gaussian_blur"} if "debayer" in default else {"radius", "amount", "weight"}
    assert filters <= names
    # Neither the interpolation's weights nor an image's pixels.
    assert len(names) == 4 + 1 + 3 + 1 + 9 + 1 + len(filters)


def test_a_knob_moves_its_parameter_alone_along_its_direction_in_its_unit(default):
    for name, knob in knobs_of(default).items():
        assert knob.low <= 0 <= knob.high
        assert knob.value(0.0) == knob.default
        for position in (knob.low, knob.low / 2, 0.0, knob.high / 2, knob.high):
            values = turned(default, [(knob, position)])
            for other, value in values.items():
                if other != knob.parameter:
                    np.testing.assert_array_equal(value, default[other])
            offsets = DECLARATIONS[knob.parameter].offset(default[knob.parameter], values[knob.parameter])
            # Nothing is cut off: the limits are where the first value stops being valid.
            np.testing.assert_allclose(offsets, position * knob.direction, atol=2e-5, err_msg=f"{name} at {position}")
            value = knob.value(position)
            assert knob.position(value) == pytest.approx(position, abs=1e-6), name
            (places,) = np.nonzero(knob.direction.ravel())
            if len(places) == 1:
                assert values[knob.parameter].ravel()[places[0]] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_offsets_of_several_knobs_of_a_parameter_add_up(default):
    knobs = knobs_of(default)
    moves = {"white_balance.red": 0.3, "gamma_correct": -0.1, "white_balance": 0.2, "white_balance.blue": -0.4}
    values = turned(default, [(knobs[name], position) for name, position in moves.items()])
    # A natural range is a factor of e.
    np.testing.assert_allclose(values["white_balance"], default["white_balance"] * np.exp([0.5, 0.2, -0.2]), rtol=1e-5)
    np.testing.assert_allclose(values["gamma_correct"], default["gamma_correct"] * np.exp(-0.1), rtol=1e-5)
    entries = [knob for knob in knobs.values() if knob.parameter == "colour_correction"]
    matrix = turned(default, [(knob, 0.01 * place) for place, knob in enumerate(entries)])["colour_correction"]
    offsets = DECLARATIONS["colour_correction"].offset(default["colour_correction"], matrix)
    np.testing.assert_allclose(offsets.ravel(), 0.01 * np.arange(9), atol=1e-5)


def test_the_strength_of_a_filter_counts_from_the_kernel_that_changes_nothing():
    knob = knobs_of(DRONE)["gaussian_blur"]
    assert (knob.value(knob.low), knob.value(0.0), knob.value(knob.high)) == (0.0, 1.0, 4.0)
    copy = np.zeros((5, 5))
    copy[2, 2] = 1
    for strength in (0.0, 1.0, 4.0):
        kernel = turned(DRONE, [(knob, knob.position(strength))])["gaussian_blur"]
        np.testing.assert_allclose(kernel, copy + strength * (DRONE["gaussian_blur"] - copy), atol=1e-5)


@pytest.mark.shows("isp.Parameter(unit, tuned, neutral)")
@pytest.mark.parametrize(
    ("value", "declared", "quantities"),
    [
        (
            [1, 2],
            {"scale": "log", "unit": "gain", "labels": ("x", "y")},
            {"p": "factor on all gains", "p.x": "gain", "p.y": "gain"},
        ),
        ([1, 2], {"width": 1, "unit": "pixels"}, {"p": "shift of all pixels", "p.0": "pixels", "p.1": "pixels"}),
        (np.ones((4, 4)), {"width": 1}, {}),
        (np.ones((4, 4)), {"width": 1, "neutral": np.zeros((4, 4)), "unit": "weight"}, {"p": "strength"}),
        ([1, 2], {"width": 1, "tuned": False}, {}),
    ],
)
def test_the_knobs_of_a_parameter_follow_from_its_declaration(value, declared, quantities):
    value = np.array(value, np.float32)
    knobs = knobs_module.knobs_of({"p": isp.Parameter(value, **declared)}, {"p": value})
    assert {name: knob.quantity for name, knob in knobs.items()} == quantities
