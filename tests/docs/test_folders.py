import dng
import folders
import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.sets import datasets


def test_the_picture_is_of_the_layouts():
    assert folders.PICTURE.read_text() == folders.draw(), "run python docs/ext/folders.py"


def test_folders_of_these_layouts_load(tmp_path):
    write = {
        ".dng": lambda file, number: dng.write(file, np.full((64, 64), 100 + number, np.uint16), black=[0] * 4),
        ".tiff": lambda file, number: tifffile.imwrite(file, np.full((64, 64), 100 + number, np.uint16)),
        ".png": lambda file, number: Image.fromarray(np.full((64, 64), number, np.uint8)).save(file),
        ".json": lambda file, number: file.write_text(isp.CAMERAS["drone"].to_json()),
    }
    loaded = []
    for layout in folders.LAYOUTS:
        for number, name in enumerate(layout.files):
            file = tmp_path / layout.title / name
            file.parent.mkdir(parents=True, exist_ok=True)
            write[file.suffix](file, number)
        (root,) = (tmp_path / layout.title).iterdir()
        loaded.append(datasets.load("Folder", data_dir=root, camera="auto"))
    cells, cars, cameras = loaded
    assert cells.classes == cameras.classes == ("lymphocyte", "monocyte")
    assert cells.labels.tolist() == [0, 0, 1, 1]
    assert (len(cars), cars.classes, cars[0][1].shape) == (2, ("object",), (64, 64))
    assert set(cameras.cameras) == {"phone", "scanner"}
    assert sorted(cameras.names) == sorted(
        name.removeprefix("cells/") for name in folders.LAYOUTS[2].files if "tiff" in name
    )


def test_the_tree_names_each_folder_once():
    assert folders._tree({"a/b/1": "", "a/b/2": "last", "a/c/3": ""}) == [
        (0, "a/", ""),
        (1, "b/", ""),
        (2, "1", ""),
        (2, "2", "last"),
        (1, "c/3", ""),
    ]
