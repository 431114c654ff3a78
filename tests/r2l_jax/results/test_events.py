import contextlib
import resource

import numpy as np
import pytest
from tensorboardX import summary

from r2l_jax.results.events import Events


@contextlib.contextmanager
def small_files():
    """Limits the size of all files that this process writes, with the error of a full disk but for its reason."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_events_that_cannot_be_written_are_an_error_of_each_and_nobody_waits(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    image = summary.image("noise", noise, dataformats="HWC")
    events = Events(tmp_path)
    with small_files():
        for step in range(20):
            with pytest.raises(OSError, match=f"File too large: '{tmp_path}/events.out.tfevents"):
                events.add(image, step)
        with pytest.raises(OSError, match="File too large"):
            events.__exit__(None, None, None)
