"""Starts every program twice at once on one folder: one does the work, the other says who does."""

import re
import subprocess
import time

import numpy as np
import pytest
import tifffile
from attacks import finish, results, script, train_flags
from flawed_sensor import FlawedSensor, write_frames
from PIL import Image

LINE = re.compile(r"\w+\.py: error: .*: another program writes to this folder(: process \d+ on \S+, since \S+ \S+)?\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    status, stderr = finish(script("train.py", *train_flags(folder, data)))
    assert status == 0, stderr
    return folder / "e" / "r"


def twins(make_command, folder):
    """Starts a program twice, and compares what is left with what a single one leaves."""
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    status, stderr = finish(make_command(folder / "one"))
    assert status == 0, stderr
    pipe = subprocess.PIPE
    both = []
    for pause in (0.3, 0):
        both.append(subprocess.Popen(make_command(folder / "two"), stdout=pipe, stderr=pipe, text=True))
        time.sleep(pause)
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in both]
    statuses = sorted(status for _, status in ended)
    # Where the second comes late, it finds all done.
    assert statuses in ([0, 1], [0, 0]), ended
    for stderr, status in ended:
        if status:
            assert LINE.search(stderr), stderr
            assert "Traceback" not in stderr
    assert results(folder / "two") == results(folder / "one")


@pytest.mark.slow
def test_train(tmp_path, data):
    twins(lambda folder: script("train.py", *train_flags(folder, data)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("evaluate.py", ["--against=exposures"]),
        ("forensics.py", ["--steps=50", "--starts=1", "--samples=20"]),
        ("adjust.py", ["--exposures=0.25", "--steps=100", "--labeled=8"]),
        ("adjust.py", ["--mode=learn"]),
    ],
)
def test_programs_that_take_a_run(tmp_path, run, name, flags):
    twins(lambda folder: script(name, f"--run={run}", *flags, f"--output={folder}"), tmp_path)


@pytest.mark.slow
def test_synthesize(tmp_path, data):
    flags = [f"--data_dir={data}", "--synthetic_images=25", "--synthetic_size=32", "--corruptions=gaussian_noise"]
    twins(lambda folder: script("synthesize.py", *flags, f"--output={folder}/sets"), tmp_path)


@pytest.mark.slow
def test_process_and_unprocess(tmp_path):
    (tmp_path / "raws").mkdir()
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        tifffile.imwrite(tmp_path / "raws" / f"{seed}.tiff", rng.integers(5000, 60000, (256, 256), np.uint16))
        Image.fromarray(rng.integers(0, 255, (256, 256, 3), np.uint8)).save(tmp_path / "photos/cats" / f"{seed}.png")
    for name, source, target in (("process.py", "raws", "pictures"), ("unprocess.py", "photos", "raw")):
        (tmp_path / name).mkdir()

        def command(folder, name=name, source=source, target=target):
            return script(name, f"--input={tmp_path / source}", "--camera=drone", f"--output={folder / target}")

        twins(command, tmp_path / name)


@pytest.mark.slow
def test_calibrate(tmp_path):
    write_frames(tmp_path, FlawedSensor(), exposures=(0.3, 0.6))
    flags = [f"--dark={tmp_path}/dark", f"--flat={tmp_path}/flat", f"--camera={tmp_path}/base.json"]
    twins(lambda folder: script("calibrate.py", *flags, f"--output={folder}/camera"), tmp_path)
