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

from r2l_jax.errors import InputError, in_words, naming_flags, of_callback, spelled

# Ctrl-C sends the first, and schedulers send the second.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Interrupted(KeyboardInterrupt):
    """Raised when work stops on request."""

    def __str__(self) -> str:
        return spelled(super().__str__())


_asked = threading.Event()


def requested() -> bool:
    """Returns whether, within `after_step`, a signal has requested a stop after the step."""
    return _asked.is_set()


@contextlib.contextmanager
def after_step() -> Iterator[None]:
    """Makes a first SIGINT or SIGTERM request a stop after the step, see `requested`; a second acts as outside.

    Python reacts to a signal as soon as XLA has compiled, if it is compiling.
    """
    earlier = {}

    def ask(number: int, frame: object) -> None:
        restore()
        _asked.set()
        print("\nstopping after this step; interrupt again to stop at once", file=sys.stderr, flush=True)

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    try:
        # Python lets only the main thread set signal handlers.
        if threading.current_thread() is threading.main_thread():
            earlier |= {number: signal.getsignal(number) for number in _SIGNALS}
            for number in _SIGNALS:
                signal.signal(number, ask)
        yield
    finally:
        restore()
        _asked.clear()


def end_on_signals() -> None:
    """Lets the system end this process at SIGINT and SIGTERM, except in `after_step`; programs resume from any point.

    Python's own KeyboardInterrupt could break the import of an extension module, and waits until XLA has compiled.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@naming_flags()
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
    except KeyboardInterrupt as stop:
        _say(str(stop) or "interrupted")
        return 130
    except BrokenPipeError:
        # Python flushes again as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        called = of_callback(error)
        # Without importing JAX, which takes half a second.
        alone = "jax" not in sys.modules or not sys.modules["jax"].distributed.is_initialized()
        if called or is_for_the_user(error):
            _say(f"error: {in_words(called or error)}")
        elif alone:
            raise
        else:
            traceback.print_exc()
        if not alone:
            time.sleep(2)  # Other processes may be about to report the same error, and JAX ends them with this one.
            # As it exits, JAX would wait for them for five minutes.
            os._exit(1)
        return 1
    finally:
        threading.excepthook = hook


def is_for_the_user(error: Exception) -> bool:
    """Returns whether an error's message is enough: an InputError, or an OSError about a file or a full disk."""
    if isinstance(error, OSError):
        return error.errno is not None and (error.filename is not None or error.errno in _FULL)
    return isinstance(error, InputError)


def _end_by_thread(failed: threading.ExceptHookArgs) -> None:
    """Ends the process if a thread cannot write, as TensorBoard's on a full disk, which others would wait for."""
    if isinstance(failed.exc_value, OSError):
        _say(f"error: {type(failed.thread).__module__.split('.')[0]}: {in_words(failed.exc_value)}")
        os._exit(1)
    threading.__excepthook__(failed)


def _say(line: str) -> None:
    with naming_flags():
        print(f"{pathlib.Path(sys.argv[0]).name}: {spelled(line)}", file=sys.stderr)
