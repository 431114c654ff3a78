import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest.mock

import cluster_jobs
import pytest

from r2l_jax.runtime import cluster, startup
from r2l_jax.runtime.cluster import Job, Outcome, Runner
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.locks import FolderInUseError
from r2l_jax.runtime.stop import Interrupted

distributed = pytest.importorskip("distributed")

# A worker that is killed leaves sockets and processes to the system.
on_workers = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def failing(errors, calls):
    """A job's work that raises each of some errors, and then succeeds."""

    def work():
        calls.append(len(calls))
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]

    return work


def test_jobs_run_in_their_order_and_are_timed():
    called = []
    jobs = Job("a", lambda: called.append(time.sleep(0.1))), Job("b", lambda: called.append("b"), ("a",))
    first, second = Runner().run(jobs)
    assert called == [None, "b"]
    assert (first, second) == (Outcome("a", first.seconds), Outcome("b", second.seconds))
    assert 0.1 <= first.seconds < 5


def test_a_job_that_fails_is_tried_again_and_then_reported_while_the_others_finish(capsys):
    few, many, mistake, used = [], [], [], []
    jobs = [
        Job("few", failing([OSError("disk"), MemoryError()], few)),
        Job("many", failing([ValueError("no\nnumber")] * 5, many)),
        Job("needs many", lambda: None, ("many",)),
        Job("needs that", lambda: None, ("needs many",)),
        Job("other", lambda: None, ("few",)),
        # A mistake of the user is final; a folder is in use only for now.
        Job("mistake", failing([InputError("--lr must be positive")], mistake)),
        Job("used", failing([FolderInUseError("in use")], used)),
    ]
    done = {outcome.name: outcome.error for outcome in Runner().run(jobs)}
    assert [len(calls) for calls in (few, many, mistake, used)] == [3, cluster.TRIES, 1, 2]
    assert done == {
        "few": None,
        "many": "failed 3 times, last error: no number",
        "needs many": "not started, since many failed",
        "needs that": "not started, since needs many failed",
        "other": None,
        "mistake": "--lr must be positive",
        "used": None,
    }
    assert "few: try 2 of 3 failed: MemoryError\n" in capsys.readouterr().err


def test_an_interruption_ends_all():
    ran = Runner().run([Job("stopped", failing([Interrupted("stopped")], [])), Job("later", pytest.fail)])
    with pytest.raises(Interrupted):
        next(ran)


@pytest.mark.parametrize(
    ("scheduler", "content", "message"),
    [
        ("local:0", None, r"--scheduler must be serial, local:<number of processes>, .* or a JSON file, got 'local:0'"),
        ("slurm", None, "--scheduler must be serial, .* got 'slurm'"),
        ("none.json", None, "--scheduler=none.json cannot be read: none.json: No such file or directory"),
        ("slurm.json", "{", "--scheduler=slurm.json cannot be read"),
        *(
            ("slurm.json", content, "--scheduler=slurm.json must hold the options")
            for content in ("[]", '{"cores": 8}', '{"jobs": 0}', '{"jobs": "8"}')
        ),
    ],
)
def test_other_schedulers_are_refused(tmp_path, monkeypatch, scheduler, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        pathlib.Path(scheduler).write_text(content)
    with pytest.raises(InputError, match=message):
        cluster.prepare(scheduler)


def test_the_number_of_workers_that_are_asked_for(tmp_path):
    (tmp_path / "slurm.json").write_text(json.dumps({"jobs": 8, "cores": 2, "memory": "8GB"}))
    asked = [cluster.asked_for(name) for name in ("serial", "local:3", "tcp://10.0.0.1:8786", f"{tmp_path}/slurm.json")]
    assert asked == [1, 3, 1, 8]


def test_gpus_are_those_that_the_environment_names():
    assert cluster.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert cluster.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize(("name", "gpu"), [(0, "2"), (1, "5"), (3, "5"), ("tcp://10.0.0.1", "2,5")])
def test_each_worker_of_this_machine_has_a_gpu_of_its_own(monkeypatch, name, gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    prepared = unittest.mock.Mock()
    monkeypatch.setattr(startup, "prepare", prepared)
    worker = unittest.mock.create_autospec(distributed.Worker, instance=True)
    worker.name = name
    cluster.prepare_worker(worker)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
    prepared.assert_called_once_with(any_thread=True)


class TestWorkers:
    pytestmark = on_workers

    def test_a_job_whose_worker_dies_is_run_by_another(self, tmp_path):
        def job(name, function, *after):
            return Job(name, functools.partial(function, str(tmp_path), name), after)

        with cluster.running("local:2", tmp_path / "logs") as runner:
            assert runner.workers == 2
            jobs = [
                job("first", cluster_jobs.note),
                job("lost once", cluster_jobs.die_once, "first"),
                job("lost", cluster_jobs.die),
                job("wrong", cluster_jobs.fail),
                job("needs lost", cluster_jobs.note, "lost"),
                job("last", cluster_jobs.note, "lost once"),
            ]
            done = {outcome.name: outcome.error for outcome in runner.run(jobs)}
        assert done == {
            "first": None,
            "lost once": None,
            "lost": "failed 3 times, last error: its worker was lost",
            "wrong": "failed 3 times, last error: no number",
            "needs lost": "not started, since lost failed",
            "last": None,
        }
        assert (tmp_path / "lost once begun").read_text() != (tmp_path / "lost once").read_text()
        assert [(tmp_path / name).read_text().count("called") for name in ("lost", "wrong")] == [3, 3]
        assert (tmp_path / "logs" / "wrong.txt").read_text().count("before the error") == 3
        assert not (tmp_path / "needs lost").exists()

    def test_programs_of_one_scheduler_have_jobs_of_their_own(self, tmp_path, monkeypatch, capsys):
        options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        with distributed.LocalCluster(**options) as workers, contextlib.ExitStack() as held:
            # Not the folder in which the worker was started.
            monkeypatch.chdir(tmp_path)
            for text in ("one", "other"):
                runner = held.enter_context(cluster.running(workers.scheduler_address))
                jobs = runner.run([Job("first", functools.partial(cluster_jobs.tell, text))])
                assert next(jobs).result == (text, str(tmp_path))
        assert capsys.readouterr().err.splitlines()[:2] == ["one", "other"]
        assert list(tmp_path.iterdir()) == []

    def test_a_scheduler_that_cannot_be_reached_is_said_in_one_line(self, monkeypatch):
        client = functools.partial(distributed.Client, timeout=1)
        monkeypatch.setattr(distributed, "Client", lambda place, timeout: client(place))
        reached = cluster.running("tcp://127.0.0.1:9")
        with pytest.raises(InputError, match=r"^--scheduler=tcp://127.0.0.1:9 cannot be reached: ") as refused, reached:
            pass
        assert "\n" not in str(refused.value)

    def test_slurm_starts_workers_of_one_thread(self, slurm):
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

    @pytest.mark.parametrize(("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)])
    @pytest.mark.parametrize("seconds", [0, 3])
    def test_a_signal_ends_a_program_and_its_workers_in_one_line(self, tmp_path, number, send, seconds):
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


INTERRUPTED = """
import functools, sys, time
from r2l_jax.runtime import cluster, startup
from r2l_jax.runtime.cluster import Job

def main():
    with cluster.running("local:2") as runner:
        print("up", flush=True)
        list(runner.run([Job("sleeps", functools.partial(time.sleep, 60))]))

if __name__ == "__main__":
    sys.exit(startup.exit_status(main, ["program.py"]))
"""
