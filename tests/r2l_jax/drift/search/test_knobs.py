import math

import jax
import numpy as np
import pytest

import isp
from isp.parameter import MOST_ELEMENTS
from r2l_jax.drift.search import knobs as knobs_module
from r2l_jax.drift.search import ranges

PIPELINES = {
    **{name: isp.parametrized(camera, additive_layer=(4, 4)) for name, camera in isp.CAMERAS.items()},
    "static": isp.static(isp.CAMERAS["drone"], "bilinear", "unsharp_masking", "tv_chambolle"),
}


# By name, what is declared of all of their parameters.
FACTS = {name: facts for pipeline in PIPELINES.values() for name, facts in pipeline.facts.items()}


def knobs_of(parameters):
    return knobs_module.knobs_of(FACTS, parameters)


def turned(default, positions):
    return knobs_module.turned(FACTS, default, positions)


@pytest.fixture(params=PIPELINES)
def default(request):
    return jax.device_get(PIPELINES[request.param].parameters())


@pytest.fixture(scope="module")
def drone():
    return jax.device_get(PIPELINES["drone"].parameters())


def test_every_figure_of_a_camera_is_a_knob_and_what_all_have_in_common_is_one(default):
    names = set(knobs_of(default))
    assert {"black_level", "black_level.3", "white_balance", "white_balance.blue", "gamma_correct"} <= names
    assert "colour_correction.green_from_red" in names
    if "sharpening_filter" in default:
        assert {"sharpening_filter", "gaussian_blur"} <= names
    else:
        assert {"radius", "amount", "weight"} <= names
    # Neither the interpolation's weights nor an image's pixels.
    assert len(names) == 4 + 1 + 3 + 1 + 9 + 1 + (2 if "sharpening_filter" in default else 3)
    assert all(default[knob.parameter].size <= max(MOST_ELEMENTS, 25) for knob in knobs_of(default).values())


def test_only_what_a_knob_stands_for_moves_and_stays_valid(default):
    for name, knob in knobs_of(default).items():
        assert knob.low <= 0 <= knob.high
        for position in (knob.low, knob.low / 2, knob.high / 2, knob.high):
            values = turned(default, [(knob, position)])
            for other, value in values.items():
                if other != knob.parameter:
                    np.testing.assert_array_equal(value, default[other])
            offsets = ranges.offsets_of(FACTS, default, values)[knob.parameter]
            # Nothing is cut off: the limits are where the first value stops being valid.
            np.testing.assert_allclose(offsets, position * knob.direction, atol=2e-5, err_msg=f"{name} at {position}")


def test_values_are_in_the_unit_of_the_parameter(default):
    for name, knob in knobs_of(default).items():
        for position in (knob.low, 0.0, knob.high):
            value = knob.value(position)
            assert knob.position(value) == pytest.approx(position, abs=1e-6), name
            moved = turned(default, [(knob, position)])[knob.parameter]
            (places,) = np.nonzero(knob.direction.ravel())
            if len(places) == 1:
                assert moved.ravel()[places[0]] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert knob.value(0.0) == knob.default


def test_a_joint_knob_keeps_ratios_of_gains_and_differences_of_levels(drone):
    knobs = knobs_of(drone)
    gains = turned(drone, [(knobs["white_balance"], math.log(1.5))])["white_balance"]
    np.testing.assert_allclose(gains, 1.5 * drone["white_balance"], rtol=1e-5)
    assert knobs["white_balance"].value(math.log(1.5)) == pytest.approx(1.5)
    levels = turned(drone, [(knobs["black_level"], 0.3)])["black_level"]
    np.testing.assert_allclose(levels, drone["black_level"] + 0.03, rtol=1e-5)
    # The lowest level reaches zero first.
    assert knobs["black_level"].value(knobs["black_level"].low) == pytest.approx(-0.0625)


