import os
import signal
import time

import pytest
from lost_workers import two_workers
from programs import program, start

from r2l_jax.runtime.result import read

ADJUSTMENT = ("--synthetic_images=25", "--synthetic_size=32", "--n_splits=2", "--epochs=3", "--low_intensity=0.25")
FORENSICS = ("--adv_parameters=all", "--adv_aux_weight=1e-2,1e-4", "--steps=2")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return (*ADJUSTMENT, "--lr=1e-3", "--batch_size=8", f"--data_dir={tmp_path_factory.mktemp('data')}")


@pytest.fixture(scope="module")
def serial(flags, tmp_path_factory):
    """The folder of a study's forensics and adjustment that one process has run."""
    output = tmp_path_factory.mktemp("study") / "serial"
    command = ("--controls=forensics,adjustment", *flags, *FORENSICS, f"--output={output}")
    done = program("study.py", *command)
    assert done.returncode == 0, done.stderr
    assert "[4 of 4] train adjustment/frozen: " in done.stderr
    assert "Scores after the last epoch" in done.stdout
    assert program("study.py", *command, "--dry_run").stdout.splitlines()[0] == "train forensics/model"
    return output


def wait_for(pattern, folder, process):
    """Waits until a program has written a file."""
    end = time.monotonic() + 200
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {pattern} in {folder}"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_study_writes_its_results_and_page(serial):
    assert [row[0] for row in read(serial / "forensics").tables["worst_cases"].rows[1:]] == [
        "all at 0.01",
        "all at 0.0001",
    ]
    for name in ("forensics/worst_cases.png", "adjustment/curves.png", "study.html"):
        assert (serial / name).stat().st_size > 1000, name


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # A worker that is killed leaves sockets and processes to the system.
def test_workers_of_which_one_is_killed_run_the_study_of_one_process(serial, flags, tmp_path):
    pytest.importorskip("distributed")
    with two_workers() as cluster:
        where = (f"--output={tmp_path}/study", f"--scheduler={cluster.scheduler_address}")
        process = start("study.py", "--controls=adjustment", *flags, *where)
        wait_for("study/adjustment/learned/fold_*/metrics.json", tmp_path, process)
        os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "failed" not in stdout
    folders = serial, tmp_path / "study"
    ours, theirs = (read(folder / "adjustment").tables for folder in folders)
    assert ours == theirs
    assert (tmp_path / "study" / "logs" / "train_adjustment_learned.txt").stat().st_size > 0
