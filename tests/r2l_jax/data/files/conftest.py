import json

import pytest

from r2l_jax.data.files.known_camera import read_known_camera


@pytest.fixture
def stated(tmp_path):
    """A function that returns the statements of a camera's JSON file with these fields."""

    def stated(**fields):
        (tmp_path / "camera.json").write_text(json.dumps(fields))
        return read_known_camera(tmp_path / "camera.json")

    return stated
