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
from jax._src import distributed

from r2l_jax.runtime import hosts
from r2l_jax.runtime.errors import InputError

# The program that each of two processes runs.
PROGRAM = """
import sys, time
from r2l_jax.runtime import hosts, stop
import jax

def main():
    hosts.meet(5.0, multi_host=True)
    number, done = jax.process_index(), []
    hosts.on_first_process(lambda: done.append(number))
    print(hosts.is_first(), done, hosts.any_process(number == 1), hosts.any_process(False), flush=True)
    if sys.stdin.readline() == "fail":
        raise RuntimeError("in this process")
    time.sleep(60)

sys.exit(stop.exit_status(main))
"""

VARIABLES = ("JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_", "OMPI_", "KUBERNETES_")


def outside_of_clusters():
    """Returns the environment without what any cluster has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}


def free_port():
    """Returns a port that nobody listens on, of those that JAX derives from the numbers of jobs."""
    while True:
        with socket.socket(socket.AF_INET6) as free:
            try:
                # At random, since tests that run at the same time need ports of their own.
                free.bind(("", port := random.randrange(61440, 65536)))
                return port
            except OSError:
                continue


def slurm(number, port):
    return {
        "SLURM_JOB_ID": str(port - 61440 + 2**12 * 5),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


@pytest.fixture
def processes():
    """Two processes of the program."""
    environment, port = {**outside_of_clusters(), "PYTHONPATH": str(pathlib.Path(__file__).parents[3])}, free_port()
    command, pipe = [sys.executable, "-c", PROGRAM], subprocess.PIPE
    started = [
        subprocess.Popen(
            command, env=environment | slurm(number, port), stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        for number in range(2)
    ]
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
    with pytest.raises(InputError, match=f"^the hosts cannot meet: {reason}; start them by srun, .*, or set JAX_"):
        hosts.meet(100.0, multi_host=True)


def test_without_the_flag_and_the_variables_a_process_is_alone(monkeypatch):
    for name in os.environ.keys() - outside_of_clusters().keys():
        monkeypatch.delenv(name)
    for name, value in slurm(0, 61440).items():
        monkeypatch.setenv(name, value)
    hosts.meet(100.0, multi_host=False)
    assert not jax.distributed.is_initialized()


@pytest.mark.slow
def test_training_leaves_jax_alone_until_the_hosts_have_met():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        # Which JAX refuses once it has computed anything.
        meet = f"import jax; jax.distributed.initialize('127.0.0.1:{free.getsockname()[1]}', 1, 0)"
    imports = "import r2l_jax.drift.forensics.attack, r2l_jax.training.group"
    subprocess.run([sys.executable, "-c", f"{imports}\n{meet}"], check=True, timeout=120)
