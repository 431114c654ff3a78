"""Every program is a module with a command of its own, and a file of scripts/ that starts it."""

import importlib
import importlib.metadata
import pathlib
import runpy
import subprocess
import sys
import tomllib

import pytest

from r2l_jax import programs

ROOT = pathlib.Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "r2l_jax" / "programs").glob("*.py") if path.stem != "__init__")


def test_scripts_and_commands_are_the_programs():
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert commands == dict.fromkeys([f"r2l-{name}" for name in NAMES], "r2l_jax.programs:start")
    assert sorted(path.stem for path in (ROOT / "scripts").glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_and_a_command_start_their_program(name, monkeypatch):
    program = importlib.import_module(f"r2l_jax.programs.{name}")
    started = []
    monkeypatch.setattr(programs, "end_on_signals", lambda: None)
    monkeypatch.setattr(program, "run", lambda: started.append(name))
    runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/r2l-{name}"])
    programs.start()
    assert started == [name, name]


def test_help_speaks_of_the_command_that_was_typed():
    code = "import sys; sys.argv = ['r2l-download', '--help']; from r2l_jax.programs import start; start()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\nr2l-download --dataset=Microscopy --data_dir=data\n" in done.stdout
    assert "python scripts" not in done.stdout
