"""The training commands of README.md and docs/ reach the scores that docs/results/scores.csv states."""

import os
import re
import shlex
import subprocess
import sys

import dng
import measurements
import numpy as np
import pytest
from layouts import write_drone, write_microscopy
from pages import ROOT, commands, custom_stage
from PIL import Image

import isp
from r2l_jax.data.sets import datasets
from r2l_jax.training.record import read_record

pytestmark = pytest.mark.slow

# Data that must be downloaded, several hosts, and the quick start, which .ci/run trains.
_ELSEWHERE = re.compile(r"`data_dir=data`\b|`multi_host`|`dataset` Microscopy |quickstart\.flags")


def name_of(command):
    named = re.search(r"--run_name=(\w+)", command)
    return named[1] if named else "small"


def stated():
    """The lowest score that each run may have."""
    return {row["run"]: float(row["at_least"]) for row in measurements.read("scores")}


COMMANDS = [
    command for command in commands("train.py") if not _ELSEWHERE.search(command) and name_of(command) in stated()
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with all files of the commands: the embedded cells as raw files and as photos, and the small copies."""
    home = tmp_path_factory.mktemp("home")
    for name in ("configs", "scripts", "tests"):
        (home / name).symlink_to(ROOT / name)
    (home / "my_isp.py").write_text(custom_stage())
    write_microscopy(home / "small_data", images=12)
    write_drone(home / "small_data", frames=16, size=(768, 1024))
    cells = datasets.load("Synthetic", data_dir=str(home / "cells"), synthetic_images=200, synthetic_size=64)
    render, tags = isp.parametrized(cells.camera), calibration_tags(cells.camera)
    for number, (raw, label) in enumerate(cells[index] for index in range(len(cells))):
        for folder in ("my_cells", "photos"):
            (home / folder / cells.classes[label]).mkdir(parents=True, exist_ok=True)
        name = f"{cells.classes[label]}/{number}"
        dng.write(home / "my_cells" / f"{name}.dng", np.round(raw * 65535).astype(np.uint16), **tags)
        picture = np.round(255 * np.clip(render(raw), 0, 1)).astype(np.uint8)
        Image.fromarray(picture).save(home / "photos" / f"{name}.jpg", quality=95)
    (home / "my_camera").mkdir()
    (home / "my_camera" / "camera.json").write_text(cells.camera.to_json())
    for command in commands("unprocess.py"):
        started(home, "unprocess.py", command)
    return home


def calibration_tags(camera):
    """The tags of a DNG file that holds a camera's calibration."""
    from_xyz = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    neutral = 1 / np.array(camera.white_balance)
    matrix = neutral[:, None] * np.linalg.inv(camera.color_matrix) @ from_xyz
    black = [round(65535 * level) for level in camera.black_level]
    return {"white": 65535, "black": black, "neutral": neutral, "matrix": matrix.ravel()}


def started(home, program, command):
    done = subprocess.run(
        [sys.executable, f"scripts/{program}", *shlex.split(command)],
        cwd=home,
        env={**os.environ, "XDG_CACHE_HOME": str(home / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_stated_score_has_its_command():
    assert sorted(map(name_of, COMMANDS)) == sorted(stated())


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_training_reaches_its_score(home, command):
    started(home, "train.py", command)
    (file,) = home.glob(f"runs/*/{name_of(command)}/fold_0/metrics.json")
    metrics = read_record(file, "").others
    scores = [metrics[name] for name in ("val_accuracy", "val_iou") if name in metrics]
    assert scores[0] >= stated()[name_of(command)]
