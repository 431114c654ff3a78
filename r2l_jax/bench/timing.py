"""Times pieces of work in turns, because the speed of a machine drifts, and each side in its own process."""

import contextlib
import multiprocessing
import signal
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np

# A prepared piece of work to time.
Call = Callable[[], Any]


# The wall time of a call, and its CPU time summed over all cores, in ms.
Times = tuple[float, float]

# A row is repeated for this many seconds, but at least FEWEST and at most MOST times.
SECONDS = 10.0
FEWEST, MOST = 3, 50

# After a call, a library's threads spin for a while, so the next library waits until the cores are free.
REST_SECONDS = 0.02

# A turn repeats its call for this long, and only the last call counts. Threads that wake from a longer rest share one
# core at first, which doubles the time of short calls.
TURN_SECONDS = 0.3


def alternate(stopwatches: Mapping[str, Callable[[], Any]], repeats: int | None) -> dict[str, list[Any]]:
    """Reads stopwatches in turns: one round that does not count, then `repeats` rounds, or as many as fit."""
    for stopwatch in stopwatches.values():
        stopwatch()
    samples = {name: [] for name in stopwatches}
    ends = time.perf_counter() + SECONDS
    for done in range(repeats or MOST):
        if not repeats and done >= FEWEST and time.perf_counter() >= ends:
            break
        for name, stopwatch in stopwatches.items():
            time.sleep(REST_SECONDS)
            samples[name].append(stopwatch())
    return samples


def milliseconds(call: Call) -> Times:
    """Repeats a call for the seconds of a turn, and returns the time and the CPU time of the last call."""
    started = time.perf_counter()
    while True:
        begun, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        ended, last = time.perf_counter(), time.process_time() - used
        if ended - started >= TURN_SECONDS:
            return 1e3 * (ended - begun), 1e3 * last


class BaselineError(Exception):
    """Raised when a baseline could not be timed; the message is a short reason."""


@contextlib.contextmanager
def elsewhere(prepare: Callable[..., Call], inputs: tuple[np.ndarray, ...]) -> Iterator[Callable[[], Times]]:
    """Prepares a piece of work with NumPy arrays in a fresh process, and yields a stopwatch that times it there.

    The stopwatch raises a BaselineError if the work failed, or a library that it needs is not installed.
    """
    # Ctrl-C ends the process without output; the main process reports the interruption.
    on_interrupt = signal.signal, (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), *on_interrupt) as process:
        prepared = process.submit(_prepare, prepare, inputs)

        def stopwatch() -> Times:
            try:
                prepared.result()
                return process.submit(_time_prepared).result()
            except ModuleNotFoundError as missing:
                raise BaselineError(f"{missing.name} is not installed") from None
            except Exception as failure:  # The libraries may raise anything.
                note = f"the baseline failed: {type(failure).__name__}: {failure}"
                raise BaselineError(textwrap.shorten(note, 120)) from None

        yield stopwatch


# In the process of `elsewhere`, the call that it has prepared.
_prepared: list[Call] = []


def _prepare(prepare: Callable[..., Call], inputs: tuple[np.ndarray, ...]) -> None:
    _prepared[:] = [prepare(*inputs)]


def _time_prepared() -> Times:
    return milliseconds(_prepared[0])
