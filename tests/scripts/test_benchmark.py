import json
import os
import pathlib
import subprocess
import sys
import unittest.mock

import programs
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture(autouse=True)
def _environment():
    """Restores the environment, in which the program says where the processes that it starts compute."""
    with unittest.mock.patch.dict(os.environ):
        yield


def program(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_program_prints_json():
    done = program("--rows=demosaic_bilinear", "--json", "--repeats=1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["name"] for row in result["rows"]] == ["demosaic_bilinear"]
    assert {"cpu", "cores", "device"} == result["machine"].keys()
    assert result["versions"]["jax"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--rows=menon", "no row's name begins with 'menon'"),
        ("--repeats=0", "--repeats must be positive, got 0"),
        ("--device=gpu", "--device=gpu: JAX computes on cpu; a GPU needs the extra cuda12 and no JAX_PLATFORMS"),
        ("--device=tpu", "flag --device=tpu: value should be one of <cpu|gpu>"),
    ],
)
def test_wrong_flags_are_one_line(flag, message):
    done = programs.call("benchmark.py", flag)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmark.py: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
