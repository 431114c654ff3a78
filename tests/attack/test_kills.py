"""Kills every program at random moments, lets the same command go on, and compares with a run that nobody killed.

`R2L_KILLS=20 R2L_SEED=7 pytest -m slow -s tests/attack/test_kills.py` kills each program twenty times and prints a
table: tried, survived (the same command ended well, with the same results bit for bit), lost.
"""

import collections
import contextlib
import functools
import http.server
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import tifffile
from attacks import finish, results, script, train_flags
from flawed_sensor import FlawedSensor, write_frames
from PIL import Image

KILLS = int(os.environ.get("R2L_KILLS", "1"))
SEED = int(os.environ.get("R2L_SEED", "0"))

RESULTS = collections.defaultdict(collections.Counter)


@pytest.fixture(scope="module", autouse=True)
def table():
    """Prints the table at the end of the module."""
    yield
    print(f"\nseed {SEED}\n{'program':<22}{'tried':>7}{'survived':>10}{'lost':>6}")
    for name, count in RESULTS.items():
        print(f"{name:<22}{count['tried']:>7}{count['survived']:>10}{count['lost']:>6}")


def attack(name, make_command, folder, kills=KILLS, twice=0.3):
    """Kills a program `kills` times, each time in a fresh folder.

    Args:
        name: its name in the table.
        make_command: returns the command that writes to a folder.
        folder: where the folders are made.
        kills: how many times.
        twice: how often what goes on is killed once more.
    """
    chance = random.Random(f"{SEED} {name}")
    reference = folder / "reference"
    reference.mkdir()
    started = time.monotonic()
    status, stderr = finish(make_command(reference))
    took = time.monotonic() - started
    assert status == 0, stderr
    expected, problems = results(reference), []
    for number in range(kills):
        RESULTS[name]["tried"] += 1
        attacked = folder / f"kill_{number}"
        attacked.mkdir()
        moments = []
        while not moments or chance.random() < twice:
            # The first part of the time goes to imports, before anything is written.
            moments.append(took * (0.25 + 0.75 * chance.random()))
            process = subprocess.Popen(
                make_command(attacked), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moments[-1])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        status, stderr = finish(make_command(attacked))
        found = results(attacked) if status == 0 else {}
        different = sorted(each for each in {*found, *expected} if found.get(each) != expected.get(each))
        if status == 0 and not different:
            RESULTS[name]["survived"] += 1
            shutil.rmtree(attacked)
        else:
            RESULTS[name]["lost"] += 1
            problems.append(f"killed after {moments} of {took:.1f} s: status {status}, {different[:5]} {stderr[-500:]}")
    assert not problems, "\n".join(problems)


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


@pytest.mark.slow
def test_train(tmp_path, data, run):
    attack("train.py", lambda folder: script("train.py", *train_flags(folder, data)), tmp_path)


@pytest.mark.slow
def test_evaluate(tmp_path, run):
    flags = ["--against=pipelines,exposures,corruptions", "--severities=1,3"]
    command = functools.partial(script, "evaluate.py", f"--run={run}", *flags)
    attack("evaluate.py", lambda folder: command(f"--output={folder}"), tmp_path)


@pytest.mark.slow
def test_forensics(tmp_path, run):
    flags = ["--steps=100", "--starts=2", "--samples=20", "--adv_track_differences"]
    command = functools.partial(script, "forensics.py", f"--run={run}", *flags)
    attack("forensics.py", lambda folder: command(f"--output={folder}"), tmp_path)


@pytest.mark.slow
def test_adjust(tmp_path, run):
    command = functools.partial(
        script, "adjust.py", f"--run={run}", "--exposures=0.25,0.5", "--steps=100", "--labeled=8"
    )
    attack("adjust.py", lambda folder: command(f"--output={folder}"), tmp_path)


@pytest.mark.slow
def test_adjust_by_learning(tmp_path, run):
    command = functools.partial(script, "adjust.py", f"--run={run}", "--mode=learn")
    attack("adjust.py --mode=learn", lambda folder: command(f"--output={folder}"), tmp_path)


@pytest.mark.slow
def test_synthesize(tmp_path, data):
    flags = [
        *(f"--data_dir={data}", "--synthetic_images=25", "--synthetic_size=64", "--intensities=0.05,1"),
        *("--pipelines=parametrized,bilinear.sharpening_filter.median_denoising", "--corruptions=gaussian_noise"),
    ]
    command = functools.partial(script, "synthesize.py", *flags)
    attack("synthesize.py", lambda folder: command(f"--output={folder}/sets"), tmp_path)


@pytest.mark.slow
def test_predict(tmp_path, run):
    raws = write_raws(tmp_path / "raws", 300, (32, 32))
    command = functools.partial(script, "predict.py", f"--run={run}", f"--input={raws}")
    attack("predict.py", lambda folder: command(f"--output={folder}/p.csv"), tmp_path)


