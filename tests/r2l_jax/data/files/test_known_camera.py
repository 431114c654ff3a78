import pathlib

import numpy as np
import pytest

import isp
from r2l_jax.data.files.known_camera import common_camera, find_camera
from r2l_jax.errors import InputError

LAYOUT = {"width": 8, "height": 6, "bits": 10}


def test_a_file_may_state_a_layout_alone_whose_bits_are_a_guess_of_the_white_level(stated):
    found = stated(raw=LAYOUT)
    assert (found.figures, found.guesses_white_level) == ({"white_level": 1023}, True)
    assert found.camera is None
    found = stated(white_level=1000, raw=LAYOUT)
    assert (found.figures, found.guesses_white_level) == ({"white_level": 1000}, False)


def test_files_of_one_camera_have_its_median_values_and_the_noise_they_agree_on():
    cameras = [
        isp.Camera([level] * 4, (2, 1, 3), np.eye(3), read_noise=level, full_well=5000) for level in (0.0, 0.25, 0.875)
    ]
    common = common_camera([pathlib.Path(name) for name in "abc"], cameras)
    assert common == isp.Camera([0.25] * 4, (2, 1, 3), np.eye(3), full_well=5000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", r"a camera must have some of the fields .*, got none"),
        (b'{"black_level": [0, 0, 0, 0], "pattern": "BGGR"}', "the camera lacks white_balance, color_matrix$"),
        (b'{"black_levels": [0, 0, 0, 0]}', r"a camera may have only the fields .*, got \['black_levels'\]$"),
        (b"[" * 200_000, "recursion"),
        (None, "a text file must have at most 268435456 bytes"),
    ],
)
def test_a_damaged_or_endless_camera_is_one_line(tmp_path, content, message):
    camera = tmp_path / "camera.json" if content else "/dev/zero"
    if content:
        camera.write_bytes(content)
    with pytest.raises(InputError, match=f"^`camera={camera}`: .*{message}"):
        find_camera(str(camera))
