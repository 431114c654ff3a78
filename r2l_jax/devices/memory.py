"""Settings of this process that must come before JAX is used: freed memory, and threads for callbacks."""

import ctypes
import os
import sys

import jax

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_memory(any_thread: bool = False) -> None:
    """Keeps freed memory in this process for its next arrays, on Linux with glibc. Must be called before JAX is used.

    By default, malloc maps fresh pages for every array above 32 MiB, which takes a quarter of a training step on a CPU.
    Only the main thread's heap can keep large arrays; on CPUs, JAX computes in the calling thread. If other threads
    also compute (`any_thread`), all share one heap, for which they wait.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    if any_thread:
        mallopt(_M_ARENA_MAX, 1)
    else:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)  # Never.


def let_callbacks_read() -> None:
    """Gives JAX a second thread on a machine or in a container with one core.

    Without it, a function with a Python callback waits forever (https://github.com/jax-ml/jax/issues/24255). XLA reads
    the number of its threads from NPROC when JAX is first used; later, this has no effect.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == 1:
        os.environ.setdefault("NPROC", "2")
