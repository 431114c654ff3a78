"""Two processes, one of which is killed in the middle, make the same of a folder of files as one process."""

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
    """A folder of mosaics, and two broken files."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for number in range(150):
        tifffile.imwrite(folder / f"{number:03}.tiff", rng.integers(5000, 30000, (192, 160), np.uint16))
    for number in (7, 90):
        (folder / f"{number:03}.tiff").write_bytes(b"no file")
    return folder


def contents(folder):
    """The files but for results, which name their folder."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "result.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def losing(cluster, folder, count, name, *flags, output=""):
    """Runs a program alone, and with workers of which one is lost: returns its two ends and how much had been done."""
    serial = call(name, *flags, f"--output={folder}/serial{output}")
    with losing_one(cluster, count) as before:
        where = f"--output={folder}/others{output}", f"--scheduler={cluster.scheduler_address}"
        done = call(name, *flags, *where)
    assert (done.returncode, done.stdout) == (serial.returncode, serial.stdout.replace("serial", "others")), done.stderr
    assert contents(folder / "others") == contents(folder / "serial")
    assert sorted(errors(done)) == sorted(errors(serial))
    return serial, before[0]


def test_pictures_of_a_folder(cluster, raw, tmp_path):
    flags = (f"--input={raw}", "--camera=drone", "--format=png")
    pictures = tmp_path / "others"
    serial, before = losing(cluster, tmp_path, lambda: len([*pictures.glob("[0-9]*.png")]), "process.py", *flags)
    assert (serial.returncode, serial.stdout) == (1, "148 rendered, 2 failed\n"), serial.stderr
    assert 0 < before < 148
    assert len(errors(serial)) == 2


def test_predictions_of_a_folder(cluster, raw, one_epoch, tmp_path):
    flags = (f"--run={one_epoch.run_dir}", f"--input={raw}")
    parts = tmp_path / "others" / ".p.csv.parts"
    serial, before = losing(
        cluster, tmp_path, lambda: len([*parts.glob("*/result.json")]), "predict.py", *flags, output="/p.csv"
    )
    assert serial.returncode == 1, serial.stderr
    assert serial.stdout.endswith("148 predicted, 2 failed\n")
    assert 0 < before < 5


def test_sets_of_pictures(cluster, data_dir, tmp_path):
    flags = (
        "--dataset=SyntheticSegmentation",
        f"--data_dir={data_dir}",
        "--synthetic_images=40",
        "--synthetic_size=128",
        "--pipelines=parametrized,bilinear.sharpening_filter.median_denoising",
        "--intensities=1,0.05",
        "--exposures=0.5",
        "--corruptions=gaussian_noise",
        "--severities=1,3",
    )
    sets = tmp_path / "others"
    written = "*/*/*/images/*.tiff"
    serial, before = losing(cluster, tmp_path, lambda: len([*sets.glob(written)]), "synthesize.py", *flags)
    assert serial.returncode == 0, serial.stderr
    assert 0 < before < 40 * 18
