"""Two models that the programs have trained, whose processing and head `tests/oracles` computes from the files."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy
import small_runs
import tifffile
from oracles import isp
from programs import call

import tasks

CAMERA = {
    "black_level": [0.06, 0.05, 0.07, 0.08],
    "white_balance": [2.0, 1.0, 1.6],
    "color_matrix": [[1.5, -0.3, -0.2], [-0.2, 1.7, -0.5], [0.0, -0.3, 1.3]],
    "pattern": "RGGB",
}
CLASSES = {"blue": (0.25, 0.3, 0.5), "green": (0.25, 0.5, 0.3), "red": (0.5, 0.3, 0.25)}


@dataclasses.dataclass
class Trained:
    """The folder of two seeds, and their data: raw images, labels and patients in the order of the files."""

    folder: pathlib.Path
    data: pathlib.Path
    camera: pathlib.Path
    files: list
    raws: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    output: str

    @property
    def calibration(self):
        return json.loads(self.camera.read_text())

    def run(self, seed=1):
        return self.folder / f"seed_{seed}"

    def metrics(self, seed=1):
        return json.loads((self.run(seed) / "fold_0/metrics.json").read_text())

    def values(self, folder=None):
        """The arrays of a model's file, by default of the first seed."""
        return safetensors.numpy.load_file((folder or self.run()) / "fold_0/model.safetensors")

    def tested(self, seed=1):
        return self.metrics(seed)["test_indices"]


@pytest.fixture(scope="session")
def cells(tmp_path_factory):
    """Raw files of 96 cells of 16 patients, in folders of three classes, and the file of their camera."""
    root, random = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    (root / "camera.json").write_text(json.dumps(CAMERA))
    y, x = np.mgrid[:32, :32]
    for name, color in CLASSES.items():
        (root / "raw" / name).mkdir(parents=True)
        for number in range(32):
            wave = np.cos(y * random.uniform(0.05, 0.3)) * np.cos(x * random.uniform(0.05, 0.3))
            light = np.array(color) * random.uniform(0.6, 1.4) + 0.08 * wave[..., None] + random.normal(0, 0.04, 3)
            raw = isp.mosaic(light / CAMERA["white_balance"]) + isp.black_levels(CAMERA["black_level"], 32, 32)
            raw = np.clip(raw + random.normal(0, 0.005, raw.shape), 0, 1)
            file = root / "raw" / name / f"p{number // 2:02d}_{number:02d}.tiff"
            tifffile.imwrite(file, np.round(65535 * raw).astype(np.uint16))
    return root


@pytest.fixture(scope="session")
def _trained(cells, tmp_path_factory):
    files = sorted((cells / "raw").rglob("*.tiff"))
    raws = np.stack([tifffile.imread(file) for file in files]) / 65535
    data = (f"--data_dir={cells}/raw", f"--camera={cells}/camera.json", r"--group=(p\d\d)_", "--tile_size=32")
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "resnet", small_runs.resnet)
        done = call(
            *("train.py", "--dataset=Folder", *data, "--test_size=0.5", "--seeds=2", "--save_locally", "--auto=none"),
            *("--epochs=4", "--lr=3e-3", "--batch_size=4", "--augmentation=none", "--camera_augmentation=none"),
            *(f"--logdir={folder}", "--experiment_name=oracles", "--run_name=two"),
        )
    assert done.returncode == 0, done.stderr
    labels = np.array([[*CLASSES].index(file.parent.name) for file in files])
    groups = np.array([int(file.name[1:3]) for file in files])
    return Trained(
        folder / "oracles/two", cells / "raw", cells / "camera.json", files, raws, labels, groups, done.stdout
    )


@pytest.fixture
def trained(_trained, small_heads):
    """Two seeds, each tested on the cells of eight patients; tests add to its folder."""
    return _trained
