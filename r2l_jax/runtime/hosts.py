"""Joins the processes of several hosts into one run, and keeps them together.

All processes of a run call these functions at the same places and in the same order. A process that calls one of them
waits for the others; in a run of a single process, nobody waits and nothing is sent.
"""

import importlib.util
import math
import os
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from r2l_jax.runtime.errors import InputError, in_words, one_line

PyTree = Any
Result = TypeVar("Result")

_COORDINATOR, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_VARIABLES = f"{_COORDINATOR}, {_COUNT} and {_NUMBER}"


class SharedError(InputError):
    """An error that all processes raise at the same place."""


def meet(host_timeout: float | None, multi_host: bool) -> None:
    """Joins the other processes of this run, if there are any.

    Args:
        host_timeout: seconds after which JAX counts a process that does not answer as ended, and ends the others;
            None leaves the number to JAX.
        multi_host: whether to ask the cluster for settings that no environment variable holds. Without it, only
            processes with JAX_COORDINATOR_ADDRESS join others.

    Raises:
        InputError: a variable has no valid value, or the cluster does not say where the processes meet.
    """
    address = os.environ.get(_COORDINATOR)
    if address is None and not multi_host:
        return
    if address is not None and not re.fullmatch(r".+:\d+", address):
        raise InputError(f"{_COORDINATOR} must be host:port, got {address!r}")
    count, number = _whole_number(_COUNT), _whole_number(_NUMBER)
    # Open MPI 5 does not set the variable from which JAX recognizes Open MPI (jax-ml/jax#14576).
    is_open_mpi_5 = "OMPI_COMM_WORLD_SIZE" in os.environ and "OMPI_MCA_orte_hnp_uri" not in os.environ
    asks_mpi = is_open_mpi_5 and None in (address, count, number)
    if asks_mpi and importlib.util.find_spec("mpi4py") is None:
        raise InputError(f"with Open MPI 5, JAX needs the Python package mpi4py: install it, or set {_VARIABLES}")
    timeout: dict[str, Any] = {} if host_timeout is None else {"heartbeat_timeout_seconds": math.ceil(host_timeout)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns in several lines that the package of Kubernetes is missing.
            jax.distributed.initialize(
                num_processes=count,
                process_id=number,
                cluster_detection_method="mpi4py" if asks_mpi else None,
                **timeout,
            )
    except KeyError as error:
        raise InputError(f"the hosts cannot meet: {error.args[0]} is not set") from error
    except Exception as error:  # The packages that JAX calls have exceptions of their own.
        raise InputError(f"the hosts cannot meet: {_reason(error)}") from error


def _whole_number(variable: str) -> int | None:
    """Returns the value of a variable, or None if it is not set: JAX then asks the cluster."""
    value = os.environ.get(variable)
    if value and not value.isdecimal():
        raise InputError(f"{variable} must be a whole number, got {value!r}")
    return int(value) if value else None


def _reason(error: Exception) -> str:
    """Says in one line why JAX could not find or join the other processes."""
    if "must be defined" not in str(error) and "should be defined" not in str(error):
        return one_line(error)
    return (
        "JAX finds no cluster that has started this process; expected srun (Slurm), mpirun (Open MPI), a Job "
        f"(Kubernetes, with the Python package kubernetes), or the variables {_VARIABLES}"
    )


def refuse_several_processes() -> None:
    """Raises an InputError if there are several processes, for work that cannot be shared among them."""
    if jax.process_count() > 1:
        raise InputError(f"this runs on the devices of one process, got {jax.process_count()} processes")


def is_first() -> bool:
    """Returns whether this process is the one that writes files, prints results and shows progress."""
    return jax.process_index() == 0


def no_bar() -> bool | None:
    """Returns the `disable` of a tqdm: None in the first process, which shows the bar on terminals alone; else True."""
    return None if is_first() else True


def on_first_process(work: Callable[[], Result]) -> Result:
    """Calls `work` in the first process while the others wait, and returns its result in all of them.

    Args:
        work: must not call functions of this module. Among several processes, its result is pickled.

    Raises:
        InputError: the work raised it, or an OSError; every process raises it, so that none waits for one that ended. A
            single process raises the work's own error.
    """
    if jax.process_count() == 1:
        return work()
    result, error = _attempt(work) if is_first() else (None, None)
    _raise_together(error)
    return pickle.loads(sent(pickle.dumps(result), sender=0))


def on_every_process(work: Callable[[], Result]) -> Result:
    """Calls `work` in every process, and returns each process its own result unless one of them fails.

    Args:
        work: may call functions of this module: an error that one process raises before such a call reaches the others
            there.

    Raises:
        InputError: as for `on_first_process`, from any process.
    """
    if jax.process_count() == 1:
        return work()
    result, error = _attempt(work)
    _raise_together(error)
    return result  # pyright: ignore[reportReturnType]  # without an error, the work has returned


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.asarray(multihost_utils.process_allgather(np.array(flag))).any())


def gathered(arrays: PyTree) -> PyTree:
    """Returns the arrays of all processes as NumPy arrays, in each process.

    Args:
        arrays: a pytree of arrays over the devices of all processes; or of arrays of this process, of the same shapes
            in all processes, which are concatenated along their first axis.
    """
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)


def sent(content: bytes, sender: int) -> bytes:
    """Returns one process's content in all processes."""
    sends = jax.process_index() == sender
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(content)), is_source=sends))
    buffer = np.frombuffer(content, np.uint8) if sends else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer, is_source=sends), np.uint8).tobytes()


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except SharedError:
        raise
    except (InputError, OSError) as error:
        return None, error


def _raise_together(error: Exception | None) -> None:
    """Raises the error of the first process that has one, in all processes."""
    failed = np.asarray(multihost_utils.process_allgather(np.array(error is not None)))
    if failed.any():
        message = sent((in_words(error) if error else "").encode(), sender=int(failed.argmax()))
        raise SharedError(message.decode()) from error
