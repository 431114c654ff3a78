"""A run or a model file of somebody else names a Python file: it is run only if this user has named its content."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import tifffile
from programs import call
from safetensors import safe_open
from small_runs import metrics

import r2l_jax
from r2l_jax.drift.synthesis import sheets
from r2l_jax.drift.synthesis.config import SheetConfig
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime import named_code
from r2l_jax.runtime.errors import InputError

REFUSED = "Python code that you have not named, which is not run: if you have read the file and trust it, name it by"


@pytest.fixture(autouse=True)
def _empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


@pytest.fixture
def code(tmp_path):
    """Code that says when it is run. Its content differs from test to test, since a process remembers what is named."""
    return f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nfrom isp import parametrized as make\n"


@pytest.fixture
def received(one_epoch, tmp_path, monkeypatch, code):
    """Returns a function that makes a run, goes to a folder beside or in it, and puts a file of code where it says.

    That function returns the folder of the run.
    """

    def receive(recorded="beside.py", current=".", link=False):
        run = tmp_path / "received" / "run"
        shutil.copytree(one_epoch.run_dir, run)
        monkeypatch.chdir(run.parent / current)
        file = pathlib.Path(recorded)
        if link:
            file.symlink_to("target.py")
        file.write_text(code)
        changes = {
            "flags": metrics(one_epoch)["flags"] | {"pipeline": f"{recorded}:make", "processing_mode": None},
            "pipeline": {"file": recorded, "function": "make", "sha256": hashlib.sha256(code.encode()).hexdigest()},
        }
        (run / "fold_0/metrics.json").write_text(json.dumps(metrics(one_epoch) | changes))
        model = run / "fold_0/model.safetensors"
        with safe_open(model, "np") as opened:
            entries = opened.metadata() | {name: json.dumps(value) for name, value in changes.items()}
        safetensors.numpy.save_file(safetensors.numpy.load_file(model), model, entries)
        return run

    return receive


@pytest.mark.parametrize(
    ("recorded", "current", "link", "source"),
    [
        ("beside.py", ".", False, "run"),
        ("beside.py", ".", False, "run/fold_0/model.safetensors"),
        ("inside.py", "run", False, "run"),
        ("../beside.py", "run", False, "run"),
        ("{folder}/absolute.py", "run", False, "run"),
        ("link.py", ".", True, "run"),
    ],
)
def test_it_is_not_run_wherever_it_lies(received, tmp_path, recorded, current, link, source):
    folder = tmp_path / "received"
    received(recorded.format(folder=folder), current, link)
    with pytest.raises(InputError, match=REFUSED) as error:
        r2l_jax.load(folder / source)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("predict.py", ["--input=raw", "--output=table.csv"]),
        ("process.py", ["--input=raw", "--output=pictures"]),
        ("evaluate.py", []),
    ],
)
def test_programs_refuse_it_until_it_is_named(received, tmp_path, program, flags):
    received()
    pathlib.Path("raw").mkdir()
    tifffile.imwrite("raw/one.tiff", np.full((32, 32), 30000, np.uint16))
    refused = call(program, "--run=run", *flags)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"{REFUSED} --code=<file>.py:make" in refused.stderr
    assert not (tmp_path / "ran").exists()
    if program == "process.py":
        done = call(program, "--run=run", *flags, "--code=beside.py:make")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 rendered, 0 failed"), done.stderr
        assert (tmp_path / "ran").exists()


def test_what_is_named_once_is_known_to_later_processes_by_its_content(received, tmp_path, code):
    run, file = received(), tmp_path / "received/beside.py"
    assert r2l_jax.load(run, pipeline=f"{file}:make").pipeline is not None
    ask = "import sys; from r2l_jax.runtime.named_code import is_named; print(is_named(sys.argv[1]))"

    def is_known_later(home):
        command = [sys.executable, "-c", ask, hashlib.sha256(code.encode()).hexdigest()]
        environment = os.environ | {"XDG_CONFIG_HOME": str(home)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert is_known_later(tmp_path / "home") == "True\n"
    assert is_known_later(tmp_path / "another home") == "False\n"
    file.write_text(code + "\n")
    with pytest.raises(InputError, match=r"beside.py of SHA-256 [0-9a-f]{12}, which is [0-9a-f]{12} now"):
        r2l_jax.load(run)


def test_a_home_that_cannot_be_written_still_lets_a_file_be_named(tmp_path, code):
    (tmp_path / "home").touch()
    (tmp_path / "mine.py").write_text(code)
    name = f"{tmp_path}/mine.py:make"
    with pytest.raises(InputError, match=r"mine.py:make: the file is not run, since you have not named it"):
        find_pipeline(name)
    named_code.name(name)
    assert find_pipeline(name).source is not None


def test_an_evaluation_of_somebody_else_runs_nothing(received, one_epoch, tmp_path):
    received()
    flags = {"pipeline": [], "checkpoint": "best", "pipelines": ["beside.py:make"]}
    tests = {
        name: {"group": group, "accuracy": {"mean": score}}
        for name, group, score in (("own", "own", 0.9), ("beside.make", "pipelines", 0.1))
    }
    runs = {"run": {"folder": str(one_epoch.run_dir), "own": ["own"], "folds": {"0": {}}, "tests": tests}}
    content = {"runs": runs, "score": "accuracy", "flags": flags}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    config = SheetConfig(sheet="worst", output=str(tmp_path / "a.png"), evaluation=str(tmp_path / "evaluation.json"))
    with pytest.raises(InputError, match=r"^--pipelines=beside.py:make: the file is not run, since"):
        sheets.run(config)
    assert not (tmp_path / "ran").exists()
