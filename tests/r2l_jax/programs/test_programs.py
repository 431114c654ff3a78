"""Every program is a module with a command of its own, and a file of scripts/ that starts it."""

import importlib
import importlib.metadata
import pathlib
import re
import runpy
import subprocess
import sys
import tomllib

import pytest

from r2l_jax import programs
from r2l_jax.programs.report import ReportConfig
from r2l_jax.runtime import flags

ROOT = pathlib.Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "r2l_jax" / "programs").glob("*.py") if path.stem != "__init__")


def test_scripts_and_commands_are_the_programs():
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert commands.pop("r2l") == "r2l_jax.programs:main"
    # The benchmark is for those who work on this project.
    listed = sorted(name for group in programs.GROUPS.values() for name in group)
    assert [*listed, "benchmark"] == [*(name for name in NAMES if name != "benchmark"), "benchmark"]
    assert commands == dict.fromkeys([f"r2l-{name}" for name in listed], "r2l_jax.programs:start")
    assert sorted(path.stem for path in (ROOT / "scripts").glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_and_a_command_start_their_program(name, monkeypatch):
    program = importlib.import_module(f"r2l_jax.programs.{name}")
    started = []
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(program, "run", lambda: started.append(name))
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/r2l-{name}"])
    with pytest.raises(SystemExit, match=r"^0$"):
        programs.start()
    assert started == [name, name]


def test_r2l_starts_the_program_that_it_is_given(monkeypatch):
    started = []
    monkeypatch.setattr(programs, "start", lambda name: started.append((name, *sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", "sheet", "--sheet=pipelines"])
    programs.main()
    assert started == [("sheet", "/usr/bin/r2l sheet", "--sheet=pipelines")]


@pytest.mark.parametrize(
    ("given", "hint"), [("forensic", "did you mean r2l forensics?"), ("--run=x", "r2l lists all programs")]
)
def test_r2l_names_the_nearest_program(monkeypatch, given, hint):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", given])
    with pytest.raises(SystemExit) as stopped:
        programs.main()
    assert stopped.value.code == f"r2l: error: unknown program {given}: {hint}"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_r2l_alone_lists_all_programs(monkeypatch, capsys, arguments):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", *arguments])
    with pytest.raises(SystemExit, match=r"^0$"):
        programs.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:-1] for line in lines if line.endswith(":")] == list(programs.GROUPS)
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    assert listed.keys() == set(NAMES) - {"benchmark"}
    assert listed["export"].startswith("Exports a trained model")


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_at_most_twenty_flags(name):
    program = importlib.import_module(f"r2l_jax.programs.{name}")
    text = flags.help_text(program.run.args[1], "")
    assert 1 <= len(re.findall(r"^  --", text, re.MULTILINE)) <= 20


def test_help_speaks_of_the_command_that_was_typed():
    code = "import sys; sys.argv = ['r2l-download', '--help']; from r2l_jax.programs import start; start()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\nr2l-download --dataset=Microscopy --data_dir=data\n" in done.stdout
    assert "python scripts" not in done.stdout


def test_a_report_is_in_the_folder_of_its_run_and_of_several_in_the_innermost_of_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ReportConfig(run=("runs/a",)).file == pathlib.Path("runs/a/report.html")
    assert ReportConfig(run=("runs/a/x", "runs/a/y/z")).file == tmp_path / "runs/a/report.html"
    assert ReportConfig(run=("runs/a",), output="mine.html").file == pathlib.Path("mine.html")
