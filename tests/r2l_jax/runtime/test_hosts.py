import os
import socket
import subprocess
import sys

import pytest

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.hosts import on_first_process

PROGRAM = """
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.hosts import on_first_process

startup.prepare()


def work():
    raise InputError("the disk of \u00e9 is full")


try:
    on_first_process(work)
except InputError as error:
    print(error)
"""


def test_the_work_is_done_and_its_error_raised():
    done = []
    on_first_process(lambda: done.append(1))
    assert done == [1]

    def fail():
        raise InputError("no network")

    with pytest.raises(InputError, match="no network"):
        on_first_process(fail)


def test_every_process_learns_what_went_wrong_in_the_first():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "PYTHONIOENCODING": "utf-8"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **hosts, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    # Gloo may print a line of its own before.
    assert [stdout.splitlines()[-1] for stdout, _ in outputs] == ["the disk of \u00e9 is full"] * 2, outputs
