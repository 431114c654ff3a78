"""Processes join each other as the variables or a cluster say, as far as one machine can play the cluster."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys

import jax
import pytest
import variants
from jax._src import distributed

from r2l_jax.runtime import hosts
from r2l_jax.runtime.errors import InputError

# The program that each of two processes runs.
PROGRAM = """
import jax
from r2l_jax.runtime import hosts, startup

startup.prepare(multi_host=True)
number, done = jax.process_index(), []
hosts.on_first_process(lambda: done.append(number))
print(hosts.is_first(), done, hosts.any_process(number == 1), hosts.any_process(False))
"""


VARIABLES = ("JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_", "OMPI_", "KUBERNETES_")


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


@pytest.fixture
def start():
    """Starts two processes of a program, and ends them after the test."""
    processes = []

    def start(code, cluster=by_variables):
        environment = {"PYTHONPATH": str(pathlib.Path(__file__).parents[3]), **outside_of_clusters()}
        command, port, pipe = [sys.executable, "-c", code], free_port(), subprocess.PIPE
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


@pytest.mark.parametrize("cluster", variants.quick(1, [slurm, by_variables]))
def test_processes_meet_and_the_first_works_for_all(start, cluster):
    ended = [process.communicate(timeout=120) for process in start(PROGRAM, cluster=cluster)]
    # Gloo prints lines of its own.
    said = [line for stdout, _ in ended for line in stdout.splitlines() if not line.startswith("[Gloo]")]
    assert said == ["True [0] True False", "False [] True False"], ended


ENDING = """
import sys, time
from r2l_jax.runtime import startup, stop
import jax

def main():
    startup.prepare(5.0)
    number = jax.process_index()
    print("up", flush=True)
    sys.stdin.readline()
    if number == 1:
        raise RuntimeError("in this process")
    time.sleep(60)

sys.exit(stop.exit_status(main))
"""


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(start):
    processes = start(ENDING)
    processes[1].stdin.write("\n")
    processes[1].stdin.flush()
    _, stderr = processes[1].communicate(timeout=60)
    assert (processes[1].returncode, stderr.strip().splitlines()[-1]) == (1, "RuntimeError: in this process")
    assert processes[0].wait(60) == -signal.SIGABRT


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "coordinator_address should be defined."),
        ({"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1"}, "'OMPI_COMM_WORLD_SIZE'"),
        ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "two"}, "invalid literal for int.* 'two'"),
    ],
)
def test_processes_that_cannot_meet_are_told_why_in_one_line(variables, reason, monkeypatch):
    # JAX itself, but for its refusal of a process that has computed before, as that of the tests has.
    monkeypatch.setattr(jax.distributed, "initialize", distributed.State().initialize)
    for name in os.environ.keys() - outside_of_clusters().keys():
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match=f"^the hosts cannot meet: {reason}; start them by srun, mpirun .*, or set JAX_"
    ):
        hosts.meet(100.0, multi_host=True)


def test_without_the_flag_and_the_variables_a_process_is_alone(monkeypatch):
    for name in os.environ.keys() - outside_of_clusters().keys():
        monkeypatch.delenv(name)
    for name, value in slurm(0, 61440).items():
        monkeypatch.setenv(name, value)
    hosts.meet(100.0, multi_host=False)
    assert not jax.distributed.is_initialized()


@pytest.mark.slow
def test_programs_leave_jax_alone_until_the_hosts_have_met():
    imports = "import r2l_jax.drift.forensics.attack, r2l_jax.training.group"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"import jax; jax.distributed.initialize('127.0.0.1:{free.getsockname()[1]}', 1, 0)"
    # Which JAX refuses once it has computed anything.
    subprocess.run([sys.executable, "-c", f"{imports}\n{meet}"], check=True, timeout=120)
