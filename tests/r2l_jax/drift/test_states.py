import json

import pytest

from isp import CameraState
from r2l_jax.drift import states
from r2l_jax.errors import InputError


@pytest.mark.parametrize(
    "state",
    [CameraState(exposure=-1.0, defocus=0.5), CameraState(red_gain=0.25), CameraState(bits=7.0, hot_sites=1e-5)],
)
def test_what_is_printed_is_read(state, tmp_path):
    assert states.read(str(state), "sensor") == state
    file = tmp_path / "state.json"
    file.write_text(json.dumps(state.given))
    assert states.read(str(file), "sensor") == states.read(state.given, "--sensor") == state


def test_names_are_those_of_drifts_as_well_and_numbers_are_of_one_type():
    found = states.read(" underexposure = 1 , color_balance=0.5,bits=8", "sensor")
    assert found == CameraState(exposure=-1.0, red_gain=0.5, blue_gain=-0.5, bits=8.0)
    # Whole numbers would compile functions of their own.
    assert {type(value) for value in states.read({"bits": 8, "defocus": 1}, "sensor").given.values()} == {float}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("defocus=1,motion", "`sensor=defocus=1,motion` must be .*, got 'motion' without an amount"),
        ("defocus=1,defocus=2", "`sensor=defocus=1,defocus=2` must name each drift once"),
        ("underexposure=1,exposure=1", "`sensor=underexposure=1,exposure=1`: exposure changes exposure, which another"),
        ("defocus=far", "`sensor=defocus=far`: defocus must be a number, got 'far'"),
        ("focus=1", "`sensor=focus=1`: drifts must be among underexposure, .*, got focus"),
        ({"defocus": True}, "`sensor`: defocus must be a number, got True"),
        ({"defocus": [1]}, r"`sensor`: defocus must be a number, got \[1\]"),
        ({}, r'`sensor` must be an object such as {"exposure": -1}, got {}'),
        ("missing.json", "`sensor=missing.json`: No such file or directory"),
    ],
)
def test_what_is_no_state_is_one_line(given, message):
    with pytest.raises(InputError, match=f"^{message}[^\\n]*$"):
        states.read(given, "sensor")


@pytest.mark.parametrize(
    ("content", "message"), [("[1]", r"must be an object .*, got \[1\]"), ("{", "not a valid JSON")]
)
def test_a_file_that_is_no_state_is_named(content, message, tmp_path):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(InputError, match=f"^`sensor={tmp_path}/state.json.*{message}"):
        states.read(f"{tmp_path}/state.json", "sensor")
