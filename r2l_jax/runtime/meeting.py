"""Joins the processes of several hosts to one run, when a program starts."""

import importlib.util
import math
import os
import re
import sys
import warnings

import jax
from jax._src import distributed  # No public function tells where the processes have met.

from r2l_jax.runtime.errors import InputError, in_words, one_line
from r2l_jax.runtime.hosts import SharedError
from r2l_jax.runtime.watch import LATER, Watch

_COORDINATOR, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

_EXPECTED = (
    "expected a process that srun (Slurm), mpirun (Open MPI) or a Job (Kubernetes) has started, or the variables "
    f"{_COORDINATOR}, {_COUNT} and {_NUMBER}"
)


def meet(program: str, host_timeout: float, multi_host: bool) -> Watch | None:
    """Joins the other processes of this run, if there are any, and begins to watch them.

    Args:
        program: the program's name, for the message with which it ends if another host does.
        host_timeout: seconds after which a host that does not answer counts as ended.
        multi_host: whether to ask the cluster for what the environment variables do not say. Without, only processes
            with JAX_COORDINATOR_ADDRESS join others.

    Returns:
        The watch over the other processes; None without any.

    Raises:
        InputError: a variable has no valid value, or the cluster does not say where the processes meet.
    """
    if _COORDINATOR not in os.environ and not multi_host:
        return None
    _initialize(host_timeout)
    if jax.process_count() == 1:
        return None
    try:
        return Watch(program, str(distributed.global_state.coordinator_address), host_timeout)
    except (OSError, SharedError) as error:
        reason = in_words(error)
        print(f"warning: the hosts cannot watch each other ({reason}): if one ends, others may wait", file=sys.stderr)
        return None


def _initialize(host_timeout: float) -> None:
    address = os.environ.get(_COORDINATOR)
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise InputError(f"{_COORDINATOR} must be host:port, got {address!r}")
    count, number, method = _whole_number(_COUNT), _whole_number(_NUMBER), _method()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a missing package of Kubernetes, in several lines.
            jax.distributed.initialize(
                num_processes=count,
                process_id=number,
                cluster_detection_method=method,
                # Later than the watch, so that the watch has the word.
                heartbeat_timeout_seconds=math.ceil(host_timeout) + LATER,
            )
    # The packages that JAX asks have exceptions of their own.
    except Exception as error:
        raise InputError(f"the hosts cannot meet: {_reason(error)}") from error


def _whole_number(variable: str) -> int | None:
    """Returns the value of a variable, or None if it is not set: JAX then asks the cluster."""
    value = os.environ.get(variable)
    if value and not value.isdecimal():
        raise InputError(f"{variable} must be a whole number, got {value!r}")
    return int(value) if value else None


def _method() -> str | None:
    """Returns how JAX finds the cluster, or None if it finds out by itself."""
    # Open MPI 5 does not set the variable by which JAX recognizes Open MPI (jax-ml/jax#14576).
    if "OMPI_COMM_WORLD_SIZE" not in os.environ or "OMPI_MCA_orte_hnp_uri" in os.environ:
        return None
    if all(os.environ.get(variable) for variable in (_COORDINATOR, _COUNT, _NUMBER)):
        return None
    if importlib.util.find_spec("mpi4py") is None:
        raise InputError(
            "the hosts cannot meet: with Open MPI 5, JAX needs the Python package mpi4py; install it, or set "
            f"{_COORDINATOR}, {_COUNT} and {_NUMBER}"
        )
    return "mpi4py"


def _reason(error: Exception) -> str:
    """Says in words why JAX could not find or join the other processes."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is not set"
    if "must be defined" not in str(error) and "should be defined" not in str(error):
        # JAX's client of Kubernetes tries again after some errors, and finally says no more than that.
        cause = f" ({one_line(error.__cause__)})" if isinstance(error.__cause__, ValueError | OSError) else ""
        return one_line(error) + cause
    if "SLURM_JOB_ID" in os.environ and "SLURM_STEP_NODELIST" not in os.environ:
        found = "this process of a Slurm job was not started by srun"
    elif "KUBERNETES_SERVICE_HOST" in os.environ and importlib.util.find_spec("kubernetes") is None:
        found = "in Kubernetes, JAX needs the Python package kubernetes"
    else:
        found = "JAX finds no cluster that has started this process"
    return f"{found}; {_EXPECTED}"
