"""Processes join each other as the variables say."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import pytest
from jax._src import distributed
from programs import call

from r2l_jax.devices import hosts
from r2l_jax.errors import InputError

# The program that each of two processes runs.
PROGRAM = """
import sys, time
from r2l_jax.cli import stop
from r2l_jax.devices import hosts
import jax

def main():
    hosts.initialize(5.0, multi_host=False)
    number, done = jax.process_index(), []
    hosts.on_first_process(lambda: done.append(number))
    print(hosts.is_first(), done, hosts.any_process(number == 1), hosts.any_process(False), flush=True)
    if sys.stdin.readline() == "fail":
        raise RuntimeError("in this process")
    time.sleep(60)

sys.exit(stop.exit_status(main))
"""

VARIABLES = ("JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_", "OMPI_", "KUBERNETES_")


@pytest.fixture
def environment(monkeypatch):
    """The environment without what any cluster has set."""
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        monkeypatch.delenv(name)
    return monkeypatch


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def processes(environment):
    """Two processes of the program."""
    environment.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[3]))
    environment.setenv("JAX_COORDINATOR_ADDRESS", free_address())
    environment.setenv("JAX_NUM_PROCESSES", "2")
    command, pipe, started = [sys.executable, "-c", PROGRAM], subprocess.PIPE, []
    for number in range(2):
        environment.setenv("JAX_PROCESS_ID", str(number))
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_the_first_process_works_for_all_and_an_error_of_one_ends_both(processes):
    said = []
    for process in processes:
        # Gloo prints lines of its own.
        while (line := process.stdout.readline()).startswith("[Gloo]"):
            pass
        said.append(line)
    assert said == ["True [0] True False\n", "False [] True False\n"], processes[0].stderr.read()
    _, stderr = processes[1].communicate("fail", timeout=60)
    assert (processes[1].returncode, stderr.strip().splitlines()[-1]) == (1, "RuntimeError: in this process")
    assert processes[0].wait(60) == -signal.SIGABRT


def test_processes_that_cannot_meet_are_told_why_in_one_line(environment):
    # JAX itself, but for its refusal of a process that has computed before, as that of the tests has.
    environment.setattr(jax.distributed, "initialize", distributed.State().initialize)
    with pytest.raises(
        InputError, match=r"^the hosts cannot connect: coordinator_address should be defined; start them with srun, "
    ):
        hosts.initialize(100.0, multi_host=True)


@pytest.mark.shows("train --multi_host --host_timeout")
@pytest.mark.parametrize("multi_host", [True, False])
def test_a_process_asks_the_cluster_if_the_flag_says_so(environment, multi_host):
    asked = []
    environment.setattr(jax.distributed, "initialize", lambda **options: asked.append(options))
    environment.setenv("SLURM_JOB_ID", "1")
    hosts.initialize(99.5, multi_host)
    assert asked == [{"heartbeat_timeout_seconds": 100}] * multi_host
    call("train.py", "--host_timeout=7", "--epochs=1", "--dataset=none", *["--multi_host"] * multi_host)
    assert asked[1:] == [{"heartbeat_timeout_seconds": 7}] * multi_host


@pytest.mark.slow
def test_training_leaves_jax_alone_until_the_hosts_have_met():
    # Which JAX refuses once it has computed anything.
    initialize = f"import jax; jax.distributed.initialize({free_address()!r}, 1, 0)"
    imports = "import r2l_jax.drift.forensics.attack, r2l_jax.training.group"
    subprocess.run([sys.executable, "-c", f"{imports}\n{initialize}"], check=True, timeout=120)
