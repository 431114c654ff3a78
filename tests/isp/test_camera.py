import jax
import numpy as np
import pytest

import isp

VALUES = {
    "black_level": (0.1, 0.2, 0.3, 0.4),
    "white_balance": (2.0, 1.0, 1.5),
    "color_matrix": ((1.5, -0.3, -0.2), (-0.2, 1.7, -0.5), (0.0, -0.3, 1.3)),
}


def test_arrays_and_tuples_make_equal_hashable_cameras():
    from_arrays = isp.Camera(**{name: np.array(values) for name, values in VALUES.items()})
    assert from_arrays == isp.Camera(**VALUES)
    assert hash(from_arrays) == hash(isp.Camera(**VALUES))


def test_a_camera_can_be_a_static_argument():
    gains = jax.jit(lambda camera: jax.numpy.array(camera.white_balance), static_argnums=0)
    np.testing.assert_array_equal(gains(isp.Camera(**VALUES)), [2, 1, 1.5])


@pytest.mark.parametrize("camera", [*isp.CAMERAS.values(), isp.Camera(**VALUES, pattern="GBRG")])
def test_json_round_trip(camera):
    assert isp.Camera.from_json(camera.to_json()) == camera


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"black_level": (0.1, 0.2, 1.0, 0.4)}, r"black_level must be below the white level of 1, got \(0.1, 0.2, 1.0"),
        ({"black_level": (0.1, 0.2, 0.3)}, r"black_level must have shape \(4,\), got \(3,\)"),
        ({"white_balance": (1, float("nan"), 1)}, r"white_balance must be finite, got \[1.0, nan, 1.0\]"),
        ({"white_balance": (1, 0, 1)}, r"white_balance must have no gain of 0, got \(1.0, 0.0, 1.0\)"),
        ({"white_balance": "daylight"}, r"white_balance must be numbers of shape \(3,\), got 'daylight'"),
        ({"color_matrix": (1,) * 9}, r"color_matrix must have shape \(3, 3\), got \(9,\)"),
        ({"pattern": ["R"]}, r"pattern must be one of RGGB, BGGR, GRBG, GBRG, got \['R'\]"),
        ({"pattern": "XTRANS"}, "pattern must be one of RGGB, BGGR, GRBG, GBRG, got 'XTRANS'"),
    ],
)
def test_refuses(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        isp.Camera(**{**VALUES, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a camera must be a JSON object, got list"),
        ('{"gain": 1}', r"got also \['gain'\]"),
        ('{"black_level": [0, 0, 0, 0]}', r"the camera lacks \['color_matrix', 'white_balance'\]"),
        ("{", "Expecting property name"),
    ],
)
def test_refuses_json(text, message):
    with pytest.raises(ValueError, match=message):
        isp.Camera.from_json(text)
