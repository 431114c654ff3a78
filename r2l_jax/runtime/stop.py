"""Stops a run between two steps when the user or the scheduler asks for it."""

import signal
import sys
import threading


class Interrupted(Exception):  # noqa: N818 -- not an error
    """Raised when a run stops because it was asked to."""


class StopSignals:
    """A context in which the first SIGINT or SIGTERM asks the run to stop, and a second one interrupts it at once."""

    def __init__(self):
        self._requested = False
        self._earlier = {}

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread set signal handlers.
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
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
