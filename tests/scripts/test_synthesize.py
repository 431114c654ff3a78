import csv
import hashlib
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import programs
import pytest
import tifffile

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "synthesize.py"


def synthesize(*flags):
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A folder `raw` of mosaics of 32x32, in two classes, beneath the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for number in range(4):
            samples = rng.integers(9000, 60000, (32, 32), np.uint16)
            tifffile.imwrite(tmp_path / "raw" / label / f"{number}.tiff", samples)
    return ["--output=drifted", "--dataset=Folder", "--data_dir=raw", "--camera=drone"]


@pytest.mark.slow
def test_stopped_by_the_user_the_same_command_goes_on(raw):
    output = pathlib.Path("drifted")
    flags = [
        *raw, "--pipelines=parametrized,bilinear.sharpening_filter.gaussian_denoising", "--exposures=0.5,0.25",
        "--corruptions=contrast,gaussian_noise", "--severities=1,5",
    ]  # fmt: skip
    command = [sys.executable, str(SCRIPT), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as stopped:
        while not list(output.glob("*/*/*/*/*.tiff")) and stopped.poll() is None:
            time.sleep(0.01)
        stopped.send_signal(signal.SIGINT)
        out, err = stopped.communicate(timeout=120)
    assert (stopped.returncode, out) == (130, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("synthesize.py: stopped after ")
    assert last.endswith(" of 240 pictures; the same command goes on from there")
    assert "Traceback" not in err

    done = synthesize(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"30 sets of 8 pictures each in {output}\n"
    assert "240/240" in done.stderr  # The progress bar.
    listed = 0
    for manifest in output.glob("*/*/*/manifest.csv"):
        with manifest.open(newline="") as file:
            for row in csv.DictReader(file):
                content = (manifest.parent / row["file"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == row["sha256"]
                listed += 1
    assert listed == len(list(output.glob("*/*/*/*/*"))) == 240
    assert tifffile.imread(manifest.parent / row["file"]).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--pipelines=bilinear",
            "--pipelines: no pipeline is called 'bilinear'; there are parametrized, full, none|bilinear",
        ),
        ("--severities=3", "--severities changes nothing without --corruptions"),
        ("--output=.", "--output=. holds something else: choose another folder"),
    ],
)
def test_mistakes_are_one_line(raw, flag, message):
    done = programs.call("synthesize.py", *raw, flag)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"synthesize.py: error: {message}")
    assert done.stderr.count("\n") == 1
