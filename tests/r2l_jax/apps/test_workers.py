"""Folders of files by two processes, one of which is killed in the middle: what one process makes of them."""

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


@pytest.fixture(scope="module")
def cluster():
    with two_workers() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder of mosaics, and some files that are none."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for number in range(150):
        tifffile.imwrite(folder / f"{number:03}.tiff", rng.integers(5000, 30000, (192, 160), np.uint16))
    for number in (7, 90):
        (folder / f"{number:03}.tiff").write_bytes(b"no file")
    return folder


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_pictures_of_a_folder(cluster, raw, tmp_path):
    flags = (f"--input={raw}", "--camera=drone", "--format=png")
    serial = call("process.py", *flags, f"--output={tmp_path}/serial")
    assert (serial.returncode, serial.stdout) == (1, "148 rendered, 2 failed\n"), serial.stderr
    output = tmp_path / "others"
    with losing_one(cluster, lambda: len(list(output.glob("[0-9]*.png")))) as before:
        done = call("process.py", *flags, f"--output={output}", f"--scheduler={cluster.scheduler_address}")
    assert (done.returncode, done.stdout) == (1, serial.stdout), done.stderr
    assert 0 < before[0] < 148
    assert contents(output) == contents(tmp_path / "serial")
    assert sorted(errors(done)) == sorted(errors(serial))
    assert len(errors(done)) == 2


def test_predictions_of_a_folder(cluster, raw, one_epoch, tmp_path):
    flags = (f"--run={one_epoch.run_dir}", f"--input={raw}")
    serial = call("predict.py", *flags, f"--output={tmp_path}/serial/p.csv")
    assert serial.returncode == 1, serial.stderr
    assert serial.stdout.endswith("148 predicted, 2 failed\n")
    output = tmp_path / "others"
    table = output / "p.csv"
    with losing_one(cluster, lambda: table.exists() and table.read_text().count("\n") - 1) as before:
        done = call("predict.py", *flags, f"--output={output}/p.csv", f"--scheduler={cluster.scheduler_address}")
    assert (done.returncode, done.stdout) == (1, serial.stdout), done.stderr
    assert 0 < before[0] < 148
    assert contents(output) == contents(tmp_path / "serial")
    assert errors(done) == errors(serial)


def test_sets_of_pictures(cluster, data_dir, tmp_path):
    flags = (
        "--dataset=SyntheticSegmentation", f"--data_dir={data_dir}", "--synthetic_images=40", "--synthetic_size=128",
        "--pipelines=parametrized,bilinear.sharpening_filter.median_denoising", "--intensities=1,0.05",
        "--exposures=0.5", "--corruptions=gaussian_noise", "--severities=1,3",
    )  # fmt: skip
    serial = call("synthesize.py", *flags, f"--output={tmp_path}/serial")
    assert serial.returncode == 0, serial.stderr
    output = tmp_path / "others"
    with losing_one(cluster, lambda: len(list(output.glob("*/*/*/images/*.tiff")))) as before:
        done = call("synthesize.py", *flags, f"--output={output}", f"--scheduler={cluster.scheduler_address}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == serial.stdout.replace("serial", "others")
    assert 0 < before[0] < 40 * 18
    assert contents(output) == contents(tmp_path / "serial")
