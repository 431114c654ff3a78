"""Programs end when a signal comes, whatever they do, and in one line when an error is raised."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from r2l_jax.cli import stop
from r2l_jax.cli.stop import Interrupted
from r2l_jax.errors import InputError
from r2l_jax.results.files import replacing, write_json

ROOT = pathlib.Path(__file__).parents[3]

# The signal comes while a program works, when Python ignores exceptions, as it exits, or twice in one step.
AT_WORK = """
import atexit, gc, signal, sys
from r2l_jax.cli import stop

def strike(*arguments):
    signal.raise_signal(signal.SIGTERM)

def main():
    print("working")
    if sys.argv[1] == "collecting":
        gc.callbacks.append(strike)
        gc.collect()
    if sys.argv[1] == "working":
        strike()
    if sys.argv[1] == "stopping":
        with stop.after_step():
            strike()
            strike()

stop.end_on_signals()
if sys.argv[1] == "exiting":
    atexit.register(strike)
sys.exit(stop.exit_status(main))
"""


@pytest.mark.parametrize("moment", ["working", "collecting", "exiting", "stopping"])
def test_a_signal_at_work_ends_a_program(moment):
    command, environment = [sys.executable, "-c", AT_WORK, moment], {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = "\nstopping after this step; interrupt again to stop at once\n" if moment == "stopping" else ""
    # The system ends it before it prints what it has kept, when the output is no terminal.
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, said)


# As TensorBoard's thread on a full disk, while the program waits for it.
IN_A_THREAD = """
import errno, sys, threading
from r2l_jax.cli import stop

def write():
    raise OSError(errno.ENOSPC, "No space left on device", "events")

def main():
    threading.Thread(target=write).start()
    threading.Event().wait(60)

sys.exit(stop.exit_status(main))
"""


def test_a_thread_that_cannot_write_ends_the_program_in_one_line():
    command, environment = [sys.executable, "-c", IN_A_THREAD], {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stderr) == (1, "-c: error: threading: events: No space left on device\n")


# As XLA while it compiles: long, in C, and without Python's lock.
IN_C = """
import hashlib, sys
from r2l_jax.cli import stop

def main():
    print("working", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

stop.end_on_signals()
sys.exit(stop.exit_status(main))
"""


def test_a_signal_ends_a_program_that_computes_in_c():
    command, environment = [sys.executable, "-c", IN_C], {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as program:
        ending = threading.Timer(20, program.kill)
        ending.start()
        assert program.stdout.readline() == "working\n"
        program.send_signal(signal.SIGINT)
        assert (program.wait(), program.stderr.read()) == (-signal.SIGINT, "")
        ending.cancel()


def test_the_first_signal_asks_to_stop_and_leaves_the_handlers_as_they_were(capsys):
    earlier = signal.getsignal(signal.SIGINT)
    with stop.after_step():
        assert not stop.requested()
        signal.raise_signal(signal.SIGINT)
        assert stop.requested()
        assert signal.getsignal(signal.SIGINT) is earlier
    assert not stop.requested()
    assert "stopping after this step" in capsys.readouterr().err


@pytest.fixture
def status(monkeypatch):
    """Runs a function as a program, and returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["scripts/program.py"])
    return stop.exit_status


def raising(error):
    def main():
        raise error

    return main


# JAX gives only the text of an error that Python code called by a compiled function raises.
CALLED = "INTERNAL: CpuCallback error: Traceback:\n  File\nr2l_jax.errors.InputError: Net returns nothing"


@pytest.mark.parametrize(
    ("error", "expected", "line"),
    [
        (InputError("`lr` must be positive"), 1, "error: --lr must be positive"),
        (Interrupted("stopped after 3 steps"), 130, "stopped after 3 steps"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "out/a.json"), 1, "error: out/a.json: Permission denied"),
        (RuntimeError(CALLED.replace("Cpu", "Python callback ")), 1, "error: Net returns nothing"),
    ],
)
def test_an_expected_error_is_one_line(status, capsys, error, expected, line):
    assert status(raising(error)) == expected
    assert capsys.readouterr() == ("", f"program.py: {line}\n")


@pytest.mark.parametrize("error", [OSError("a damaged file"), OSError(errno.ENOMEM, "Cannot allocate")])
def test_other_exceptions_keep_their_traceback(status, error):
    with pytest.raises(type(error)) as raised:
        status(raising(error))
    assert raised.value is error


def test_a_file_that_cannot_be_written_is_named_without_its_temporary_name(status, capsys, tmp_path):
    (folder := tmp_path / "folder.json").mkdir()

    def fill_the_disk():
        with replacing(tmp_path / "new.json"):
            # The system's error names no file.
            raise OSError(errno.ENOSPC, "No space left on device")

    for main, line in (
        (fill_the_disk, f"{tmp_path}/new.json: No space left on device"),
        (lambda: write_json(folder, {}), f"{folder}: Is a directory"),
    ):
        assert status(main) == 1
        assert capsys.readouterr() == ("", f"program.py: error: {line}\n")
    assert list(tmp_path.iterdir()) == [folder]
