import json

import numpy as np
import pytest

import isp

VALUES = {
    "black_level": (0.1, 0.2, 0.3, 0.4),
    "white_balance": (2.0, 1.0, 1.5),
    "color_matrix": ((1.5, -0.3, -0.2), (-0.2, 1.7, -0.5), (0.0, -0.3, 1.3)),
}
BODY = '"white_balance": [2, 1, 2], "color_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]'


def test_arrays_and_tuples_make_equal_cameras_that_can_be_hashed():
    from_arrays = isp.Camera(**{name: np.array(values) for name, values in VALUES.items()})
    assert from_arrays == isp.Camera(**VALUES)
    assert hash(from_arrays) == hash(isp.Camera(**VALUES))


@pytest.mark.parametrize(
    "camera",
    [
        *isp.CAMERAS.values(),
        isp.Camera(**VALUES, pattern="GBRG", full_well=9500.5, read_noise=2.25, bits=16),
        isp.Camera(**VALUES, read_noise=0.0, bits=1),
    ],
)
def test_json_round_trip(camera):
    assert isp.Camera.from_json(camera.to_json()) == camera


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"black_level": (0.1, 0.2, 1.0, 0.4)},
            r"a fraction of the white level below 1, got \[0.1, 0.2, 1.0, .* such as white_level=4095$",
        ),
        ({"black_level": [256] * 4, "white_level": 256}, r"black_level must be below the white_level of 256, got \["),
        ({"white_balance": None}, r"white_balance is missing, numbers of shape \(3,\)"),
        ({"black_level": (0.1, 0.2, 0.3)}, r"black_level must have shape \(4,\), got \(3,\)"),
        ({"white_balance": (1, float("nan"), 1)}, r"white_balance must be finite, got \[1.0, nan, 1.0\]"),
        ({"read_noise": -0.5}, "read_noise must not be negative, got -0.5"),
        *(({"bits": bits}, f"bits must be a whole number from 1 to 16, got {bits}") for bits in (0, 17, 12.0)),
    ],
)
def test_refuses(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        isp.Camera(**{**VALUES, **change})


@pytest.mark.shows("isp.Camera(white_level)")
def test_json_with_a_white_level_has_levels_in_digital_numbers():
    assert 49 / 3000 * 3000 != 49
    camera = isp.Camera.from_json(f'{{"black_level": [49, 63, 65.12345678, 64.5], "white_level": 3000, {BODY}}}')
    assert camera.black_level == (49 / 3000, 63 / 3000, 65.12345678 / 3000, 64.5 / 3000)
    written = json.loads(camera.to_json())
    assert (written["black_level"], written["white_level"]) == ([49, 63, 65.12345678, 64.5], 3000)
    assert isp.Camera.from_json(camera.to_json()) == camera


@pytest.mark.parametrize("black", [[256, 0, 256, 512], [256 / 4096, 0, 256 / 4096, 512 / 4096]])
def test_levels_of_1_or_more_are_digital_numbers(black):
    camera = isp.Camera(**{**VALUES, "black_level": black}, white_level=4096)
    assert (camera.black_level, camera.white_level) == ((0.0625, 0, 0.0625, 0.125), 4096)
    assert isp.Camera.from_json(camera.to_json()) == camera


def test_json_has_as_many_levels_as_the_array_needs():
    camera = isp.Camera.from_json('{"black_level": [64], "white_level": 1024, "pattern": "MONO"}')
    assert (camera.black_level, camera.white_balance) == ((0.0625,), (1, 1, 1))
    assert camera.color_matrix == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    text = f'{{"black_level": [64, 32, 16], "white_level": 1024, "pattern": "RRGG/RRGG/GGBB/GGBB", {BODY}}}'
    assert isp.Camera.from_json(text).black_level == (0.0625, 0.03125, 0.015625)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a camera must be a JSON object, got list"),
        ('{"gain": 1}', r"got \['gain'\]"),
        ('{"black_level": [0, 0, 0, 0]}', r"the camera lacks \['color_matrix', 'white_balance'\]"),
        ('{"black_level": [64, 0, 0, 0]}', "black_level must be a fraction .*: for digital numbers, give the white_"),
        ("[" * 200_000, "a camera must be a JSON object, got one that is nested too deeply"),
        (f'{{"black_level": [1{"0" * 400}, 0, 0, 0], {BODY}}}', r"black_level must be numbers .* got \[1000"),
    ],
    ids=lambda value: value[:30],
)
def test_refuses_json(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        isp.Camera.from_json(text)
    assert len(str(caught.value)) < 300
