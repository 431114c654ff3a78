"""Runs the programs on disks that are too small: one line, nothing half-written, and with space they go on."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from attacks import finish, results, script, train_flags
from flawed_sensor import FlawedSensor, write_frames
from PIL import Image

FULL = re.compile(r"No space left on device|bytes are free on the disk|are free on the disk|File too large")


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk of a size in KiB, and changes its size; only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        option = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
        return folder

    yield resize
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def errors(stderr):
    """The lines of stderr but for progress bars."""
    lines = [line.rsplit("\r", 1)[-1].strip() for line in stderr.split("\n")]
    return [line for line in lines if line and not re.search(r"\d%\|.*\|", line)]


def fills(make_command, disk, sizes, expected):
    """Runs a program on a growing disk, until it succeeds, and compares with what it leaves on a large one."""
    failed = 0
    for size in sizes:
        folder = disk(size)
        status, stderr = finish(make_command(folder))
        if status == 0:
            break
        failed += 1
        assert "Traceback" not in stderr, stderr[-2000:]
        lines = errors(stderr)
        assert lines, stderr
        assert all(FULL.search(line) for line in lines), lines
    assert status == 0, stderr
    assert failed, "the first disk was not too small"
    assert results(folder) == expected


@pytest.mark.slow
def test_train(tmp_path, disk):
    def command(folder):
        return script("train.py", *train_flags(folder, tmp_path / "data"))

    (tmp_path / "reference").mkdir()
    assert finish(command(tmp_path / "reference"))[0] == 0
    fills(command, disk, [40, 200, 400, 600, 4000], results(tmp_path / "reference"))


@pytest.mark.slow
def test_process(tmp_path, disk):
    raws = tmp_path / "raws"
    raws.mkdir()
    for seed in range(6):
        tifffile.imwrite(
            raws / f"{seed}.tiff", np.random.default_rng(seed).integers(5000, 60000, (128, 128), np.uint16)
        )

    def command(folder):
        return script("process.py", f"--input={raws}", "--camera=drone", "--stages", f"--output={folder}/pictures")

    (tmp_path / "reference").mkdir()
    assert finish(command(tmp_path / "reference"))[0] == 0
    status, stderr = finish(command(disk(200)))
    assert status == 1
    for line in errors(stderr):
        assert re.fullmatch(r"error: .*/pictures/\d(_stages\.png|\.tiff): No space left on device", line)
    fills(command, disk, [300, 8000], results(tmp_path / "reference"))


@pytest.mark.slow
def test_unprocess(tmp_path, disk):
    photos = tmp_path / "photos" / "cats"
    photos.mkdir(parents=True)
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 255, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{seed}.png")

    def command(folder):
        return script("unprocess.py", f"--input={photos.parent}", "--camera=drone", f"--output={folder}/raw")

    (tmp_path / "reference").mkdir()
    assert finish(command(tmp_path / "reference"))[0] == 0
    fills(command, disk, [100, 8000], results(tmp_path / "reference"))


@pytest.mark.slow
def test_calibrate(tmp_path, disk):
    write_frames(tmp_path, FlawedSensor(), exposures=(0.3, 0.6))
    flags = [f"--dark={tmp_path}/dark", f"--flat={tmp_path}/flat", f"--camera={tmp_path}/base.json"]

    def command(folder):
        return script("calibrate.py", *flags, f"--output={folder}/camera")

    (tmp_path / "reference").mkdir()
    assert finish(command(tmp_path / "reference"))[0] == 0
    fills(command, disk, [100, 400, 560, 8000], results(tmp_path / "reference"))


@pytest.mark.slow
def test_synthesize(tmp_path, disk):
    def command(folder):
        flags = [
            f"--data_dir={tmp_path}/data",
            "--synthetic_images=25",
            "--synthetic_size=32",
            f"--output={folder}/sets",
        ]
        return script("synthesize.py", *flags, "--corruptions=gaussian_noise", "--severities=1")

    (tmp_path / "reference").mkdir()
    assert finish(command(tmp_path / "reference"))[0] == 0
    fills(command, disk, [60, 300, 8000], results(tmp_path / "reference"))


@pytest.mark.slow
def test_forensics_and_evaluate(tmp_path, disk):
    assert finish(script("train.py", *train_flags(tmp_path, tmp_path / "data")))[0] == 0
    for name, flags, sizes in (
        ("forensics.py", ["--steps=20", "--starts=1", "--samples=20"], [20, 60, 120, 16000]),
        ("evaluate.py", ["--against=exposures"], [20, 60, 16000]),
    ):

        def command(folder, name=name, flags=flags):
            return script(name, f"--run={tmp_path}/e/r", *flags, f"--output={folder}/out")

        reference = tmp_path / f"reference_{name}"
        reference.mkdir()
        assert finish(command(reference))[0] == 0
        fills(command, disk, sizes, results(reference))
        shutil.rmtree(disk(16000) / "out")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2000, 6000, 20000])
def test_a_limit_on_the_size_of_files_is_one_line(tmp_path, limit):
    """As a quota may set it, which the free space of the disk does not show."""
    command = script("train.py", *train_flags(tmp_path, tmp_path / "data"))
    assert finish([*command, "--logdir=" + str(tmp_path / "whole")])[0] == 0

    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    limited = [sys.executable, "-c", code.format(limit), *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    lines = errors(done.stderr)
    assert lines
    assert all(FULL.search(line) for line in lines), done.stderr[-3000:]
    assert finish(command)[0] == 0
    assert results(tmp_path / "e") == results(tmp_path / "whole" / "e")
