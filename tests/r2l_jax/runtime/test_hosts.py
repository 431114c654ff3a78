"""Processes join each other as the variables or a cluster say, as far as one machine can play the cluster."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import variants
from jax._src import distributed

from r2l_jax.runtime import hosts
from r2l_jax.runtime.errors import InputError

# The program that each of two processes runs.
PROGRAM = """
import sys

import jax
import numpy as np

from r2l_jax.runtime import hosts, startup
from r2l_jax.runtime.errors import InputError

startup.prepare(multi_host=True)
number = jax.process_index()


def shown(work):
    try:
        print(work())
    except InputError as error:
        print("error:", error)


def fails(error):
    raise error


def fails_alone(process):
    if number == process:
        fails(InputError(f"no data in process {process}"))
    hosts.on_first_process(lambda: None)  # where the other process learns of it


shown(lambda: hosts.on_first_process(lambda: ["of process", number]))
shown(lambda: hosts.on_first_process(lambda: fails(InputError("the disk of \u00e9 is full"))))
shown(lambda: hosts.on_first_process(lambda: fails(OSError(28, "No space left on device", "/a/file"))))
shown(lambda: hosts.on_every_process(lambda: 10 * number) == 10 * number)
shown(lambda: hosts.on_every_process(lambda: fails_alone(0)))
shown(lambda: hosts.on_every_process(lambda: fails_alone(1)))
shown(lambda: hosts.on_every_process(lambda: hosts.on_every_process(lambda: fails_alone(1))))
shown(lambda: [hosts.any_process(number == 1), hosts.any_process(False)])
shown(lambda: hosts.gathered({"a": np.float32([number, 5])})["a"].tolist())
"""

PRINTED = """\
['of process', 0]
error: the disk of \u00e9 is full
error: /a/file: No space left on device
True
error: no data in process 0
error: no data in process 1
error: no data in process 1
[True, False]
[0.0, 5.0, 1.0, 5.0]
"""


def test_a_single_process_works_alone():
    assert hosts.is_first()
    assert hosts.on_first_process(lambda: 5) == hosts.on_every_process(lambda: 5) == 5
    assert hosts.any_process(True)
    assert not hosts.any_process(False)
    np.testing.assert_array_equal(hosts.gathered({"a": np.arange(3)})["a"], np.arange(3))

    def fail():
        raise InputError("no network")

    for together in (hosts.on_first_process, hosts.on_every_process):
        with pytest.raises(InputError, match="no network"):
            together(fail)


VARIABLES = ("JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_", "OMPI_", "KUBERNETES_")
ADDRESS = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}


def outside_of_clusters():
    """Returns the environment without what any cluster has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}


def free_port():
    """Returns a port that nobody listens on, of those that JAX derives from the numbers of jobs."""
    # In random order, since tests that run at the same time need ports of their own.
    for port in random.sample(range(61440, 65536), 100):
        with socket.socket(socket.AF_INET6) as free:
            try:
                free.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def by_variables(number, port):
    address = f"127.0.0.1:{port}"
    return {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number)}


