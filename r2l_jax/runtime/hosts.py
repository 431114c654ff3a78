"""Work that one process does while the processes of the other hosts wait."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from r2l_jax.runtime.errors import InputError

_MESSAGE_BYTES = 4096


def refuse_several_processes() -> None:
    """Raises an InputError if there are several processes, for work that cannot be shared among them."""
    if jax.process_count() > 1:
        raise InputError(f"this runs on the devices of one process, got {jax.process_count()} processes")


def on_first_process(work: Callable[[], object]) -> None:
    """Calls `work` in the first process while the others wait; all processes must call this function together.

    Raises:
        InputError: the work raised it. Every process raises it, so that none waits forever for a process that ended.
    """
    message = ""
    if jax.process_index() == 0:
        try:
            work()
        except InputError as error:
            message = str(error)
    line = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = np.frombuffer(message.encode()[:_MESSAGE_BYTES], np.uint8)
    line[: len(encoded)] = encoded
    line = np.asarray(multihost_utils.broadcast_one_to_all(line), np.uint8)
    if message := line.tobytes().rstrip(b"\0").decode(errors="replace"):
        raise InputError(message)
