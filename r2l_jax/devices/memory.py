"""The memory that this process may use; and settings that must come before JAX is used, for memory and callbacks."""

import ctypes
import os
import pathlib
import sys

import jax

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

# The variable with the number of processes that share this machine, where a program has started several.
PROCESSES = "R2L_JAX_PROCESSES"


def of_process() -> int:
    """Returns the memory in bytes for this process: its equal part of the machine's memory or of its container's.

    All processes of a training run are taken to be on this machine.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()]
    return min(limits) // max(jax.process_count(), int(os.environ.get(PROCESSES, "1")))


def _limits(
    known: pathlib.Path = pathlib.Path("/proc/self/cgroup"), root: pathlib.Path = pathlib.Path("/sys/fs/cgroup")
) -> list[int]:
    """Lists the limits in bytes of the control groups, version 1 or 2, that this process is in."""
    try:
        lines = known.read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        # A group's limit holds for all groups in it. In a container, the path may be that of its host.
        below = pathlib.PurePosixPath(path.lstrip("/"))
        for group in (below, *below.parents):
            file = top / group / name
            if file.is_file() and (limit := file.read_text().strip()).isdecimal():
                found.append(int(limit))
    return found


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
