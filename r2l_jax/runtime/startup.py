"""Start-up of every program: compiled code kept between runs, several hosts, and errors in one line."""

import contextlib
import ctypes
import errno
import os
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import pooch

from r2l_jax.runtime import compilation_cache, store
from r2l_jax.runtime.errors import InputError, in_words, of_callback
from r2l_jax.runtime.hosts import SharedError, meet
from r2l_jax.runtime.stop import Interrupted, cleaning_up, end


def cache_dir() -> pathlib.Path:
    """Returns the user's cache folder for generated data sets, downloads and compiled functions."""
    return pathlib.Path(pooch.os_cache("r2l_jax"))


# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_memory(any_thread: bool = False) -> None:
    """Keeps freed memory in this process for its next arrays. Has an effect only on Linux with glibc.

    By default, malloc maps fresh pages for every array above 32 MiB and returns them when the array is freed. Each page
    costs a page fault when it is first written: 0.3 s per GiB, which on a CPU is a quarter of a training step. A heap
    that never shrinks pays for its pages once, and the process stays at its peak size.

    Only the heap of the main thread can keep large arrays: the heaps of other threads consist of pieces of 64 MiB, and
    anything larger is mapped anew. On CPUs, JAX therefore computes in the thread that calls it, and returns when the
    result is there.

    Must be called before anything else uses JAX.

    Args:
        any_thread: whether threads besides the main one compute. Then all threads share one heap, and wait for each
            other whenever they allocate: XLA, which compiles in several threads, takes 1.4 times as long.
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
    """Gives JAX a second thread on a machine, or in a container, of one core.

    A function that calls out of JAX waits there for its arrays, which the same thread should bring: without another
    one, it waits forever (https://github.com/jax-ml/jax/issues/24255). XLA reads the number of its threads from NPROC
    when JAX is first used; later, this has no effect.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == 1:
        os.environ.setdefault("NPROC", "2")


def prepare(host_timeout: float | None = None, multi_host: bool = False, any_thread: bool = False) -> None:
    """Keeps memory and compiled functions, and joins other hosts if the environment names a coordinator.

    Must be called before anything else uses JAX. Compiled functions are stored in JAX_COMPILATION_CACHE_DIR, or in the
    user's cache folder. Several hosts meet at JAX_COORDINATOR_ADDRESS (host:port of the first one), each with its own
    JAX_PROCESS_ID out of JAX_NUM_PROCESSES.

    Args:
        host_timeout: see `hosts.meet`.
        multi_host: whether Slurm, Open MPI or Kubernetes supplies the variables that are not set.
        any_thread: see `keep_memory`.

    Raises:
        InputError: a variable has no valid value, or no cluster tells where the hosts meet.
    """
    keep_memory(any_thread)
    let_callbacks_read()
    # Hashed now, before anybody edits the source files that this process has imported.
    store.source_hash()
    compilation_cache.keep(cache_dir() / "compiled")
    meet(host_timeout, multi_host)


def exit_status(
    main: Callable[[], int | None],
    argv: Sequence[str],
    host_timeout: float | None = None,
    multi_host: bool = False,
    any_thread: bool = False,
) -> int:
    """Prepares and calls `main()`, and returns the program's exit status.

    An InputError, a stray argument, or a file that the system refuses to read or write becomes one line on stderr. Any
    other exception is raised. Among several hosts, an error of this one alone ends the process at once.

    Args:
        main: the program; it returns an exit status, or None for 0.
        argv: the program's path and its arguments other than flags.
        host_timeout: see `prepare`.
        multi_host: see `prepare`.
        any_thread: see `keep_memory`.

    Returns:
        The status that `main` returns, 1 after an error, or 130 after an interruption.
    """
    program = pathlib.Path(argv[0]).name
    try:
        with cleaning_up(), _failing_threads_end(program):
            if stray := list(argv[1:]):
                raise InputError(
                    f"unexpected arguments {stray}; every option has the form --name=value, quoted if it has spaces"
                )
            prepare(host_timeout, multi_host, any_thread)
            return main() or 0
    except Interrupted as stop:
        print(f"{program}: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        end()
    except Exception as error:
        called = of_callback(error) if isinstance(error, jax.errors.JaxRuntimeError) else None
        if called is not None:
            print(f"{program}: error: {in_words(called)}", file=sys.stderr)
            # JAX would print the error once more, in many lines.
            _end_at_once()
        if _is_for_the_user(error):
            print(f"{program}: error: {in_words(error)}", file=sys.stderr)
        elif jax.distributed.is_initialized():
            traceback.print_exc()
        else:
            raise
        if not isinstance(error, SharedError):
            _leave_hosts()
        if isinstance(error, OSError) and _is_full(error):
            _end_at_once()
        return 1


def _is_for_the_user(error: Exception) -> bool:
    """Returns whether the user can fix an error, so that its message is enough without a traceback."""
    if isinstance(error, OSError):
        return error.errno is not None and (error.filename is not None or _is_full(error))
    return isinstance(error, InputError)


def _leave_hosts() -> None:
    """Ends a process that has reported an error, if it has joined others: otherwise, they would wait for each other."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(2)  # The others may be about to report the same error, and JAX ends them with this process.
        os._exit(1)


def _end_at_once() -> None:
    """Ends a process that has reported an error which libraries would report once more, in many lines."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(1)


def _is_full(error: OSError) -> bool:
    """Returns whether the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def _failing_threads_end(program: str) -> Iterator[None]:
    """Ends the process with one line if a background thread cannot write, such as TensorBoard's on a full disk.

    Otherwise, the program would wait for that thread forever. Nothing is lost, whenever the process ends.
    """
    earlier = threading.excepthook

    def end(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            earlier(failed)
            return
        package = type(failed.thread).__module__.split(".")[0]
        os.write(2, f"\n{program}: error: {package}: {in_words(failed.exc_value)}\n".encode())
        os._exit(1)

    threading.excepthook = end
    try:
        yield
    finally:
        threading.excepthook = earlier
