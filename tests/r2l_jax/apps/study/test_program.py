import pytest
from lost_workers import losing_one, two_workers
from programs import program

from r2l_jax.runtime.result import read

pytestmark = pytest.mark.slow

FORENSICS = ("--adv_parameters=all", "--adv_aux_weight=1e-2,1e-4", "--steps=2")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    scenes = ("--synthetic_images=25", "--synthetic_size=32", f"--data_dir={tmp_path_factory.mktemp('data')}")
    return (*scenes, "--n_splits=2", "--epochs=3", "--low_intensity=0.25", "--lr=1e-3", "--batch_size=8")


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


def test_a_study_writes_its_results_and_page(serial):
    rows = read(serial / "forensics").tables["worst_cases"].rows
    assert [row[0] for row in rows] == ["default", "all at 0.01", "all at 0.0001"]
    for name in ("forensics/worst_cases.png", "adjustment/curves.png", "study.html"):
        assert (serial / name).stat().st_size > 1000, name


@pytest.mark.filterwarnings("default")  # A worker that is killed leaves sockets and processes to the system.
def test_workers_of_which_one_is_killed_run_the_study_of_one_process(serial, flags, tmp_path):
    pytest.importorskip("distributed")
    output = tmp_path / "study"
    with (
        two_workers() as cluster,
        losing_one(cluster, lambda: len([*output.glob("adjustment/learned/fold_*/metrics.json")])),
    ):
        where = (f"--output={output}", f"--scheduler={cluster.scheduler_address}")
        done = program("study.py", "--controls=adjustment", *flags, *where)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    assert read(output / "adjustment").tables == read(serial / "adjustment").tables
    assert (output / "logs" / "train_adjustment_learned.txt").stat().st_size > 0
