"""Connects the processes of several hosts for one training run.

All processes of a training run call these functions in the same order. A process that calls one waits for the others; a
single process does not wait and sends nothing.
"""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from r2l_jax.errors import InputError, one_line


def initialize(timeout: float, multi_host: bool) -> None:
    """Connects to the other processes of this run, if any. Must be called before this process computes anything.

    After `timeout` seconds without an answer, JAX considers a process dead, and ends the others. `multi_host` takes
    settings that no environment variable holds from the cluster; without it, only JAX_COORDINATOR_ADDRESS connects.
    """
    if "JAX_COORDINATOR_ADDRESS" not in os.environ and not multi_host:
        return
    options: dict[str, Any] = {"heartbeat_timeout_seconds": math.ceil(timeout)}
    try:
        for option, variable in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
            if value := os.environ.get(variable):
                options[option] = int(value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns in several lines that the Kubernetes package is missing.
            jax.distributed.initialize(**options)
    except Exception as error:  # The packages that JAX calls raise their own exceptions.
        raise InputError(
            f"the hosts cannot connect: {one_line(error).rstrip('.')}; start them with srun, mpirun or Kubernetes, or "
            "set JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def refuse_several_processes() -> None:
    """Raises an InputError if there are several processes, for work that they cannot share."""
    if jax.process_count() > 1:
        raise InputError(f"this program runs in a single process, got {jax.process_count()}")


def is_first() -> bool:
    """Returns whether this process writes files, prints results and shows progress."""
    return jax.process_index() == 0


def on_first_process(work: Callable[[], object]) -> None:
    """Calls `work` in the first process while the others wait. If it fails, all processes end."""
    if is_first():
        work()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("work of the first process")


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