@pytest.mark.slow
def test_study(tmp_path, data):
    flags = ["--parts=adjustment", "--synthetic_images=25", "--synthetic_size=32", "--folds=2", "--epochs=3"]
    command = functools.partial(script, "study.py", *flags, "--low_intensity=0.25", f"--data_dir={data}")
    attack("study.py", lambda folder: command(f"--output={folder}/study"), tmp_path)


def write_raws(folder, count, shape):
    """Writes mosaics of noise as TIFF, and returns their folder."""
    folder.mkdir()
    for seed in range(count):
        tifffile.imwrite(folder / f"{seed}.tiff", np.random.default_rng(seed).integers(5000, 60000, shape, np.uint16))
    return folder


@pytest.mark.slow
def test_process(tmp_path):
    raws = write_raws(tmp_path / "raws", 24, (512, 512))
    command = functools.partial(script, "process.py", f"--input={raws}", "--camera=drone", "--stages")
    attack("process.py", lambda folder: command(f"--output={folder}/pictures"), tmp_path)


@pytest.mark.slow
def test_unprocess(tmp_path):
    photos = tmp_path / "photos" / "cats"
    photos.mkdir(parents=True)
    for seed in range(24):
        pixels = np.random.default_rng(seed).integers(0, 255, (384, 512, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{seed}.png")
    command = functools.partial(script, "unprocess.py", f"--input={photos.parent}", "--camera=drone")
    attack("unprocess.py", lambda folder: command(f"--output={folder}/raw"), tmp_path)


@pytest.mark.slow
def test_calibrate(tmp_path):
    write_frames(tmp_path, FlawedSensor(), exposures=(0.3, 0.6))
    flags = [f"--dark={tmp_path}/dark", f"--flat={tmp_path}/flat", f"--camera={tmp_path}/base.json"]
    command = functools.partial(script, "calibrate.py", *flags)
    attack("calibrate.py", lambda folder: command(f"--output={folder}/camera"), tmp_path)


class _Zenodo(http.server.BaseHTTPRequestHandler):
    """A record with one archive of Raw-Drone, which it sends slowly, from any byte on."""

    archive = b""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path.endswith("/content"):
            start = int(re.findall(r"\d+", self.headers.get("Range", "bytes=0-"))[0])
            body = self.archive[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(self.archive) - 1}/{len(self.archive)}")
        else:
            import hashlib

            url = f"http://{self.headers['Host']}{self.path}/files/drone.tar/content"
            checksum = f"md5:{hashlib.md5(self.archive).hexdigest()}"
            entry = {"key": "drone.tar", "size": len(self.archive), "checksum": checksum, "links": {"self": url}}
            body = json.dumps({"files": [entry]}).encode()
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            for place in range(0, len(body), 65536):
                self.wfile.write(body[place : place + 65536])
                time.sleep(0.02)


@pytest.fixture
def zenodo():
    rng, packed = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:

        def add(name, content):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for scale in ("001", "005", "010", "025", "050", "075", "100"):
            for number in range(4):
                file = io.BytesIO()
                tifffile.imwrite(file, rng.integers(0, 65536, (256, 256)).astype(np.uint16))
                add(f"drone/images_full/raw_scale{scale}/DJI_{number:04}.tif", file.getvalue())
        add("drone/masks_full/DJI_0001.png", b"a mask")
    handler = type("Zenodo", (_Zenodo,), {"archive": packed.getvalue()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


@pytest.mark.slow
def test_download(tmp_path, zenodo):
    command = functools.partial(script, "download.py", "--dataset=Drone", f"--zenodo_url={zenodo}")
    attack("download.py", lambda folder: command(f"--data_dir={folder}"), tmp_path)


WRITER = """
import json, os, pathlib, random, signal, sys, time
from r2l_jax.runtime import files, locks
folder, chance = pathlib.Path(sys.argv[1]), random.Random(sys.argv[2])
# On a busy machine, no child may live long enough to write the first file.
files.write_json(folder / "a.json", {"numbers": [-1] * 20000})
for number in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        with locks.locked(folder):
            while True:
                files.write_json(folder / "a.json", {"numbers": [number] * 20000})
    time.sleep(0.005 + 0.02 * chance.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    numbers = json.loads((folder / "a.json").read_text())["numbers"]
    assert len(numbers) == 20000 and len(set(numbers)) == 1
with locks.locked(folder):
    print("locked", flush=True)
"""


def test_a_file_is_whole_and_a_lock_is_free_however_its_writer_is_killed(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(SEED), "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "locked\n", done.stderr
    json.loads(pathlib.Path(tmp_path / "a.json").read_text())
