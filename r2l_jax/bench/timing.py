"""Takes times fairly: in turns, since a machine's speed drifts, and each side in a process of its own."""

import concurrent.futures
import contextlib
import multiprocessing
import signal
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# Prepared work, which is what is timed.
Call = Callable[[], Any]

# A row is repeated for this many seconds, within these numbers; for fewer if one round of all sides is a slow one.
SECONDS = 10.0
FEWEST, MOST = 7, 50
SLOW_SECONDS, FEWEST_SLOW = 3.0, 3

# Threads of a library that has just run go on spinning for a while. The next one shall not share the cores with them.
REST_SECONDS = 0.02

# Each turn goes on for this long, and its last call counts. Threads that wake from a longer rest are for a while on one
# core together, which doubles the time of what takes less than that.
TURN_SECONDS = 0.3


def alternate(stopwatches: Mapping[str, Callable[[], float]], repeats: int | None) -> dict[str, list[float]]:
    """Takes times in turns; each one's first does not count.

    Args:
        stopwatches: functions that take milliseconds and say how many, by name.
        repeats: rounds; None for as many as fit.

    Returns:
        Milliseconds by name.
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
    """The time of the last of the calls that fit into a turn."""
    started = time.perf_counter()
    while True:
        begun = time.perf_counter()
        jax.block_until_ready(call())
        ended = time.perf_counter()
        if ended - started >= turn_seconds:
            return 1e3 * (ended - begun)


class BaselineError(Exception):
    """Why there is no time of a baseline, in a few words."""


class Elsewhere:
    """A piece of work that is prepared and timed in a fresh process."""

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
        """Does the work for a turn, and returns the time that its last call took.

        Raises:
            BaselineError: it failed, or something that it needs is not installed.
        """
        try:
            # One that failed before it was asked has said so, and reads no more.
            with contextlib.suppress(ConnectionError):
                self._connection.send(TURN_SECONDS)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            answer = f"the baseline's process ended with {self._process.exitcode}"
        if isinstance(answer, str):
            raise BaselineError(answer)
        return answer


def _serve(connection, prepare, inputs):
    """Answers with milliseconds, or with what went wrong, after which there is nothing more to ask."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word; the program has its own.
    try:
        call = prepare(*inputs)
        while True:
            connection.send(milliseconds(call, connection.recv()))
    except ModuleNotFoundError as missing:
        connection.send(f"{missing.name} is not installed")
    except Exception as failure:  # whatever the libraries may raise
        # The note of a table's row has no room for more.
        connection.send(textwrap.shorten(f"the baseline failed: {type(failure).__name__}: {failure}", 120))


def _enough(rounds: int, seconds: float) -> bool:
    fewest = FEWEST_SLOW if seconds > SLOW_SECONDS * rounds else FEWEST
    return rounds >= MOST or (rounds >= fewest and seconds >= SECONDS)


def in_fresh_process(function: Callable, *arguments) -> Any:
    """Calls a module-level function in a process that has done nothing else, and returns its result."""
    context = multiprocessing.get_context("spawn")
    # Ctrl-C ends it without a word; the program has its own.
    at_start = signal.signal, (signal.SIGINT, signal.SIG_DFL)
    with concurrent.futures.ProcessPoolExecutor(1, context, *at_start) as pool:
        return pool.submit(function, *arguments).result()
