import os
import signal
import subprocess
import sys

import pytest

from r2l_jax.errors import InputError
from r2l_jax.results.locks import writing_to

HOLD = """
import pathlib, sys, time
from r2l_jax.results.locks import writing_to
with writing_to(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def refusal(*place):
    """The error of a second writer."""
    with pytest.raises(InputError) as refused, writing_to(*place):
        pass
    return str(refused.value)


def test_a_folder_those_within_it_and_files_have_locks_of_their_own(tmp_path):
    with writing_to(tmp_path, "a.csv"), writing_to(tmp_path, "b.csv"), writing_to(tmp_path):
        with writing_to(tmp_path / "inner"):
            assert refusal(tmp_path / "inner") == f"{tmp_path}/inner: another program is writing to this folder"
        assert refusal(tmp_path, "b.csv") == f"{tmp_path}/b.csv: another program is writing to this file"
    assert [*tmp_path.iterdir()] == [tmp_path / "inner"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        assert refusal(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with writing_to(tmp_path):
        pass


def test_what_a_killed_program_left_is_removed_at_the_start_or_at_the_end(tmp_path):
    old, young = tmp_path / ".a.csv.1.part", tmp_path / ".a.csv.2.part"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    with writing_to(tmp_path):
        assert [old.exists(), young.exists()] == [False, True]
        os.utime(young, (0, 0))  # A minute passes.
    assert [*tmp_path.iterdir()] == []
