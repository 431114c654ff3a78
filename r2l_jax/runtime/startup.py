"""How every program starts: compiled code kept between runs, several hosts, and errors as one line."""

import ctypes
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import pooch

from r2l_jax.runtime import store
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.stop import Interrupted


def cache_dir() -> pathlib.Path:
    """The user's cache folder for this project: generated data sets and compiled functions."""
    return pathlib.Path(pooch.os_cache("r2l_jax"))


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
    """Lets this process keep the memory that it frees, for its next arrays. Does nothing but on Linux with glibc.

    As it comes, malloc maps fresh pages for every array of more than 32 MiB and returns them when it is freed, and
    each page is a fault when it is first written: 0.3 s a GiB, which on a CPU is a quarter of a training step. One heap
    that does not shrink has them once. The process's size stays at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # Other arenas than the main one are made of heaps of 64 MiB, and map what does not fit.
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def prepare() -> None:
    """Keeps memory and compiled functions, and joins the other hosts if the environment names a coordinator.

    Compiled functions go to JAX_COMPILATION_CACHE_DIR, or to the user's cache folder. Several hosts meet at
    JAX_COORDINATOR_ADDRESS (host:port of the first), each with its own JAX_PROCESS_ID of JAX_NUM_PROCESSES. Call it
    before anything else uses JAX.
    """
    keep_memory()
    # Now, while the source files are those that this process has imported.
    store.source_hash()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    # Many small functions compile in less than the second below which JAX would not keep them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        # What is not given, JAX finds out from the cluster's own variables (Slurm, Kubernetes, Open MPI).
        given = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
        jax.distributed.initialize(**{name: int(value) for name, value in given.items() if value})


def exit_status(main: Callable[[], int | None], argv: Sequence[str]) -> int:
    """Prepares and calls `main()`, and tells what went wrong.

    An InputError, a stray argument or a file that the system refuses to read or to write becomes one line on stderr.
    Any other exception is passed on.

    Args:
        main: the program; None is status 0.
        argv: the program's path, and what is left of its arguments without the flags.

    Returns:
        What `main` returns, 1 after an error, and 130 after an interruption.
    """
    program = pathlib.Path(argv[0]).name
    try:
        if stray := list(argv[1:]):
            raise InputError(f"unexpected arguments {stray}; every option has the form --name=value")
        prepare()
        return main() or 0
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # Without a file it is no mistake of the user's that a line could tell.
        if error.errno is None or error.filename is None:
            raise
        print(f"{program}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"{program}: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr, flush=True)
        # Python's own way out would tear XLA down under the threads that still compile, which ends in a crash.
        os._exit(130)
