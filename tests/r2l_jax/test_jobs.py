import functools
import os
import signal
import socket
import threading
import time
import types
import unittest.mock

import cluster_jobs
import pytest

from r2l_jax import jobs
from r2l_jax.cli import startup
from r2l_jax.cli.stop import Interrupted
from r2l_jax.devices import memory
from r2l_jax.errors import InputError, warn
from r2l_jax.jobs import Job, finished, in_threads, mapped


def failing(error):
    def work():
        raise error

    return work


def test_jobs_run_in_their_order_and_one_that_fails_stops_only_those_that_need_it():
    work = [
        Job("timed", lambda: time.sleep(0.1)),
        Job("wrong", failing(ValueError("no\nnumber"))),
        Job("needs it", pytest.fail, ("wrong",)),
        Job("needs that", pytest.fail, ("needs it",)),
        Job("other", lambda: 5, ("timed",)),
    ]
    ended = list(jobs.run(work))
    assert [each.error or each.result for each in ended] == [
        None,
        "no number",
        "not started because wrong failed",
        "not started because needs it failed",
        5,
    ]
    assert 0.1 <= ended[0].seconds < 5


def test_other_schedulers_are_refused():
    for other in ("local:0", "slurm.json"):
        with pytest.raises(InputError, match=rf"^`scheduler` must be serial, .*, got '{other}'$"):
            jobs.prepare(other)


@pytest.mark.parametrize(("name", "gpu"), [(0, "2"), (3, "5"), ("tcp://10.0.0.1", "2,5")])
def test_each_worker_of_this_machine_has_a_gpu_of_its_own(monkeypatch, name, gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(startup, "prepare", prepared := unittest.mock.Mock())
    jobs.prepare_worker(types.SimpleNamespace(name=name))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
    prepared.assert_called_once_with(any_thread=True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), ["e: one two", "b: one two"]),
        (MemoryError(), ["e: MemoryError", "b: MemoryError"]),
        (InputError("a\x1b[2J\u202eb: no such file"), 2 * [r"a\x1b[2J\u202eb: no such file"]),
    ],
)
def test_an_item_never_ends_the_others_whatever_it_raises(capsys, error, said):
    def work(name):
        if name in "eb":
            raise error
        return name.upper()

    results, failed = finished(in_threads(work, "aebcdf"), "aebcdf")
    assert (results, failed) == ({name: name.upper() for name in "acdf"}, 2)
    # In the order of the items, whichever ended first.
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in said]
    finished((each for each in [*in_threads(work, "aebcdf")][::-1]), "aebcdf")
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in said]


def test_warnings_about_items_are_one_line_with_their_number(capsys):
    def work(name):
        if name != "c":
            warn(f"{name}: is dark")

    finished(in_threads(work, "dacb"), "dacb")
    assert capsys.readouterr().err == "warning: a: is dark (and likewise for 2 more of 4 files)\n"


def test_an_error_is_raised_in_its_items_place_and_later_items_are_left_out():
    started = []

    def work(number):
        started.append(number)
        if number == 2:
            raise ValueError("two")
        return 10 * number

    results = mapped(work, range(100), most=4, threads=1)
    assert [next(results), next(results)] == [0, 10]
    with pytest.raises(ValueError, match=r"^two$"):
        next(results)
    assert len(started) <= 6


def test_only_some_items_are_taken_ahead():
    taken, held = [], threading.Event()

    def items():
        for number in range(9):
            taken.append(number)
            yield number

    ended = in_threads(lambda item: item or held.wait(5), items(), most=3, threads=2)
    threading.Timer(0.2, lambda: held.set() if len(taken) == 3 else None).start()
    assert [each.item for each in ended] == list(range(9))
    assert held.is_set()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # A worker that is killed leaves sockets and processes to the system.
class TestWorkers:
    def test_a_job_whose_worker_dies_is_run_again(self, tmp_path):
        pytest.importorskip("distributed")

        def job(name, function, *more, after=()):
            return Job(name, functools.partial(function, str(tmp_path), name, *more), after)

        work = [
            job("lost once", cluster_jobs.die_once),
            # After the loss, with which Dask runs jobs again whose results were on that worker.
            job("wrong", cluster_jobs.fail, ValueError("no number"), after=("lost once",)),
            job("mistake", cluster_jobs.fail, InputError("`lr` must be positive"), after=("lost once",)),
            job("needs wrong", cluster_jobs.note, after=("wrong",)),
            job("needs mistake", cluster_jobs.note, after=("mistake",)),
        ]
        done = {ended.item: ended.error for ended in jobs.run(work, "local:2", tmp_path / "logs")}
        assert done == {
            "lost once": None,
            "wrong": "no number",
            "mistake": "`lr` must be positive",
            "needs wrong": "no number",
            "needs mistake": "not started because mistake failed",
        }
        assert [(tmp_path / name).read_text().count("called") for name in ("wrong", "mistake")] == [3, 1]
        assert (tmp_path / "logs" / "wrong.txt").read_text().count("before the error") == 3
        assert not list(tmp_path.glob("needs*"))

    def test_a_scheduler_that_cannot_be_reached_is_said_in_one_line(self, monkeypatch):
        distributed = pytest.importorskip("distributed")
        client = functools.partial(distributed.Client, timeout=1)
        monkeypatch.setattr(distributed, "Client", lambda place, timeout: client(place))
        with pytest.raises(InputError, match=r"^`scheduler=tcp://127.0.0.1:9` cannot be reached: ") as refused:
            list(jobs.run([], "tcp://127.0.0.1:9"))
        assert "\n" not in str(refused.value)

    def test_another_server_at_the_address_of_the_scheduler_is_said_in_one_line(self):
        pytest.importorskip("distributed")

        def answer():
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                while connection.recv(1024):
                    pass

        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=answer, daemon=True).start()
            address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(InputError, match=f"^`scheduler={address}`: another server answers there"):
                list(jobs.run([], address))

    def test_a_signal_stops_work_elsewhere(self):
        shared, long = functools.partial(os.getenv, memory.PROCESSES), functools.partial(time.sleep, 60)
        ended = jobs.run([Job("shared", shared), Job("long", long)], "local:2")
        # Each process knows how many share the memory.
        assert next(ended)[:2] == ("shared", "2")
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped; the same call resumes there"):
            next(ended)
