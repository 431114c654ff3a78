import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import programs
import pytest
import tifffile
from PIL import Image

import isp

SCRIPT = Path(__file__).parents[2] / "scripts" / "process.py"


def process(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def written(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "a.tiff", np.full((16, 24), 20000, np.uint16))
    Image.fromarray(np.full((16, 24), 80, np.uint8)).save(tmp_path / "raw" / "b.png")
    return tmp_path


def test_renders_files_and_folders_with_a_camera_from_json(folder, write_dng):
    dng = write_dng(np.full((24, 32), 2000, np.uint16))
    (folder / "camera.json").write_text(isp.CAMERAS["microscopy"].to_json())
    flags = [f"--input={folder / 'raw'},{dng}", f"--camera={folder / 'camera.json'}", f"--output={folder / 'out'}"]
    done = process(*flags, "--format=png", "--stages")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 rendered, 0 failed\n"
    assert done.stderr == ""  # No progress bar, which is for terminals.
    names = [f"{name}{end}.png" for name in ("a", "b", "test") for end in ("", "_stages")]
    assert written(folder / "out") == sorted([*names, "manifest.csv", "manifest.json"])


@pytest.mark.slow
def test_renders_with_a_static_pipeline(folder):
    raw = np.random.default_rng(0).integers(4096, 65536, (16, 24)).astype(np.uint16)
    tifffile.imwrite(folder / "noise.tiff", raw)
    flags = [f"--input={folder / 'noise.tiff'}", "--camera=drone", f"--output={folder / 'out'}"]
    done = process(*flags, "--processing_mode=static", "--sp_debayer=menon2007", "--sp_denoising=median_denoising")
    assert done.returncode == 0, done.stderr
    pipeline = isp.static(isp.CAMERAS["drone"], demosaic="menon2007", denoise="median_denoising")
    expected = pipeline(raw.astype(np.float32) / 65535)
    np.testing.assert_allclose(tifffile.imread(folder / "out" / "noise.tiff"), expected * 65535, atol=1)


def test_a_bad_file_fails_the_run_but_not_the_others(folder):
    bad = folder / "bad.dng"
    bad.write_bytes(b"no raw file")
    flags = [f"--input={bad}", f"--input={folder / 'raw'}", "--camera=drone", f"--output={folder / 'out'}"]
    done = process(*flags)
    assert done.returncode == 1
    assert done.stdout == "2 rendered, 1 failed\n"
    assert f"error: {bad}: truncated, corrupt or no raw file" in done.stderr
    assert "Traceback" not in done.stderr
    assert written(folder / "out") == ["a.tiff", "b.tiff", "manifest.csv", "manifest.json"]


def test_renders_with_what_a_run_has_learned(folder, trained_run):
    raw = np.random.default_rng(0).integers(4096, 65536, (48, 40)).astype(np.uint16)
    tifffile.imwrite(folder / "noise.tiff", raw)
    done = programs.program(
        "process.py", f"--input={folder}/noise.tiff", f"--output={folder}/out", f"--run={trained_run}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{trained_run}: the best checkpoint\n1 rendered, 0 failed\n"
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["pipeline"].startswith("learned by run, fold 0, best checkpoint (")
    stored = json.loads((trained_run / "fold_0" / "metrics.json").read_text())["camera"]
    assert manifest["stored_camera"]["white_balance"] == stored["white_balance"]
    fixed = isp.parametrized(isp.Camera.from_json(json.dumps(stored)))(raw.astype(np.float32) / 65535)
    image = tifffile.imread(folder / "out" / "noise.tiff") / 65535
    assert image.shape == fixed.shape
    assert 3e-5 < np.abs(image - fixed).mean() < 0.05  # It was trained for one epoch.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--input=raw", "--output=out", "--run=r", "--processing_mode=static"],
            "--run=r is the processing: leave --processing_mode out",
        ),
        (["--input=raw", "--output=out", "--run=r", "--half_size"], "--run=r is the processing: leave --half_size out"),
        (["--input=raw", "--output=out", "--run=r"], "--run=r is no run's folder with a fold_0: not found"),
        (["--input=raw", "--output=out", "--checkpoint=last"], "--checkpoint changes nothing without --run"),
        (["--input=raw", "--output=out", "--camera=phone"], "got 'phone'"),
        (["--input=raw", "--output=out", "--sp_debayer=none"], "--sp_debayer is for --processing_mode=static"),
    ],
)
def test_mistakes_are_one_line(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    done = programs.call("process.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("process.py: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
