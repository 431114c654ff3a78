import math

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
FACTS = {name: facts for pipeline in PIPELINES.values() for name, facts in pipeline.facts.items()}
DRONE = jax.device_get(PIPELINES["drone"].parameters())


def knobs_of(parameters):
    return knobs_module.knobs_of(FACTS, parameters)


def turned(default, positions):
    return knobs_module.turned(FACTS, default, positions)


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
            offsets = FACTS[knob.parameter].offset(default[knob.parameter], values[knob.parameter])
            # Nothing is cut off: the limits are where the first value stops being valid.
            np.testing.assert_allclose(offsets, position * knob.direction, atol=2e-5, err_msg=f"{name} at {position}")
            value = knob.value(position)
            assert knob.position(value) == pytest.approx(position, abs=1e-6), name
            (places,) = np.nonzero(knob.direction.ravel())
            if len(places) == 1:
                assert values[knob.parameter].ravel()[places[0]] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_a_joint_knob_keeps_ratios_of_gains_and_differences_of_levels():
    knobs = knobs_of(DRONE)
    gains = turned(DRONE, [(knobs["white_balance"], math.log(1.5))])["white_balance"]
    np.testing.assert_allclose(gains, 1.5 * DRONE["white_balance"], rtol=1e-5)
    assert knobs["white_balance"].value(math.log(1.5)) == pytest.approx(1.5)
    levels = turned(DRONE, [(knobs["black_level"], 0.3)])["black_level"]
    np.testing.assert_allclose(levels, DRONE["black_level"] + 0.03, rtol=1e-5)
    # The lowest level reaches zero first.
    assert knobs["black_level"].value(knobs["black_level"].low) == pytest.approx(-0.0625)


def test_the_strength_of_a_filter_counts_from_the_kernel_that_changes_nothing():
    knob = knobs_of(DRONE)["gaussian_blur"]
    assert (knob.value(knob.low), knob.value(0.0), knob.value(knob.high)) == (0.0, 1.0, 4.0)
    copy = np.zeros((5, 5))
    copy[2, 2] = 1
    for strength in (0.0, 1.0, 4.0):
        kernel = turned(DRONE, [(knob, knob.position(strength))])["gaussian_blur"]
        np.testing.assert_allclose(kernel, copy + strength * (DRONE["gaussian_blur"] - copy), atol=1e-5)
    ones = np.ones((5, 5), np.float32)
    value, facts = 3 * ones, {"p": isp.Parameter(ones, width=2, neutral=ones)}
    (knob,) = knobs_module.knobs_of(facts, {"p": value}).values()
    moved = knobs_module.turned(facts, {"p": value}, [(knob, knob.position(0.5))])["p"]
    np.testing.assert_allclose(moved, 2, rtol=1e-6)


def test_knobs_of_one_parameter_add_up_among_valid_values():
    knobs = knobs_of(DRONE)
    red, every = knobs["white_balance.red"], knobs["white_balance"]
    gains = turned(DRONE, [(red, 0.5), (every, -0.2)])["white_balance"]
    np.testing.assert_allclose(gains, DRONE["white_balance"] * np.exp([0.3, -0.2, -0.2]), rtol=1e-5)
    gains = turned(DRONE, [(red, red.high), (every, every.high)])["white_balance"]
    np.testing.assert_allclose(gains, 100 * DRONE["white_balance"], rtol=1e-5)


def test_a_parameter_that_cannot_move_has_no_knob():
    identity = np.zeros((3, 3), np.float32)
    identity[1, 1] = 1
    stuck = DRONE | {"white_balance": np.float32([0, 1, 2]), "sharpening_filter": identity}
    assert set(knobs_of(DRONE)) - set(knobs_of(stuck)) == {"white_balance.red", "sharpening_filter"}


@pytest.mark.parametrize(
    ("value", "facts", "quantities"),
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
def test_the_knobs_of_a_parameter_follow_from_its_facts(value, facts, quantities):
    value = np.array(value, np.float32)
    knobs = knobs_module.knobs_of({"p": isp.Parameter(value, **facts)}, {"p": value})
    assert {name: knob.quantity for name, knob in knobs.items()} == quantities
