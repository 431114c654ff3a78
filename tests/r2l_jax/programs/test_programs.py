"""Every program is a module with a command of its own, and a file of scripts/ that starts it."""

import importlib
import importlib.metadata
import pathlib
import re
import runpy
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
    # Signals end a program also while it imports the others.
    monkeypatch.setattr("signal.signal", lambda number, _: started.append(number.name))
    monkeypatch.setattr(program, "run", lambda: started.append(name))
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/r2l-{name}"])
    with pytest.raises(SystemExit, match=r"^0$"):
        programs.start()
    assert started == 2 * ["SIGINT", "SIGTERM", name]


def test_r2l_starts_the_program_that_it_is_given(monkeypatch):
    started = []
    monkeypatch.setattr(programs, "start", lambda name: started.append((name, *sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", "sheet", "--sheet=pipelines"])
    programs.main()
    assert started == [("sheet", "/usr/bin/r2l sheet", "--sheet=pipelines")]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", "forensic"])
    with pytest.raises(SystemExit, match=r"^r2l: error: unknown program forensic: did you mean r2l forensics\?$"):
        programs.main()


def test_r2l_alone_lists_all_programs(monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l"])
    with pytest.raises(SystemExit, match=r"^0$"):
        programs.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:-1] for line in lines if line.endswith(":")] == list(programs.GROUPS)
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    assert listed.keys() == set(NAMES) - {"benchmark"}
    assert listed["export"].startswith("Exports a trained model")


def test_help_shows_at_most_twenty_flags():
    for name in NAMES:
        text = flags.help_text(importlib.import_module(f"r2l_jax.programs.{name}").run.args[1], "")
        assert 1 <= len(re.findall(r"^  --", text, re.MULTILINE)) <= 20, name


def test_a_report_is_in_the_folder_of_its_run_and_of_several_in_the_innermost_of_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ReportConfig(run=("runs/a",)).file == pathlib.Path("runs/a/report.html")
    assert ReportConfig(run=("runs/a/x", "runs/a/y/z")).file == tmp_path / "runs/a/report.html"
    assert ReportConfig(run=("runs/a",), output="mine.html").file == pathlib.Path("mine.html")
