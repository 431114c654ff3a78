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
from r2l_jax.runtime.errors import InputError, in_words
from r2l_jax.runtime.hosts import SharedError
from r2l_jax.runtime.meeting import meet
from r2l_jax.runtime.stop import Interrupted, cleaning_up, end
from r2l_jax.runtime.watch import TIMEOUT, Watch


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


def prepare(
    program: str = "", host_timeout: float = TIMEOUT, multi_host: bool = False, any_thread: bool = False
) -> Watch | None:
    """Keeps memory and compiled functions, and joins other hosts if the environment names a coordinator.

    Must be called before anything else uses JAX. Compiled functions are stored in JAX_COMPILATION_CACHE_DIR, or in the
    user's cache folder. Several hosts meet at JAX_COORDINATOR_ADDRESS (host:port of the first one), each with its own
    JAX_PROCESS_ID out of JAX_NUM_PROCESSES.

    Args:
        program: the program's name, for the message with which it ends if another host does.
        host_timeout: seconds after which a host that does not answer counts as ended.
        multi_host: whether Slurm, Open MPI or Kubernetes tells what those variables do not.
        any_thread: see `keep_memory`.

    Returns:
        The watch over the other hosts; None without any.

    Raises:
        InputError: a variable has no valid value, or no cluster tells where the hosts meet.
    """
    keep_memory(any_thread)
    # Hashed now, before anybody edits the source files that this process has imported.
    store.source_hash()
    compilation_cache.keep(cache_dir() / "compiled")
    return meet(program, host_timeout, multi_host)


def exit_status(
    main: Callable[[], int | None],
    argv: Sequence[str],
    host_timeout: float = TIMEOUT,
    multi_host: bool = False,
    any_thread: bool = False,
) -> int:
    """Prepares and calls `main()`, and returns the program's exit status.

    An InputError, a stray argument, or a file that the system refuses to read or write becomes one line on stderr. Any
    other exception is raised.

    Args:
        main: the program; it returns an exit status, or None for 0.
        argv: the program's path and its arguments other than flags.
        host_timeout: see `prepare`.
        multi_host: see `prepare`.
        any_thread: see `keep_memory`.

    Returns:
        The status that `main` returns, 1 after an error, or 130 after an interruption.
    """
    program, watch = pathlib.Path(argv[0]).name, None
    try:
        with cleaning_up(), _failing_threads_end(program):
            if stray := list(argv[1:]):
                raise InputError(f"unexpected arguments {stray}; every option has the form --name=value")
            watch = prepare(program, host_timeout, multi_host, any_thread)
            return main() or 0
    except (InputError, OSError) as error:
        # Without a file, only a full disk is for the user to mend; other errors need their traceback.
        if isinstance(error, OSError) and (error.errno is None or error.filename is None) and not _is_full(error):
            raise
        print(f"{program}: error: {in_words(error)}", file=sys.stderr)
        if watch is not None and not isinstance(error, SharedError):
            watch.give_up(seconds=2)
        return 1
    except Interrupted as stop:
        print(f"{program}: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        end()
    except Exception:
        if watch is not None:
            # A host that ends breaks off what the others compute with it, just before the watch notices and reports it.
            time.sleep(3)
            traceback.print_exc()
            watch.give_up(seconds=0)
        raise


def _is_full(error: OSError) -> bool:
    """Returns whether the disk, or what the user may write to it, is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def _failing_threads_end(program: str) -> Iterator[None]:
    """Ends the process in one line if a background thread cannot write, such as TensorBoard's on a full disk.

    The program would wait for that thread forever. A process that ends at any moment loses nothing.
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
