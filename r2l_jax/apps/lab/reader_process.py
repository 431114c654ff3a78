"""The process that reads uploads: it may crash, hang or run out of memory without harm to the page."""

import concurrent.futures
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any, TypeVar

from r2l_jax.runtime.errors import InputError

Result = TypeVar("Result")

# The address space of the process in bytes. A compressed file of a few MiB may declare a picture larger than this.
MEMORY = 8 * 2**30


class ReaderProcess:
    """Calls functions one after another in a process that is started anew after a crash, from any thread.

    A call may take at most the given number of seconds.
    """

    def __init__(self, seconds: float = 60.0):
        self._seconds, self._lock = seconds, threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        """Starts the process, which takes seconds, without waiting for it."""
        with self._lock:
            self._started().submit(len, "")

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function that can be pickled, as its arguments and its result can.

        Raises:
            InputError: the process has ended, or the call takes too long.
            Exception: anything that the function raises.
        """
        with self._lock:
            try:
                return self._started().submit(function, *arguments).result(self._seconds)
            except BrokenProcessPool:
                self._stop()
                raise InputError("reading it ended the reader's process") from None
            except concurrent.futures.TimeoutError:
                self._stop()
                raise InputError(f"it takes longer than {self._seconds:g} s to read") from None

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._stop()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked: a fork would have the locks of JAX's threads, but not the threads.
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_limit)
        return self._pool

    def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


def _limit() -> None:
    # Ctrl-C reaches all processes of a terminal; the page ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
