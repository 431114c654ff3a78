"""Programs join the processes that a cluster has started, as far as one machine can play the cluster."""

import os
import pathlib
import random
import socket
import subprocess
import sys
import types

import jax
import pytest
from jax._src import distributed

from r2l_jax.runtime import meeting
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.watch import TIMEOUT

# Each process prints the numbers of both. Then the second one ends without a word, and the watch of the first says so.
PROGRAM = '''
"""A program."""
import dataclasses, os, time
import jax
import numpy as np
from r2l_jax.runtime import flags, hosts

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Settings):
    """A program."""

def main(config):
    print(hosts.gathered(np.array([jax.process_index()])).tolist(), flush=True)
    hosts.any_process(False)  # Returns once the other process has printed.
    if jax.process_index() == 1:
        os._exit(0)
    time.sleep(60)

flags.run(main, Config)
'''

# Kubernetes knows how many processes there are. JAX asks it through this package.
KUBERNETES = """
from types import SimpleNamespace as Object
from jax._src.clusters.k8s_cluster import K8sCluster

K8sCluster._namespace = lambda: "default"  # It reads a file of the pod.
pod = Object(metadata=Object(labels={"job-name": "train"}))
job = Object(spec=Object(parallelism=2))
config = Object(load_incluster_config=lambda: None)
client = Object(
    CoreV1Api=lambda: Object(list_namespaced_pod=lambda namespace, field_selector: Object(items=[pod])),
    BatchV1Api=lambda: Object(read_namespaced_job=lambda name, namespace: job),
    exceptions=Object(ApiException=OSError),
)
"""

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


def kubernetes(number, port):
    return {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "HOSTNAME": "localhost",
        "JOB_COMPLETION_INDEX": str(number),
        # That of a Job is the name of a pod, which only the cluster resolves.
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
    }


@pytest.mark.parametrize("cluster", [slurm, open_mpi_4, pytest.param(kubernetes, marks=pytest.mark.slow)])
def test_two_processes_meet_where_the_cluster_says(cluster, tmp_path):
    (tmp_path / "two.py").write_text(PROGRAM)
    if cluster is kubernetes:
        (tmp_path / "kubernetes.py").write_text(KUBERNETES)
    root = str(pathlib.Path(__file__).parents[3])
    environment, port = outside_of_clusters() | {"PYTHONPATH": root}, free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "two.py"), "--multi_host"],
            env={**environment, **cluster(number, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    (first, error), (second, _) = [process.communicate(timeout=120) for process in processes]
    assert "[0, 1]" in first.splitlines(), error
    assert "[0, 1]" in second.splitlines(), error
    (line,) = error.strip().splitlines()
    assert line.startswith(f"two.py: error: process 1 on {socket.gethostname()} has ended; the same command on all")


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
                meeting.meet("two.py", TIMEOUT, multi_host=True)
        return str(error.value)

    return refused


EXPECTED = (
    "; expected a process that srun (Slurm), mpirun (Open MPI) or a Job (Kubernetes) has started, or the variables "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, f"JAX finds no cluster that has started this process{EXPECTED}"),
        (ADDRESS, f"JAX finds no cluster that has started this process{EXPECTED}"),
        ({"SLURM_JOB_ID": "5"}, f"this process of a Slurm job was not started by srun{EXPECTED}"),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            f"in Kubernetes, JAX needs the Python package kubernetes{EXPECTED}",
        ),
        ({"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1"}, "OMPI_COMM_WORLD_SIZE is not set"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "with Open MPI 5, JAX needs the Python package mpi4py; install it, or set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID",
        ),
        (
            {**ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "process_id and num_processes must be nonnegative, with process_id < num_processes. Got process_id=2, "
            "num_processes=2.",
        ),
    ],
)
def test_processes_that_cannot_meet_are_told_why_in_one_line(refused, variables, reason, monkeypatch):
    # Whether the packages are installed or not.
    monkeypatch.setattr(meeting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert refused(variables) == f"the hosts cannot meet: {reason}"


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (OSError("Service token file\ndoes not exist."), None, "Service token file does not exist."),
        (RuntimeError("Retry failed"), ValueError("no pod has this address"), "Retry failed (no pod has this address)"),
    ],
)
def test_what_kubernetes_refuses_is_one_line(refused, error, cause, reason, monkeypatch):
    def refuse():
        raise error from cause

    package = types.SimpleNamespace(config=types.SimpleNamespace(load_incluster_config=refuse))
    monkeypatch.setitem(sys.modules, "kubernetes", package)
    assert refused({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == f"the hosts cannot meet: {reason}"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "JAX_COORDINATOR_ADDRESS must be host:port, got 'node1'"),
        ({**ADDRESS, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a whole number, got 'two'"),
        ({**ADDRESS, "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a whole number, got '-1'"),
    ],
)
def test_variables_with_other_values_are_refused(refused, variables, message):
    assert refused(variables) == message


def test_without_the_flag_and_the_variables_a_process_is_alone(monkeypatch):
    for name in os.environ.keys() - outside_of_clusters().keys():
        monkeypatch.delenv(name)
    for name, value in slurm(0, 61440).items():
        monkeypatch.setenv(name, value)
    assert meeting.meet("one.py", TIMEOUT, multi_host=False) is None
