import errno
import math
import os
import pathlib
import platform
import subprocess
import sys
import threading

import pytest

from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing, write_json
from r2l_jax.runtime.stop import Interrupted

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

PAGE_FAULTS = """
import resource, sys, threading
import jax, jax.numpy as jnp
from isp.filter import apart
from r2l_jax.runtime import startup

if sys.argv[1] != "given back":
    startup.keep_memory(any_thread=sys.argv[1] == "any thread")

@jax.jit
def total(x):
    # Between two units, the table of 64 MiB is among the temporaries.
    return apart(jnp.sum)(apart(jnp.add)(x[:, None], x))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(total(x))
    of_calls.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

x, of_calls = jnp.ones(2**12), []
for _ in range(8):
    if sys.argv[1] == "any thread":
        thread = threading.Thread(target=faults)
        thread.start()
        thread.join()
    else:
        faults()
# Now and then, a call begins before the memory of the one before it is free.
print(min(of_calls[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings that keep memory")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(),
    reason="this Linux always maps 2 MiB at a time, so 64 MiB cost 32 page faults with and without the settings",
)
@pytest.mark.parametrize(
    ("memory", "low", "high"),
    [
        pytest.param("given back", 2**26 // os.sysconf("SC_PAGE_SIZE"), math.inf, marks=pytest.mark.slow),
        ("main thread", 0, 100),
        pytest.param("any thread", 0, 100, marks=pytest.mark.slow),
    ],
)
def test_kept_memory_is_mapped_once(memory, low, high):
    command = [sys.executable, "-c", PAGE_FAULTS, memory]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert low <= faults < high


@pytest.fixture
def status(monkeypatch):
    """Returns a function that runs another function as a program and returns its exit status."""
    monkeypatch.setattr(startup, "prepare", lambda *arguments: None)
    # A full disk ends the process at once.
    monkeypatch.setattr(os, "_exit", lambda status: None)
    return lambda main, *arguments: startup.exit_status(main, ["scripts/program.py", *arguments])


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "expected", "line"),
    [
        (InputError("--lr must be positive"), 1, "error: --lr must be positive"),
        (Interrupted("stopped after 3 steps"), 130, "stopped after 3 steps"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "out/a.json"), 1, "error: out/a.json: Permission denied"),
    ],
)
def test_an_expected_error_is_one_line(status, capsys, error, expected, line):
    assert status(raising(error)) == expected
    assert capsys.readouterr() == ("", f"program.py: {line}\n")


def test_a_thread_that_cannot_write_ends_the_program_in_one_line(status, monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def main():
        thread = threading.Thread(target=raising(OSError(errno.ENOSPC, "No space left on device", "events")))
        thread.start()
        thread.join()

    before = threading.excepthook
    assert status(main) == 0  # It goes on only here, where `os._exit` does nothing.
    assert ended == [1]
    assert capfd.readouterr().err == "\nprogram.py: error: threading: events: No space left on device\n"
    assert threading.excepthook is before


def test_the_exit_status_is_the_value_that_the_program_returns(status, capsys):
    assert (status(lambda: None), status(lambda: 2)) == (0, 2)
    assert status(lambda: 0, "lr", "0.1") == 1
    message = "unexpected arguments ['lr', '0.1']; every option has the form --name=value, quoted if it has spaces"
    assert capsys.readouterr() == ("", f"program.py: error: {message}\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes do not fit"),
        OSError("a damaged file"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
)
def test_other_exceptions_keep_their_traceback(status, error):
    with pytest.raises(type(error)) as raised:
        status(raising(error))
    assert raised.value is error


def test_a_file_that_cannot_be_written_is_named_without_its_temporary_name(status, capsys, tmp_path):
    folder, file = tmp_path / "folder.json", tmp_path / "file"
    folder.mkdir()
    file.touch()

    def fill_the_disk():
        with replacing(tmp_path / "new.json"):
            # The system's error names no file.
            raise OSError(errno.ENOSPC, "No space left on device")

    for main, line in (
        (fill_the_disk, f"{tmp_path}/new.json: No space left on device"),
        (lambda: write_json(folder, {}), f"{folder}: Is a directory"),
        (lambda: write_json(file / "new.json", {}), f"{file}: File exists"),
    ):
        assert status(main) == 1
        assert capsys.readouterr() == ("", f"program.py: error: {line}\n")
    assert sorted(tmp_path.iterdir()) == [file, folder]


def test_a_read_only_file_system_is_reported_although_no_file_can_be_removed(status, capsys, tmp_path, monkeypatch):
    def refuse(path, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(pathlib.Path, "write_text", refuse)
    monkeypatch.setattr(pathlib.Path, "unlink", refuse)
    assert status(lambda: write_json(tmp_path / "new.json", {})) == 1
    assert capsys.readouterr() == ("", f"program.py: error: {tmp_path}/new.json: Read-only file system\n")
