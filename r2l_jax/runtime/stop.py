"""Ends programs: when the user or the scheduler requests it, or with a one-line error."""

import contextlib
import errno
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from r2l_jax.runtime.errors import InputError, in_words, of_callback

# Ctrl-C sends the first, and schedulers send the second.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Interrupted(BaseException):
    """Raised when a run stops on request."""


_asked = threading.Event()

# The number of signals to which `after_step` has reacted in the main thread.
_served = 0


def requested() -> bool:
    """Returns whether, within `after_step`, a signal has requested a stop after the step."""
    return _asked.is_set()


@contextlib.contextmanager
def after_step() -> Iterator[None]:
    """Makes a first SIGINT or SIGTERM request a stop after the step, see `requested`; a second ends the program."""

    def ask(number: int, frame: object) -> None:
        global _served
        _served += 1
        restore()
        _ask()

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    earlier: dict[int, Any] = {}  # A signal may arrive before all handlers are set.
    try:
        earlier |= _handle(ask)
        yield
    finally:
        restore()
        _asked.clear()


def _ask() -> None:
    if not _asked.is_set():
        _asked.set()
        print("\nstopping after this step; interrupt again to stop at once", file=sys.stderr, flush=True)


def _handle(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    # Python lets only the main thread set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}


def end_on_signals() -> None:
    """Makes SIGINT and SIGTERM end this process at once, except in `after_step`; programs can resume from any point."""
    # No exception: it could interrupt the import of an extension module, or be raised where Python ignores it.
    _handle(_interrupt)
    if signal.getsignal(signal.SIGINT) is _interrupt:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # A forked process has no such thread, and would report its signals to this one.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _interrupt(number: int, frame: object) -> None:
    _end(130, "interrupted")


def _watch(reader: int) -> None:
    """Reacts to signals where the main thread cannot: Python calls handlers only after XLA has compiled, for minutes.

    `reader` yields the number of each signal as it arrives.
    """
    arrived = 0
    while number := os.read(reader, 1):
        handler = signal.getsignal(number[0])
        if getattr(handler, "__module__", None) != __name__:
            continue  # Of a server, which ends by itself.
        arrived += 1
        time.sleep(0.2)
        if arrived > _served:
            if handler is _interrupt or _asked.is_set():
                _end(130, "interrupted")
            _ask()


def exit_status(main: Callable[[], int | None]) -> int:
    """Calls a program and returns its exit status: from `main`, or 1 after an error, or 130 after an interruption.

    An InputError, or an OSError about a file, becomes one line on stderr; any other exception is raised. If the reader
    of the output, such as `head`, closes it, the program ends quietly.
    """
    hook, threading.excepthook = threading.excepthook, _end_by_thread
    try:
        try:
            return main() or 0
        finally:
            sys.stdout.flush()
    except Interrupted as stop:
        _say(str(stop))
        return 130
    except BrokenPipeError:
        _end(128 + signal.SIGPIPE)
    except Exception as error:
        # Without importing JAX, which takes half a second.
        called = of_callback(error)
        alone = "jax" not in sys.modules or not sys.modules["jax"].distributed.is_initialized()
        if called or is_for_the_user(error):
            _say(f"error: {in_words(called or error)}")
        elif alone:
            raise
        else:
            traceback.print_exc()
        if not alone:
            time.sleep(2)  # Other processes may be about to report the same error, and JAX ends them with this one.
        if called or not alone or getattr(error, "errno", None) in _FULL:
            # Libraries would report it again, in many lines, or wait for other processes.
            _end(1)
        return 1
    finally:
        threading.excepthook = hook


def is_for_the_user(error: Exception) -> bool:
    """Returns whether an error's message is enough: an InputError, or an OSError about a file or a full disk."""
    if isinstance(error, OSError):
        return error.errno is not None and (error.filename is not None or error.errno in _FULL)
    return isinstance(error, InputError)


def _end_by_thread(failed: threading.ExceptHookArgs) -> None:
    """Ends the process if a thread cannot write, as TensorBoard's on a full disk; others would wait forever."""
    if isinstance(failed.exc_value, OSError):
        package = type(failed.thread).__module__.split(".")[0]
        _end(1, f"error: {package}: {in_words(failed.exc_value)}")
    threading.__excepthook__(failed)


def _say(line: str) -> None:
    print(f"{pathlib.Path(sys.argv[0]).name}: {line}", file=sys.stderr)


def _end(status: int, line: str = "") -> NoReturn:
    """Ends this process at once. Python's ordinary exit would tear XLA down while other threads still compile."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # The reader may be gone, or a signal may have arrived while printing.
            stream.flush()
    if line:
        os.write(2, f"{pathlib.Path(sys.argv[0]).name}: {line}\n".encode())
    os._exit(status)
