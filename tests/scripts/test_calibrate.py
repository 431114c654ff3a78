import json

import programs
import pytest
from flawed_sensor import FlawedSensor, write_frames


@pytest.fixture
def folder(tmp_path, monkeypatch):
    sensor = FlawedSensor(shape=(64, 64), hot=2, dead=2, flickering=2)
    write_frames(tmp_path, sensor, darks=8, exposures=(0.3, 0.6), flats=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_frames_become_a_camera(folder):
    done = programs.program("calibrate.py", "--dark=dark", "--flat=flat", "--camera=base.json", "--output=out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # No progress bar, which is for terminals.
    black, values, defects = done.stdout.splitlines()
    assert black.startswith("black level 25")
    assert "electrons per digital number" in values
    assert defects == "defects: 2 hot, 2 dead, 2 flickering"
    camera = json.loads((folder / "out" / "camera.json").read_text())
    assert (camera["dark"], camera["flat"], camera["defects"]) == ("dark.tiff", "flat.tiff", "defects.csv")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *("camera.json", "dark.tiff", "defects.csv", "flat.tiff", "photon_transfer.json", "photon_transfer.png"),
    ]


def test_files_and_folders_separated_by_commas(folder):
    arguments = ["--dark=dark/000.tiff,dark/001.tiff", "--dark=dark/002.tiff", "--flat=flat", "--camera=base.json"]
    done = programs.call("calibrate.py", *arguments, "--output=out", "--threshold=30")
    assert done.returncode == 0, done.stderr
    assert "flickering" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flat=flat", "--output=out"], "--dark is required: frames without light"),
        (["--dark=dark", "--flat=flat", "--output=out"], "--camera is required: dark/000.tiff holds no calibration"),
        (["--dark=flat", "--flat=dark", "--output=out", "--camera=base.json"], "are --dark and --flat swapped?"),
        (["--dark=dark", "--flat=flat", "--output=out", "--threshold=0"], "--threshold must be positive, got 0"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    done = programs.call("calibrate.py", *arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("calibrate.py: error: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
