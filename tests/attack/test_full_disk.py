"""Runs the programs on disks that are too small: one line, nothing half-written, and with space they resume."""

import os
import re
import subprocess

import pytest
from attacks import command, finish, reference, results

FULL = re.compile(r"No space left on device|File too large")


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk of a size in KiB, and changes its size; only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        option = "remount," if os.path.ismount(folder) else ""
        mount = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}k", "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
        return folder

    yield resize
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def check_errors(stderr):
    """Checks that all lines of stderr but for progress and the amount of work say that the disk is full."""
    lines = [line.rsplit("\r", 1)[-1].strip() for line in stderr.split("\n")]
    lines = [
        line
        for line in lines
        if line and not re.search(r"\d%\|.*\||^epoch +\d+/\d+ |^fold \d+/\d+: step| searches: step |^to test: ", line)
    ]
    assert lines, stderr
    assert all(FULL.search(line) for line in lines), stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "process", "unprocess", "calibrate", "synthesize", "forensics", "evaluate"])
def test_a_program_on_a_growing_disk_ends_as_on_a_large_one(here, tmp_path, disk, name):
    expected = reference(name, tmp_path / "reference", here)
    files = [path for path in (tmp_path / "reference").rglob("*") if path.is_file()]
    needed = sum(path.stat().st_size for path in files) // 1024
    failed = 0
    for share in (0.03, 0.2, 0.5, 0.8, 4):
        folder = disk(64 + int(share * needed) + (16_000 if share > 1 else 0))
        status, stderr = finish(command(name, folder, here))
        if status == 0:
            break
        failed += 1
        check_errors(stderr)
        if name == "process":
            assert re.search(r"error: .*/pictures/\d+(_stages\.png|\.tiff): No space left on device", stderr)
    assert status == 0, stderr
    assert failed, "the first disk was not too small"
    assert results(folder) == expected
