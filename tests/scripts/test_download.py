import io
import signal
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from servers import serving, zenodo_record

SCRIPT = Path(__file__).parents[2] / "scripts" / "download.py"
SCALES = ("001", "005", "010", "025", "050", "075", "100")


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


@pytest.fixture
def zenodo():
    """A record with Raw-Drone, of which the first half comes, and the rest only when `resume` is set."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for scale in SCALES:
            name = f"data/drone/images_full/raw_scale{scale}/DJI_0001.tif"
            archive.writestr(name, np.random.default_rng(0).bytes(99999))
        archive.writestr("data/drone/masks_full/DJI_0001.png", b"a mask")
    content, asked, resume = file.getvalue(), [], threading.Event()

    def pieces(start):
        asked.append(start)
        middle = max(start, len(content) // 2)
        yield content[start:middle]
        resume.wait(60)
        yield content[middle:]

    with serving(zenodo_record("drone.zip", content, pieces)) as url:
        yield types.SimpleNamespace(url=f"{url}/api", content=content, asked=asked, resume=resume)
        resume.set()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_download_that_was_ended_resumes_with_the_bytes_that_are_missing(zenodo, tmp_path, number, status):
    flags = ["--dataset=Drone", f"--data_dir={tmp_path}", f"--zenodo_url={zenodo.url}"]
    part = tmp_path / "drone.zip.part"
    with subprocess.Popen(command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 5 * 2**16):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in stderr
    # A killed program leaves its lock, which the next one takes over.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock")] == [part.name]
    kept = part.read_bytes()
    assert kept == zenodo.content[: len(kept)]

    zenodo.resume.set()
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'drone'}\n"
    assert zenodo.asked == [0, len(kept)]
    assert [path.name for path in tmp_path.iterdir()] == ["drone"]
    for scale in SCALES:
        assert (tmp_path / f"drone/images_full/raw_scale{scale}/DJI_0001.tif").stat().st_size == 99999
    assert (tmp_path / "drone/masks_full/DJI_0001.png").read_bytes() == b"a mask"
