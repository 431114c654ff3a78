"""The inputs of the commands that are attacked."""

import numpy as np
import pytest
import tifffile
from attacks import command, finish
from flawed_sensor import FlawedSensor, write_frames
from PIL import Image


@pytest.fixture(scope="session")
def here(tmp_path_factory):
    """A folder with a finished run, mosaics of two sizes, photos, and the frames of a sensor."""
    folder, rng = tmp_path_factory.mktemp("here"), np.random.default_rng(0)
    for name, count, size in (("raws", 24, 512), ("small", 300, 32)):
        (folder / name).mkdir()
        for number in range(count):
            mosaic = rng.integers(5000, 60000, (size, size), np.uint16)
            tifffile.imwrite(folder / name / f"{number}.tiff", mosaic)
    (folder / "photos" / "cats").mkdir(parents=True)
    for number in range(24):
        picture = Image.fromarray(rng.integers(0, 255, (384, 512, 3), np.uint8))
        picture.save(folder / "photos" / "cats" / f"{number}.png")
    write_frames(folder, FlawedSensor(), exposures=(0.3, 0.6))
    status, stderr = finish(command("train", folder, folder))
    assert status == 0, stderr
    return folder
