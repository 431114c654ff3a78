"""Every program is a module with a command of its own, and a file of scripts/ that starts it."""

import importlib
import importlib.metadata
import pathlib
import runpy
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "r2l_jax" / "programs").glob("*.py") if path.stem != "__init__")


def test_scripts_and_commands_are_the_programs():
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert commands == {f"r2l-{name}": f"r2l_jax.programs.{name}:run" for name in NAMES}
    assert sorted(path.stem for path in (ROOT / "scripts").glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_starts_its_program(name, monkeypatch):
    program = importlib.import_module(f"r2l_jax.programs.{name}")
    started = []
    monkeypatch.setattr(program, "run", lambda: started.append(name))
    runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert started == [name]


def test_help_speaks_of_the_command_that_was_typed():
    code = "import sys; sys.argv = ['r2l-download', '--help']; from r2l_jax.programs.download import run; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\nr2l-download --dataset=Microscopy --data_dir=data\n" in done.stdout
    assert "python scripts" not in done.stdout
