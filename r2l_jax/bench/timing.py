"""Times pieces of work in turns, because the speed of a machine drifts, and each side in its own process."""

import concurrent.futures
import contextlib
import multiprocessing
import signal
import textwrap
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

# A prepared piece of work to time.
Call = Callable[[], Any]

# A row is repeated for this many seconds, but at least FEWEST and at most MOST times. If a round of all sides takes
# longer than SLOW_SECONDS, FEWEST_SLOW repetitions are enough.
SECONDS = 10.0
FEWEST, MOST = 7, 50
SLOW_SECONDS, FEWEST_SLOW = 3.0, 3

# After a call, a library's threads spin for a while. The next library waits until they no longer use the cores.
REST_SECONDS = 0.02

# A turn repeats its call for this long, and only the last call counts. Threads that wake from a longer rest share one
# core at first, which doubles the time of short calls.
TURN_SECONDS = 0.3


def alternate(stopwatches: Mapping[str, Callable[[], float]], repeats: int | None) -> dict[str, list[float]]:
    """Reads stopwatches in turns, after a first reading of each that does not count.

    Args:
        stopwatches: by name, functions that do a piece of work and return its milliseconds.
        repeats: the number of rounds; None takes as many as fit.
    """
    for stopwatch in stopwatches.values():
        stopwatch()
    samples = {name: [] for name in stopwatches}
    started = time.perf_counter()
    rounds = 0
    while rounds < repeats if repeats else not _enough(rounds, time.perf_counter() - started):
        for name, stopwatch in stopwatches.items():
            time.sleep(REST_SECONDS)
            samples[name].append(stopwatch())
        rounds += 1
    return samples


def milliseconds(call: Call, turn_seconds: float) -> float:
    """Repeats a call for the seconds of a turn, and returns the time of the last call."""
    started = time.perf_counter()
    while True:
        begun = time.perf_counter()
        jax.block_until_ready(call())
        ended = time.perf_counter()
        if ended - started >= turn_seconds:
            return 1e3 * (ended - begun)


class BaselineError(Exception):
    """Raised when a baseline could not be timed; the message says why in a few words."""


class Elsewhere:
    """Prepares a piece of work with NumPy arrays in a fresh process, and times it there."""

    def __init__(self, prepare: Callable[..., Call], inputs: tuple[np.ndarray, ...]):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare, inputs), daemon=True)

    def __enter__(self) -> "Elsewhere":
        self._process.start()
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.join()

    def milliseconds(self) -> float:
        """Repeats the work for a turn, and returns the time of the last call.

        Raises:
            BaselineError: the work failed, or a library that it needs is not installed.
        """
        try:
            # A process that has failed has already sent its answer, and does not read the question.
            with contextlib.suppress(ConnectionError):
                self._connection.send(TURN_SECONDS)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            answer = f"the baseline's process ended with {self._process.exitcode}"
        if isinstance(answer, str):
            raise BaselineError(answer)
        return answer


def _serve(connection: Connection, prepare: Callable[..., Call], inputs: tuple[np.ndarray, ...]) -> None:
    """Answers each question with milliseconds, or with a description of the error that ended the work."""
    _end_silently_on_interrupt()
    try:
        call = prepare(*inputs)
        while True:
            connection.send(milliseconds(call, connection.recv()))
    except ModuleNotFoundError as missing:
        connection.send(f"{missing.name} is not installed")
    except Exception as failure:  # The libraries may raise anything.
        # Shortened to fit in the notes of the table.
        connection.send(textwrap.shorten(f"the baseline failed: {type(failure).__name__}: {failure}", 120))


def _enough(rounds: int, seconds: float) -> bool:
    fewest = FEWEST_SLOW if seconds > SLOW_SECONDS * rounds else FEWEST
    return rounds >= MOST or (rounds >= fewest and seconds >= SECONDS)


def in_fresh_process(function: Callable, *arguments) -> Any:
    """Calls a module-level function in a process that has done nothing else, and returns its result."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _end_silently_on_interrupt) as pool:
        return pool.submit(function, *arguments).result()


def _end_silently_on_interrupt() -> None:
    """Makes Ctrl-C end this process without output; the main process reports the interruption."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
