import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import cluster_jobs
import pytest

from r2l_jax.runtime import cluster
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.jobs import Job, Serial

pytest.importorskip("distributed")


def test_serial_needs_no_cluster(tmp_path):
    with cluster.running("serial", tmp_path / "logs") as runner:
        assert isinstance(runner, Serial)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("local:0", r"--scheduler must be serial, local:<number of processes>, .* or a JSON file, got 'local:0'"),
        ("slurm", "--scheduler must be serial, .* got 'slurm'"),
        ("nowhere.json", "--scheduler=nowhere.json cannot be read: nowhere.json: No such file or directory"),
    ],
)
def test_other_schedulers_are_refused(scheduler, message):
    with pytest.raises(InputError, match=message):
        cluster.check(scheduler)


@pytest.mark.parametrize("content", ["[]", '{"cores": 8}', '{"jobs": 0}', '{"jobs": "8"}', "{"])
def test_a_file_of_a_slurm_cluster_must_hold_the_number_of_jobs(tmp_path, content):
    (tmp_path / "slurm.json").write_text(content)
    with pytest.raises(InputError, match=r"--scheduler=.*slurm.json (must hold the options|cannot be read)"):
        cluster.check(str(tmp_path / "slurm.json"))


def test_the_number_of_workers_that_are_asked_for(tmp_path):
    (tmp_path / "slurm.json").write_text(json.dumps({"jobs": 8, "cores": 2, "memory": "8GB"}))
    assert cluster.read_slurm(tmp_path / "slurm.json") == ({"cores": 2, "memory": "8GB"}, 8)
    asked = [cluster.asked_for(name) for name in ("serial", "local:3", "tcp://10.0.0.1:8786", f"{tmp_path}/slurm.json")]
    assert asked == [1, 3, 1, 8]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # A worker that is killed leaves sockets and processes to the system.
def test_a_job_whose_worker_dies_is_run_by_another(tmp_path):
    def job(name, function, *after):
        return Job(name, functools.partial(function, str(tmp_path), name), after)

    with cluster.running("local:2", tmp_path / "logs") as runner:
        assert runner.workers == 2
        done = {
            outcome.name: outcome.error
            for outcome in runner.run(
                [
                    job("first", cluster_jobs.note),
                    job("lost once", cluster_jobs.die_once, "first"),
                    job("lost", cluster_jobs.die),
                    job("wrong", cluster_jobs.fail),
                    job("needs lost", cluster_jobs.note, "lost"),
                    job("last", cluster_jobs.note, "lost once"),
                ]
            )
        }
    assert done == {
        "first": None,
        "lost once": None,
        "lost": "failed 3 times, at last: its worker was lost each time",
        "wrong": "failed 3 times, at last: no number",
        "needs lost": "not begun, since lost failed",
        "last": None,
    }
    assert (tmp_path / "lost once begun").read_text() != (tmp_path / "lost once").read_text()
    assert [(tmp_path / name).read_text().count("called") for name in ("lost", "wrong")] == [3, 3]
    assert (tmp_path / "logs" / "wrong.txt").read_text().count("before the error") == 3
    assert not (tmp_path / "needs lost").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_programs_of_one_scheduler_have_jobs_of_their_own(tmp_path, monkeypatch, capsys):
    import distributed

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as workers, contextlib.ExitStack() as held:
        # Of another folder than that in which the worker was started.
        monkeypatch.chdir(tmp_path)
        address = workers.scheduler_address
        for text in ("one", "other"):
            runner = held.enter_context(cluster.running(address, None))
            jobs = runner.run([Job("first", functools.partial(cluster_jobs.tell, text))])
            assert next(jobs).result == (text, str(tmp_path))
    assert capsys.readouterr().err.splitlines()[:2] == ["one", "other"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stands for Slurm: `sbatch` runs the script at once, and `scancel` ends it."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/script\nsetsid sh {tmp_path}/script >{tmp_path}/worker.log 2>&1 &\n'
        'echo "Submitted batch job $!"\n'
    )
    (commands / "scancel").write_text('#!/bin/sh\nkill -- "-$1"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_slurm_starts_workers_of_one_thread(slurm):
    pytest.importorskip("dask_jobqueue")
    options = {"jobs": 1, "cores": 2, "memory": "2GB", "queue": "gpu", "job_extra_directives": ["--gres=gpu:1"]}
    options["job_script_prologue"] = [f"export PYTHONPATH={pathlib.Path(cluster_jobs.__file__).parent}:$PYTHONPATH"]
    (slurm / "slurm.json").write_text(json.dumps(options))
    with cluster.running(str(slurm / "slurm.json"), slurm / "logs") as runner:
        job = Job("first", functools.partial(cluster_jobs.note, str(slurm), "first"))
        assert [outcome.error for outcome in runner.run([job])] == [None]
    script = (slurm / "script").read_text()
    for line in ("#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "--nthreads 1", "export MALLOC_ARENA_MAX=1"):
        assert line in script
    assert (slurm / "first").exists()


INTERRUPTED = """
import functools, sys, time
from r2l_jax.runtime import cluster, startup
from r2l_jax.runtime.jobs import Job

def main():
    with cluster.running("local:2", None) as runner:
        print("up", flush=True)
        list(runner.run([Job("sleeps", functools.partial(time.sleep, 60))]))

if __name__ == "__main__":
    sys.exit(startup.exit_status(main, ["program.py"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)])
@pytest.mark.parametrize("seconds", [0, 3])
def test_a_signal_ends_a_program_and_its_workers_in_one_line(tmp_path, number, send, seconds):
    (tmp_path / "program.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[3])}
    command, pipe = [sys.executable, str(tmp_path / "program.py")], subprocess.PIPE
    # In a group of its own, as a terminal's, which sends Ctrl-C to the workers as well.
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        time.sleep(seconds)
        send(program.pid, number)
        # Their ends of the pipes are closed once the workers have ended.
        assert program.communicate(timeout=120)[1] == "program.py: interrupted\n"
        assert program.returncode == 130
