"""TensorBoard's events."""

import contextlib
import functools
import pathlib
import socket
import time
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]  # made at import
from tensorboardX.record_writer import RecordWriter

from r2l_jax.results.files import EVENTS, naming


class Events(contextlib.AbstractContextManager):
    """Writes the events of a folder, where TensorBoard then ignores earlier ones from `first_step` on.

    tensorboardX's SummaryWriter leaves this to a thread. On a full disk the thread ends with a traceback, and its queue
    is never emptied again. Here, whoever adds an event gets the error.
    """

    def __init__(self, folder: pathlib.Path, first_step: int = 0, suffix: str = ""):
        self._naming = functools.partial(naming, folder / EVENTS)
        with self._naming():
            folder.mkdir(parents=True, exist_ok=True)
            name = EVENTS.replace("*", f"{int(time.time())}.{socket.gethostname()}{suffix}")
            self._file = RecordWriter(str(folder / name))
        self._write(Event(step=first_step, file_version="brain.Event:2", wall_time=time.time()))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def __exit__(self, *exception) -> None:
        with self._naming():
            self._file.close()

    def add(self, summary: Any, step: int) -> None:
        """Writes a summary, which a function of `tensorboardX.summary` makes."""
        self._write(Event(summary=summary, step=step, wall_time=time.time()))

    def flush(self) -> None:
        """Writes what has been added to the disk."""
        with self._naming():
            self._file.flush()

    def _write(self, event: Event) -> None:
        with self._naming():
            self._file.write(event.SerializeToString())
