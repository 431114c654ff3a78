"""Stopping a run between two steps when the user or the scheduler asks for it."""

import signal
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupted(Exception):  # noqa: N818 -- nothing went wrong
    """The run was asked to stop, and did."""


class StopSignals:
    """While entered, the first SIGINT or SIGTERM only asks to stop; a second one interrupts at once, as usual."""

    def __init__(self):
        self._requested = False
        self._earlier = {}

    def __enter__(self) -> "StopSignals":
        # Python delivers signals to the main thread, and lets no other thread set their handlers.
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def after_step(self) -> bool:
        """Whether to stop now, within an epoch: several processes stop at the end of one, where they agree."""
        return self._requested and jax.process_count() == 1

    def after_epoch(self) -> bool:
        """Whether to stop now; the same answer in all processes, if all ask."""
        return bool(multihost_utils.process_allgather(np.array(self._requested)).any())

    def _request(self, number: int, frame: object) -> None:
        self._requested = True
        self._restore()
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}
