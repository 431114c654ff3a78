"""Ends a program when the user or the scheduler asks for it: a run stops between two steps, everything else at once."""

import contextlib
import multiprocessing
import multiprocessing.util
import os
import pathlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Ctrl-C sends the first, and schedulers send the second.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_IMPORT = "<frozen importlib._bootstrap>"


def end() -> NoReturn:
    """Ends this process at once, with one line of output and exit status 130.

    Python's ordinary exit would tear XLA down while other threads still compile, and crash.
    """
    with contextlib.suppress(Exception):  # The reader of the output may be gone, or a signal has come while printing.
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        for child in multiprocessing.active_children():
            child.kill()
        # As Python's exit does, this removes the semaphores shared with the children; else their tracker would warn.
        multiprocessing.util._run_finalizers(0)  # pyright: ignore[reportAttributeAccessIssue]  # No public one does it.
    with contextlib.suppress(OSError):
        line = f"{pathlib.Path(sys.argv[0]).name}: interrupted\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
    os._exit(130)


@contextlib.contextmanager
def while_output_is_read() -> Iterator[None]:
    """Ends the program quietly if the reader of its output, such as `head`, has seen enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python will flush the output once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def end_on_signals() -> None:
    """Lets SIGINT and SIGTERM end this process at once; while it starts or exits, there is nothing to clean up."""
    _handle(lambda number, frame: end())


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Lets SIGINT and SIGTERM raise a KeyboardInterrupt in the block, so that unfinished work is cleaned up.

    During an import they end the process at once: extension modules crash when an exception breaks off their start.
    """

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename == _IMPORT:
                end()
            frame = frame.f_back
        raise KeyboardInterrupt

    def end_if_ignored(unraisable: Any) -> None:
        # Python ignores an exception in a callback of the garbage collector.
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            end()
        hook(unraisable)

    hook, earlier = sys.unraisablehook, _handle(interrupt)
    sys.unraisablehook = end_if_ignored
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, types.FrameType | None], None]) -> dict[int, Any]:
    """Sets the handler of both signals, and returns the earlier ones."""
    # Python lets only the main thread set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}


class Interrupted(Exception):  # noqa: N818 -- not an error
    """Raised when a run stops because it was asked to."""


class StopSignals:
    """A context in which the first SIGINT or SIGTERM asks the run to stop, and a second one interrupts it at once."""

    def __init__(self):
        self._requested = False
        self._earlier = {}

    def __enter__(self) -> "StopSignals":
        self._earlier = _handle(self._request)
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def after_step(self) -> bool:
        """Returns whether to stop a single process; several processes stop only where they agree (see `agreed`)."""
        # Imported here, since the help of programs that use this module is printed without JAX.
        import jax

        return self._requested and jax.process_count() == 1

    def agreed(self) -> bool:
        """Returns whether to stop: the same answer in all processes, which must all call this method."""
        from r2l_jax.runtime.hosts import any_process

        return any_process(self._requested)

    def _request(self, number: int, frame: object) -> None:
        self._requested = True
        self._restore()
        print("\nstopping after this step; interrupt again to stop at once", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}
