"""Kills every program at random moments, lets the same command resume, and compares with a run that nobody killed.

`R2L_KILLS=20 R2L_SEED=7 pytest -m slow tests/attack/test_kills.py` kills each program twenty times.
"""

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time

import layouts
import pytest
from attacks import COMMANDS, command, finish, reference, results
from servers import serving, zenodo_record

KILLS = int(os.environ.get("R2L_KILLS", "1"))
SEED = int(os.environ.get("R2L_SEED", "0"))

# How often a command that resumes is killed once more.
TWICE = 0.3


@pytest.fixture(scope="module")
def zenodo(tmp_path_factory):
    """The URL of a record with one archive of Raw-Drone, which it sends slowly, from any byte on."""
    folder, packed = tmp_path_factory.mktemp("published"), io.BytesIO()
    layouts.write_drone(folder, 4, (256, 256), intensities=(0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0))
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder / "drone", "drone")
    content = packed.getvalue()

    def pieces(start):
        for place in range(start, len(content), 65536):
            yield content[place : place + 65536]
            time.sleep(0.02)

    with serving(zenodo_record("drone.tar", content, pieces)) as url:
        yield url


def killed(command, seconds):
    """Starts a command, and kills it with all its processes after some time."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_program_resumes_to_the_same_end(here, zenodo, tmp_path, name):
    chance, started, losses = random.Random(f"{SEED} {name}"), time.monotonic(), []
    expected = reference(name, tmp_path / "reference", here, zenodo=zenodo)
    took = time.monotonic() - started
    for number in range(KILLS):
        attacked = command(name, folder := tmp_path / f"kill_{number}", here, zenodo)
        folder.mkdir()
        moments = []
        while not moments or chance.random() < TWICE:
            # The first part of the time goes to imports, before anything is written.
            moments.append(took * (0.25 + 0.75 * chance.random()))
            killed(attacked, moments[-1])
        status, stderr = finish(attacked)
        found = results(folder) if status == 0 else {}
        different = sorted(each for each in {*found, *expected} if found.get(each) != expected.get(each))
        if status or different:
            losses.append(f"killed after {moments} of {took:.1f} s: status {status}, {different[:5]} {stderr[-500:]}")
    assert not losses, "\n".join(losses)


WRITER = """
import json, os, pathlib, random, signal, sys, time
from r2l_jax.results import files
folder, chance = pathlib.Path(sys.argv[1]), random.Random(sys.argv[2])
# On a busy machine, no child may live long enough to write the first file.
files.write_json(folder / "a.json", {"numbers": [-1] * 20000})
for number in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        while True:
            files.write_json(folder / "a.json", {"numbers": [number] * 20000})
    time.sleep(0.005 + 0.02 * chance.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    numbers = json.loads((folder / "a.json").read_text())["numbers"]
    assert len(numbers) == 20000 and len(set(numbers)) == 1
"""


def test_a_file_is_whole_however_its_writer_is_killed(tmp_path):
    writer = [sys.executable, "-c", WRITER, str(tmp_path), str(SEED), "20"]
    done = subprocess.run(writer, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