def slurm(number, port):
    return {
        "SLURM_JOB_ID": str(port - 61440 + 2**12 * 5),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def open_mpi_4(number, port):
    return {
        "OMPI_MCA_orte_hnp_uri": f"{(port - 61440) * 2**12}.0;tcp://127.0.0.1,10.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(number),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(number),
    }


@pytest.fixture
def start():
    """Starts two processes of a program, and ends them after the test."""
    processes = []

    def start(code, *arguments, cluster=by_variables):
        environment = {"PYTHONPATH": str(pathlib.Path(__file__).parents[3]), **outside_of_clusters()}
        command, port, pipe = [sys.executable, "-c", code, *arguments], free_port(), subprocess.PIPE
        for number in range(2):
            variables = {**environment, "PYTHONIOENCODING": "utf-8", **cluster(number, port)}
            processes.append(
                subprocess.Popen(command, env=variables, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8")
            )
        return processes

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("cluster", variants.quick(1, [slurm, by_variables, open_mpi_4]))
def test_processes_meet_and_share_results_and_errors(start, cluster):
    for stdout, stderr in [process.communicate(timeout=120) for process in start(PROGRAM, cluster=cluster)]:
        # Gloo prints lines of its own.
        lines = [line for line in stdout.splitlines() if not line.startswith("[Gloo]")]
        assert lines == PRINTED.splitlines(), stderr


ENDING = """
import sys, time
from r2l_jax.runtime import startup
import jax

def main():
    number = jax.process_index()
    print("up", flush=True)
    sys.stdin.readline()
    if number == 1:
        raise RuntimeError("in this process")
    time.sleep(60)

sys.exit(startup.exit_status(main, ["two.py"], float(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "seconds"), [(0, 4), (1, 9)])
def test_jax_ends_a_process_whose_peer_was_killed(start, victim, seconds):
    processes = start(ENDING, "5")
    for process in processes:
        while "up" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
    begun = time.monotonic()
    processes[victim].kill()
    assert processes[1 - victim].wait(60) == -signal.SIGABRT
    assert time.monotonic() - begun < seconds
    assert "This most likely indicates that another task died" in processes[1 - victim].stderr.read()


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(start):
    processes = start(ENDING, "5")
    processes[1].stdin.write("\n")
    processes[1].stdin.flush()
    _, stderr = processes[1].communicate(timeout=60)
    assert (processes[1].returncode, stderr.strip().splitlines()[-1]) == (1, "RuntimeError: in this process")
    assert processes[0].wait(60) == -signal.SIGABRT


@pytest.fixture
def refused(monkeypatch):
    """Returns a function that says why processes with these variables cannot meet."""
    # JAX itself, but for its refusal of a process that has computed before, as that of the tests has.
    monkeypatch.setattr(jax.distributed, "initialize", distributed.State().initialize)
    for name in os.environ.keys() - outside_of_clusters().keys():
        monkeypatch.delenv(name)

    def refused(variables):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(InputError) as error:
                hosts.meet(100.0, multi_host=True)
        return str(error.value)

    return refused


NO_CLUSTER = (
    "the hosts cannot meet: JAX finds no cluster that has started this process; expected srun (Slurm), mpirun "
    "(Open MPI), a Job (Kubernetes, with the Python package kubernetes), or the variables JAX_COORDINATOR_ADDRESS, "
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, NO_CLUSTER),
        ({"SLURM_JOB_ID": "5"}, NO_CLUSTER),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, NO_CLUSTER),
        (
            {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1"},
            "the hosts cannot meet: OMPI_COMM_WORLD_SIZE is not set",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "with Open MPI 5, JAX needs the Python package mpi4py: install it, or set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID",
        ),
        (
            {**ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "the hosts cannot meet: process_id and num_processes must be nonnegative, with process_id < num_processes. "
            "Got process_id=2, num_processes=2.",
        ),
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "JAX_COORDINATOR_ADDRESS must be host:port, got 'node1'"),
        ({**ADDRESS, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a whole number, got 'two'"),
        ({**ADDRESS, "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a whole number, got '-1'"),
    ],
)
def test_processes_that_cannot_meet_are_told_why_in_one_line(refused, variables, message, monkeypatch):
    # Whether the packages are installed or not.
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert refused(variables) == message


def test_without_the_flag_and_the_variables_a_process_is_alone(monkeypatch):
    for name in os.environ.keys() - outside_of_clusters().keys():
        monkeypatch.delenv(name)
    for name, value in slurm(0, 61440).items():
        monkeypatch.setenv(name, value)
    hosts.meet(100.0, multi_host=False)
    assert not jax.distributed.is_initialized()


@pytest.mark.slow
def test_programs_leave_jax_alone_until_the_hosts_have_met():
    modules = ("adjustment.adaptation", "forensics.attack", "forensics.forensics", "synthesis.evaluation")
    imports = "\n".join(f"import r2l_jax.drift.{module}" for module in modules)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"import jax; jax.distributed.initialize('127.0.0.1:{free.getsockname()[1]}', 1, 0)"
    # Which JAX refuses once it has computed anything.
    subprocess.run([sys.executable, "-c", f"{imports}\n{meet}"], check=True, timeout=120)
