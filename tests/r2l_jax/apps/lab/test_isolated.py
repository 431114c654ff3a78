import os
import pathlib
import time

import numpy as np
import pytest

import isp
from r2l_jax.apps.lab.isolated import MEMORY, Isolated
from r2l_jax.apps.lab.sources import read_file
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def isolated():
    isolated = Isolated()
    yield isolated
    isolated.close()


def test_files_are_read_as_in_this_process(isolated, tmp_path):
    file, camera = tmp_path / "frame.npy", KnownCamera.of(isp.CAMERAS["drone"])
    np.save(file, np.random.default_rng(0).random((8, 12), np.float32))
    raw, own, warnings = isolated.call(read_file, file, camera)
    np.testing.assert_array_equal(raw, np.load(file))
    assert (own, warnings) == (isp.CAMERAS["drone"], [])
    with pytest.raises(InputError, match=r"none\.npy"):
        isolated.call(read_file, pathlib.Path("none.npy"), camera)


def test_a_crash_is_an_error_and_the_next_call_works(isolated):
    with pytest.raises(InputError, match="it ended the process"):
        isolated.call(os._exit, 1)
    assert isolated.call(len, "abc") == 3


def test_memory_is_limited(isolated):
    with pytest.raises(MemoryError):
        isolated.call(bytes, MEMORY)
    assert isolated.call(len, "abc") == 3


def test_a_call_that_takes_too_long_is_ended():
    hurried = Isolated(seconds=0.2)
    with pytest.raises(InputError, match=r"longer than 0\.2 s"):
        hurried.call(time.sleep, 30)
    hurried.close()
