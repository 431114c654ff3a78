import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import programs
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.data.sets import datasets

SCRIPT = Path(__file__).parents[2] / "scripts" / "unprocess.py"


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def unprocess(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(tmp_path):
    for name in ("cats/1.png", "cats/2.jpg", "dogs/1.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)).save(path)
    return tmp_path


def test_pictures_become_a_raw_data_set(folder):
    (folder / "camera.json").write_text(isp.CAMERAS["microscopy"].to_json())
    flags = [f"--input={folder / 'pictures'}", f"--output={folder / 'raw'}", f"--camera={folder / 'camera.json'}"]
    done = unprocess(*flags, "--exposure=0.5", "--full_well=1e12", "--read_noise=0", "--bits=8", "--seed=7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 written, 0 failed; of the sites, 0.00% saturate and ")
    assert done.stderr == ""  # No progress bar, which is for terminals.
    dataset = datasets.load("Folder", data_dir=folder / "raw", camera=str(folder / "raw" / "camera.json"))
    assert (dataset.classes, len(dataset)) == (("cats", "dogs"), 3)
    noisy = dataclasses.replace(isp.CAMERAS["microscopy"], full_well=1e12, read_noise=0.0, bits=8)
    assert dataset.camera == noisy
    with Image.open(folder / "pictures" / "cats" / "1.png") as picture:
        mosaic = isp.unprocess(np.asarray(picture) / np.float32(255), dataset.camera)
    raw = tifffile.imread(folder / "raw" / "cats" / "1.tiff") / 257
    np.testing.assert_array_equal(raw, np.round(raw))
    np.testing.assert_allclose(raw, np.clip(255 * mosaic / 2, 0, 255), atol=0.51)


def test_a_bad_picture_fails_the_run_but_not_the_others(folder):
    bad = folder / "pictures" / "dogs" / "bad.jpg"
    bad.write_bytes(b"no picture")
    done = unprocess(f"--input={folder / 'pictures'}", f"--output={folder / 'raw'}", "--camera=drone")
    assert done.returncode == 1
    assert done.stdout.startswith("3 written, 1 failed; ")
    assert f"error: {bad}: truncated, corrupt or no picture" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted_it_leaves_whole_files(folder):
    for index in range(400):
        (folder / "pictures" / "dogs" / f"{index}.png").write_bytes((folder / "pictures/dogs/1.png").read_bytes())
    flags = [f"--input={folder / 'pictures'}", f"--output={folder / 'raw'}", "--camera=drone"]
    with subprocess.Popen(command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((folder / "raw").glob("*/*.tiff")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    written = [path for path in (folder / "raw").rglob("*") if path.is_file()]
    assert 1 <= len(written) < 402
    for path in written:
        assert tifffile.imread(path).shape == (16, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=raw", "--camera=drone"], "--input is required: folder of pictures"),
        (["--input=pictures", "--output=raw", "--camera=auto"], "--camera=auto: pictures hold no camera's calibration"),
    ],
)
def test_mistakes_are_one_line(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    done = programs.call("unprocess.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("unprocess.py: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (folder / "raw").exists()
