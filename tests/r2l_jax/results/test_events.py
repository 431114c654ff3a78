import resource

import numpy as np
import pytest
from tensorboardX import summary

from r2l_jax.results.events import Events


@pytest.fixture
def small_files():
    """Limits the size of files, with the error of a full disk but for its reason."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_events_that_cannot_be_written_are_an_error_of_each_and_nobody_waits(tmp_path, small_files):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    image = summary.image("noise", noise, dataformats="HWC")
    with pytest.raises(OSError, match="File too large"), Events(tmp_path) as events:
        events.add(image, 0)
        for step in range(1, 20):
            with pytest.raises(OSError, match=f"{tmp_path}/events.out.tfevents"):
                events.add(image, step)
