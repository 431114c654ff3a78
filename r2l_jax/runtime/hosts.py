"""Several hosts: what one process does for all of them."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from r2l_jax.runtime.errors import InputError

_LONGEST = 4096  # bytes of a message


def refuse_several_processes() -> None:
    """Raises an InputError unless this is the only process, for work that is not shared among several."""
    if jax.process_count() > 1:
        raise InputError(f"this runs on the devices of one process, got {jax.process_count()} processes")


def on_first_process(work: Callable[[], object]) -> None:
    """Calls `work` in the first process while the others wait; all processes must call this at the same time.

    Raises:
        InputError: in every process, if the work raised it: a process left alone would wait for the others for ever.
    """
    message = ""
    if jax.process_index() == 0:
        try:
            work()
        except InputError as error:
            message = str(error)
    line = np.zeros(_LONGEST, np.uint8)
    encoded = np.frombuffer(message.encode()[:_LONGEST], np.uint8)
    line[: len(encoded)] = encoded
    line = np.asarray(multihost_utils.broadcast_one_to_all(line), np.uint8)
    if message := line.tobytes().rstrip(b"\0").decode(errors="replace"):
        raise InputError(message)
