"""Predicted boxes in pictures."""

import pathlib

import numpy as np
from PIL import Image

from r2l_jax.apps.boxes import detect
from r2l_jax.training.run import Run

ROWS = [[8, 4, 24, 12, 0.875, 1], [0, 0, 8, 8, 0.25, 0], [0, 0, 0, 0, 0, -1]]


class HalfSize(Run):
    """Finds two objects, one of them with a low score, and processes images at half their size."""

    def __init__(self):
        pass

    def predict(self, raws):
        return np.array([ROWS], np.float32)

    def render(self, raws):
        return np.zeros((1, 8, 16, 3), np.float32)


def test_boxes_are_at_their_place_in_a_picture_of_half_the_size(tmp_path):
    found = detect(HalfSize(), [tmp_path], pathlib.Path("one.tiff"), np.zeros((16, 32), np.float32))
    assert found == [16, 32, ROWS[:2]]
    expected = np.zeros((8, 16), bool)
    expected[2:6, 4:12] = True
    expected[3:5, 5:11] = False
    picture = np.asarray(Image.open(tmp_path / "one.png"))
    np.testing.assert_array_equal((picture == (255, 0, 255)).all(-1), expected)
