import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import pytest

from r2l_jax.runtime import hosts, watch

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


def test_a_peer_without_the_token_is_refused_and_does_not_count():
    listener = watch._listener("127.0.0.1", 8)
    strangers, peers = [], []
    for line in (b"\n", b"0123\n", b'{"process": 1, "host": "elsewhere"}\n', b"token" * 100, b"token\n"):
        peer = socket.create_connection(listener.getsockname())
        peer.sendall(line + b'{"process": 1, "host": "here"}\n')
        (peers if line == b"token\n" else strangers).append(peer)
    accepted = watch._accepted(listener, 1, "token", timeout=5.0)
    ((connection, host),) = accepted.values()
    assert (accepted.keys(), host, connection.getpeername()) == ({1}, "here", peers[0].getsockname())
    for stranger in strangers:
        with stranger, contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    for open_one in (*peers, connection):
        open_one.close()


def test_the_first_process_listens_where_the_last_one_reaches_it(monkeypatch):
    def create_server(address, **options):
        bound.append(address[0])
        raise OSError("as far as this test goes")

    bound, senders = [], []
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(hosts, "on_every_process", lambda work: work())
    monkeypatch.setattr(hosts, "on_first_process", lambda work: work())
    monkeypatch.setattr(hosts, "sent", lambda content, sender: (senders.append(sender), b"127.0.0.2")[1])
    with socket.create_server(("127.0.0.1", 0)) as coordinator, monkeypatch.context() as patch:
        address = f"localhost:{coordinator.getsockname()[1]}"
        assert watch._reached(address, 5.0) == "127.0.0.1"
        patch.setattr(socket, "create_server", create_server)
        with pytest.raises(OSError, match="as far as"):
            watch.Watch._connect(types.SimpleNamespace(_timeout=5.0), address)
    assert (bound, senders) == (["127.0.0.2"], [2])