@pytest.mark.parametrize("name", ["sharpening_filter", "gaussian_blur"])
def test_the_strength_of_a_filter(drone, name):
    knob = knobs_of(drone)[name]
    assert (knob.value(knob.low), knob.value(0.0), knob.value(knob.high)) == (0.0, 1.0, 4.0)
    image = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    kernel = turned(drone, [(knob, knob.low)])[name]
    side = len(kernel)
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
    margin = side // 2
    unchanged = image[margin:-margin, margin:-margin]

    def filtered(strength):
        return np.einsum("yxij,ij->yx", windows, turned(drone, [(knob, knob.position(strength))])[name])

    np.testing.assert_allclose(filtered(0.0), unchanged, atol=1e-6)
    np.testing.assert_allclose(filtered(4.0) - unchanged, 4 * (filtered(1.0) - unchanged), atol=1e-5)


def test_knobs_of_one_parameter_add_up_within_what_is_valid(drone):
    knobs = knobs_of(drone)
    red, every = knobs["white_balance.red"], knobs["white_balance"]
    gains = turned(drone, [(red, 0.5), (every, -0.2)])["white_balance"]
    np.testing.assert_allclose(gains, drone["white_balance"] * np.exp([0.3, -0.2, -0.2]), rtol=1e-5)
    gains = turned(drone, [(red, red.high), (every, every.high)])["white_balance"]
    np.testing.assert_allclose(gains, 100 * drone["white_balance"], rtol=1e-5)


def test_what_cannot_move_has_no_knob(drone):
    identity = np.zeros((3, 3), np.float32)
    identity[1, 1] = 1
    stuck = drone | {"white_balance": np.float32([0, 1, 2]), "sharpening_filter": identity}
    left_out = set(knobs_of(drone)) - set(knobs_of(stuck))
    assert left_out == {"white_balance.red", "sharpening_filter"}


def test_the_knobs_of_a_parameter_follow_from_its_facts():
    def names(value, **facts):
        value = np.array(value, np.float32)
        return list(knobs_module.knobs_of({"p": isp.Parameter(value, **facts)}, {"p": value}))

    assert names(0.0, width=1) == ["p"]
    assert names([1, 2], scale="log", labels=("x", "y")) == ["p", "p.x", "p.y"]
    assert names(np.ones((2, 2)), width=1) == ["p.0.0", "p.0.1", "p.1.0", "p.1.1"]
    assert names(np.ones((4, 4)), width=1) == []
    assert names(np.ones((4, 4)), width=1, neutral=np.zeros((4, 4))) == ["p"]
    assert names([1, 2], width=1, tuned=False) == []
    assert names(1.0, width=1, low=1, high=1.5) == ["p"]


@pytest.mark.parametrize(
    ("value", "facts", "quantities"),
    [
        ([1, 2], {"scale": "log", "unit": "gain"}, ["factor on all gains", "gain", "gain"]),
        ([1, 2], {"width": 1, "unit": "pixels"}, ["shift of all pixels", "pixels", "pixels"]),
        ([1, 2], {"width": 1}, ["shift of all values", "value", "value"]),
        (np.ones((5, 5)), {"width": 2, "neutral": np.zeros((5, 5)), "unit": "weight"}, ["strength"]),
    ],
)
def test_quantities_are_the_parameter_s_unit(value, facts, quantities):
    value = np.array(value, np.float32)
    knobs = knobs_module.knobs_of({"p": isp.Parameter(value, **facts)}, {"p": value})
    assert [knob.quantity for knob in knobs.values()] == quantities


def test_a_strength_counts_from_the_neutral_value_whatever_the_width():
    ones = np.ones((5, 5), np.float32)
    value, facts = 3 * ones, {"p": isp.Parameter(ones, width=2, neutral=ones)}
    (knob,) = knobs_module.knobs_of(facts, {"p": value}).values()
    for strength in (0.0, 0.5, 2.0):
        moved = knobs_module.turned(facts, {"p": value}, [(knob, knob.position(strength))])["p"]
        np.testing.assert_allclose(moved, 1 + 2 * strength, rtol=1e-6)
