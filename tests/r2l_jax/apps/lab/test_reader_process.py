import os
import pathlib
import time

import numpy as np
import pytest

import isp
from r2l_jax.apps.lab.reader_process import MEMORY, ReaderProcess
from r2l_jax.apps.lab.sources import read_file
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def reader():
    reader = ReaderProcess()
    yield reader
    reader.close()


def test_files_are_read_as_in_this_process(reader, tmp_path):
    file, camera = tmp_path / "frame.npy", KnownCamera.of(isp.CAMERAS["drone"])
    np.save(file, np.random.default_rng(0).random((8, 12), np.float32))
    raw, own, warnings = reader.call(read_file, file, camera)
    np.testing.assert_array_equal(raw, np.load(file))
    assert (own, warnings) == (isp.CAMERAS["drone"], [])
    with pytest.raises(InputError, match=r"none\.npy"):
        reader.call(read_file, pathlib.Path("none.npy"), camera)


def test_a_crash_is_an_error_and_the_next_call_works(reader):
    with pytest.raises(InputError, match="reading it ended the reader's process"):
        reader.call(os._exit, 1)
    assert reader.call(len, "abc") == 3


def test_memory_is_limited(reader):
    with pytest.raises(MemoryError):
        reader.call(bytes, MEMORY)
    assert reader.call(len, "abc") == 3


def test_a_call_that_takes_too_long_is_ended():
    hurried = ReaderProcess(seconds=0.2)
    with pytest.raises(InputError, match=r"longer than 0\.2 s"):
        hurried.call(time.sleep, 30)
    hurried.close()
