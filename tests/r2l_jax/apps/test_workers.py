import numpy as np
import pytest
import tifffile
from lost_workers import errors, losing_one, two_workers
from programs import call

pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # A worker that is killed leaves sockets and processes to the system.
]


def contents(folder):
    """The files but for results, which name their folder."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "result.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_two_workers_of_which_one_is_killed_render_what_one_process_renders(tmp_path):
    raw, serial, others, rng = (*(tmp_path / name for name in ("raw", "serial", "others")), np.random.default_rng(0))
    raw.mkdir()
    for number in range(150):
        tifffile.imwrite(raw / f"{number:03}.tiff", rng.integers(5000, 30000, (192, 160), np.uint16))
    for number in (7, 90):
        (raw / f"{number:03}.tiff").write_bytes(b"no file")
    flags = (f"--input={raw}", "--camera=drone", "--format=png")
    alone = call("process.py", *flags, f"--output={serial}")
    assert (alone.returncode, alone.stdout) == (1, "148 rendered, 2 failed\n"), alone.stderr
    with two_workers() as cluster, losing_one(cluster, lambda: len([*others.glob("[0-9]*.png")])) as before:
        done = call("process.py", *flags, f"--output={others}", f"--scheduler={cluster.scheduler_address}")
    assert (done.returncode, done.stdout) == (1, alone.stdout), done.stderr
    assert 0 < before[0] < 148
    assert contents(others) == contents(serial)
    assert sorted(errors(done)) == sorted(errors(alone))
    assert len(errors(alone)) == 2
