"""Signals end a program in one line, whatever it does at that moment."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]

# The signal comes when the program imports a module, of which Python tells this hook.
AT_IMPORT = """
import os, runpy, sys
number, moment = int(sys.argv[1]), sys.argv[2]
sys.addaudithook(lambda event, words: event == "import" and words[0] == moment and os.kill(os.getpid(), number))
del sys.argv[:3]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# The signal comes while a program works: in its own code, in a call of the garbage collector, or as it exits.
AT_WORK = """
import atexit, gc, pathlib, signal, sys
from r2l_jax.runtime import stop

def strike(*arguments):
    signal.raise_signal(signal.SIGTERM)

stop.end_on_signals()
try:
    with stop.cleaning_up():
        print("working")
        if sys.argv[1] == "collecting":
            gc.callbacks.append(strike)
            gc.collect()
        if sys.argv[1] == "working":
            try:
                strike()
            finally:
                print("cleaned up")
    atexit.register(strike)
except KeyboardInterrupt:
    stop.end()
"""


def started(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "r2l_jax.config"),
        (signal.SIGTERM, "msgspec"),
        (signal.SIGINT, "jaxlib.mlir.ir"),
        pytest.param(signal.SIGTERM, "flax", marks=pytest.mark.slow),
    ],
)
def test_a_signal_during_an_import_ends_a_program_in_one_line(tmp_path, number, moment):
    script, logdir = ROOT / "scripts" / "train.py", f"--logdir={tmp_path}"
    ended = started(AT_IMPORT, str(int(number)), moment, str(script), logdir, "--experiment_name=a", "--run_name=b")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "train.py: interrupted\n")


@pytest.mark.parametrize(
    ("moment", "stdout"),
    [("working", "working\ncleaned up\n"), ("collecting", "working\n"), ("exiting", "working\n")],
)
def test_a_signal_at_work_ends_a_program_in_one_line(moment, stdout):
    ended = started(AT_WORK, moment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, stdout, "-c: interrupted\n")
