"""The drawings in docs/images show what the code says."""

import re

import dng
import filter_arrays
import folders
import numpy as np
import overview
import pytest
import rooms
import tifffile
from PIL import Image

import isp
from r2l_jax.data.sets import datasets


@pytest.mark.parametrize("picture", [filter_arrays, folders, overview], ids=lambda module: module.__name__)
def test_a_picture_is_drawn_as_the_code_says(picture):
    # Renderings differ in their last digits between versions of JAX and Pillow.
    kept, drawn = (re.sub('href="data:[^"]*"', "", text) for text in (picture.PICTURE.read_text(), picture.draw()))
    assert kept == drawn, f"run python docs/ext/{picture.__name__}.py"


def test_the_rooms_are_those_of_the_contracts(tmp_path):
    rooms.save(rooms.draw(rooms.read_layers()), tmp_path / "rooms.svg")
    drawn, kept = (
        re.findall(r"<text[^>]*>([^<]+)</text>", file.read_text()) for file in (tmp_path / "rooms.svg", rooms.PICTURE)
    )
    assert kept == drawn, "run python docs/ext/rooms.py"


def test_folders_of_these_layouts_load(tmp_path):
    write = {
        ".dng": lambda file, number: dng.write(file, np.full((64, 64), 100 + number, np.uint16), black=[0] * 4),
        ".tiff": lambda file, number: tifffile.imwrite(file, np.full((64, 64), 100 + number, np.uint16)),
        ".png": lambda file, number: Image.fromarray(np.full((64, 64), 255, np.uint8)).save(file),
        ".json": lambda file, number: file.write_text(isp.CAMERAS["drone"].to_json()),
    }
    loaded = []
    for layout in folders.LAYOUTS:
        for number, name in enumerate(layout.files):
            file = tmp_path / layout.title / name
            file.parent.mkdir(parents=True, exist_ok=True)
            write[file.suffix](file, number)
        (root,) = (tmp_path / layout.title).iterdir()
        loaded.append(datasets.load("Folder", data_dir=root, camera="auto", tile_size=64))
    cells, cars, cameras = loaded
    assert cells.classes == cameras.classes == ("lymphocyte", "monocyte")
    assert cells.labels.tolist() == [0, 0, 1, 1]
    assert (len(cars), cars.classes, cars[0][1].shape) == (2, ("object",), (64, 64))
    assert set(cameras.cameras) == {"phone", "scanner"}
