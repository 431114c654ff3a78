"""Predicted boxes in pictures."""

import json
import pathlib

import numpy as np
from PIL import Image

from r2l_jax.apps.boxes import detect, write_coco
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


def test_the_coco_file_also_lists_images_without_boxes(tmp_path):
    results = {pathlib.Path("empty.tiff"): (8, 12, []), pathlib.Path("one.tiff"): (16, 32, ROWS[:1])}
    write_coco(tmp_path / "boxes.json", results, ["cat", "dog"])
    found = json.loads((tmp_path / "boxes.json").read_text())
    assert [(each["file_name"], each["height"], each["width"]) for each in found["images"]] == [
        ("empty.tiff", 8, 12),
        ("one.tiff", 16, 32),
    ]
    (box,) = found["annotations"]
    assert (box["image_id"], box["bbox"], box["area"], box["category_id"]) == (2, [8, 4, 16, 8], 128, 2)
