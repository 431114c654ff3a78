import os
import signal
import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, sys
from r2l_jax.runtime import startup
import jax
import numpy as np

def main():
    print("up", flush=True)
    sys.stdin.readline()  # the test's word, where nothing is computed together
    if sys.argv[2] == "raises" and jax.process_index() == 1:
        raise RuntimeError("of this process")
    if sys.argv[2] == "computes":
        from jax.experimental import multihost_utils
        while True:
            multihost_utils.process_allgather(np.array(1))

sys.exit(startup.exit_status(main, ["two.py"], float(sys.argv[1])))
"""


@pytest.fixture
def start():
    """Starts two processes that wait for each other, and ends them after the test."""
    processes = []

    def start(timeout, what):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        for number in range(2):
            environment = {
                **os.environ,
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
            }
            command = [sys.executable, "-c", PROGRAM, str(timeout), what]
            pipe = subprocess.PIPE
            processes.append(
                subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            )
        for process in processes:
            while "up" not in process.stdout.readline():
                assert process.poll() is None, process.stderr.read()
        return processes

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("number", "what", "reason"),
    [
        (signal.SIGKILL, "waits", "has ended"),
        (signal.SIGKILL, "computes", "has ended"),
        (signal.SIGSTOP, "waits", "has been silent for 5 s"),
    ],
)
def test_the_end_of_a_process_ends_the_other_in_one_line(start, victim, number, what, reason):
    processes = start(5, what)
    if what == "computes":
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(1)
    begun = time.monotonic()
    processes[victim].send_signal(number)
    assert processes[1 - victim].wait(60) == 1
    assert time.monotonic() - begun < 20
    (line,) = processes[1 - victim].stderr.read().strip().splitlines()
    assert line.startswith(f"two.py: error: process {victim} on {socket.gethostname()} {reason}; the same command on")


@pytest.mark.slow
def test_processes_that_end_in_good_order_end_one_by_one(start):
    processes = start(5, "waits")
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(1)
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other(start):
    processes = start(60, "raises")
    processes[1].stdin.write("\n")
    processes[1].stdin.flush()
    assert processes[0].wait(60) == 1
    stderr = processes[0].stderr.read()
    assert f"process 1 on {socket.gethostname()} has ended" in stderr
    _, stderr = processes[1].communicate(timeout=60)
    assert "RuntimeError: of this process" in stderr
