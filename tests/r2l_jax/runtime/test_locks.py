import datetime
import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.locks import writing_to

HOLD = """
import pathlib, sys, time
from r2l_jax.runtime.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def refusal(*place):
    """The error of a second writer."""
    with pytest.raises(InputError) as refused, writing_to(*place):
        pass
    return str(refused.value)


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    with writing_to(tmp_path / "run"):
        message = refusal(tmp_path / "run")
    holder = f"process {os.getpid()} on {platform.node()}"
    assert message.startswith(f"{tmp_path}/run: another program is writing to this folder: {holder}")
    assert "\n" not in message
    since = datetime.datetime.fromisoformat(message.partition(", since ")[2])
    # Another host may have another time zone.
    assert since.utcoffset() == datetime.datetime.now().astimezone().utcoffset()


def test_folders_within_a_folder_have_locks_of_their_own(tmp_path):
    with writing_to(tmp_path), writing_to(tmp_path / "inner"):
        assert (tmp_path / "inner").is_dir()


def test_files_of_a_folder_have_locks_of_their_own(tmp_path):
    with writing_to(tmp_path, "a.csv"), writing_to(tmp_path, "b.csv"), writing_to(tmp_path):
        message = refusal(tmp_path, "b.csv")
    assert message.startswith(f"{tmp_path}/b.csv: another program is writing to this file: process ")
    assert not [*tmp_path.iterdir()]


def test_the_lock_ends_with_an_error(tmp_path):
    with pytest.raises(OSError, match="of the body"), writing_to(tmp_path):
        raise OSError("of the body")
    with writing_to(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        assert f": process {process.pid} on " in refusal(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert json.loads((tmp_path / ".lock_holder").read_text())["process"] == process.pid
    with writing_to(tmp_path):
        assert json.loads((tmp_path / ".lock_holder").read_text())["process"] == os.getpid()
    assert not (tmp_path / ".lock_holder").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "run") == f"{tmp_path}/file/run: not a folder to write to (Not a directory)"


def test_what_a_killed_program_left_half_written_is_removed(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    left, own = tmp_path / f".a.tiff.{ended.pid}.part", tmp_path / f".b.tiff.{os.getpid()}.part"
    for part in (left, own):
        part.touch()
    with writing_to(tmp_path):
        assert (left.exists(), own.exists()) == (False, True)
