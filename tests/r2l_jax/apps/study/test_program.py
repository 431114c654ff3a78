import json
import os
import signal
import time

import pytest
from lost_workers import two_workers
from programs import program, start

ADJUSTMENT = ("--synthetic_images=25", "--synthetic_size=32", "--n_splits=2", "--epochs=3", "--low_intensity=0.25")
FORENSICS = ("--adv_parameters=all", "--adv_aux_weight=1e-2,1e-4", "--steps=2")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return (*ADJUSTMENT, f"--data_dir={tmp_path_factory.mktemp('data')}")


def study(*flags):
    done = program("study.py", *flags)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def adjustment(flags, tmp_path_factory):
    """The folder of a study's adjustment that one process has run."""
    output = tmp_path_factory.mktemp("study") / "serial"
    study("--controls=adjustment", *flags, f"--output={output}")
    return output


def numbers(output):
    """The numbers of a study's adjustment."""
    content = json.loads((output / "study.json").read_text())
    return {part: content[part] for part in ("adjustment", "failed")}


def wait_for(pattern, folder, process):
    """Waits until a program has written a file."""
    end = time.monotonic() + 200
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {pattern} in {folder}"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_study_writes_its_numbers_figures_and_page(adjustment, flags):
    command = ("--controls=forensics,adjustment", *flags, *FORENSICS, f"--output={adjustment}")
    done = study(*command)
    assert "[4 of 4] train adjustment/frozen: " in done.stderr
    assert "adjustment: accuracy at intensity 0.25: learned " in done.stdout
    content = json.loads((adjustment / "study.json").read_text())
    assert content["failed"] == {}
    assert content["forensics"]["groups"]["all"]["weights"] == [1e-2, 1e-4]
    assert len(content["adjustment"]["runs"]["frozen"]["steps"]) == 3
    for name in ("forensics.png", "forensics_pictures.png", "adjustment.png", "study.html"):
        assert (adjustment / name).stat().st_size > 1000, name
    # Nothing is left to estimate.
    estimate = study(*command, "--dry_run").stdout.splitlines()
    assert sum(line.startswith("finished  ") for line in estimate) == 4
    assert estimate[-1].split() == ["all", "4", "4", "00:00"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # A worker that is killed leaves sockets and processes to the system.
def test_workers_of_which_one_is_killed_run_the_study_of_one_process(adjustment, flags, tmp_path):
    pytest.importorskip("distributed")
    with two_workers() as cluster:
        where = (f"--output={tmp_path}/study", f"--scheduler={cluster.scheduler_address}")
        process = start("study.py", "--controls=adjustment", *flags, *where)
        wait_for("study/adjustment/learned/fold_*/metrics.json", tmp_path, process)
        os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "failed" not in stdout
    assert numbers(tmp_path / "study") == numbers(adjustment)
    assert (tmp_path / "study" / "logs" / "train_adjustment_learned.txt").stat().st_size > 0
