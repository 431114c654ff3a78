"""Every program is a module with a command of its own, and a file of scripts/ that starts it."""

import importlib
import pathlib
import re
import runpy
import sys

import pytest

from r2l_jax import programs
from r2l_jax.cli import flags
from r2l_jax.programs import train
from r2l_jax.programs.report import ReportConfig
from r2l_jax.training import run

ROOT = pathlib.Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "r2l_jax" / "programs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_starts_its_program(name, monkeypatch):
    program = importlib.import_module(f"r2l_jax.programs.{name}")
    started = []
    # Signals end a program also while it imports the others.
    monkeypatch.setattr("signal.signal", lambda number, _: started.append(number.name))
    monkeypatch.setattr(flags, "run", lambda main, _: started.append(main))
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert started == ["SIGINT", "SIGTERM", program.main]


def test_r2l_starts_the_program_that_it_is_given(monkeypatch):
    started = []
    monkeypatch.setattr(programs, "start", lambda name: started.append((name, *sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", "lab", "--port=0"])
    programs.main()
    assert started == [("lab", "/usr/bin/r2l lab", "--port=0")]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l", "forensic"])
    with pytest.raises(SystemExit, match=r"^r2l: error: unknown program forensic; run r2l for a list$"):
        programs.main()


def test_r2l_alone_lists_all_programs(monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/r2l"])
    with pytest.raises(SystemExit, match=r"^0$"):
        programs.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:-1] for line in lines if line.endswith(":")] == list(programs.GROUPS)
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    # The benchmark is for those who work on this project.
    assert listed.keys() == set(NAMES) - {"benchmark"}
    assert listed["export"].startswith("Exports a trained model")


@pytest.mark.parametrize(("epochs", "state"), [(1, "best checkpoint"), (0, "network as given")])
def test_the_test_score_of_a_training_is_of_a_checkpoint_and_that_of_none_of_the_network(
    tmp_path, monkeypatch, capsys, epochs, state
):
    monkeypatch.setattr("r2l_jax.training.train.run", lambda *_: None)
    found = run.Tested("accuracy", 0.75, 0.5, 1.0, 32, 32, 1)
    monkeypatch.setattr("r2l_jax.drift.measure.tested", lambda *_: found)
    settings = {
        "epochs": epochs,
        "logdir": str(tmp_path),
        "classifier_uri": "runs/other",
        "processor_uri": "runs/other",
    }
    config = flags.called(train.TrainingProgram, settings)
    config.training.run_dir.mkdir(parents=True)
    train.main(config)
    said = f"75.0 (95% confidence interval: 50.0 to 100; 32 test samples, {state})"
    assert capsys.readouterr().out.split(maxsplit=2)[2].strip() == said


def test_help_shows_at_most_twenty_flags():
    for name in NAMES:
        text = flags.help_text(flags.settings_of(importlib.import_module(f"r2l_jax.programs.{name}").main), "")
        assert 1 <= len(re.findall(r"^  --", text, re.MULTILINE)) <= 20, name


def test_a_report_is_in_the_folder_of_its_run_and_of_several_in_the_innermost_of_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ReportConfig(run=("runs/a",)).file == pathlib.Path("runs/a/report.html")
    assert ReportConfig(run=("runs/a/x", "runs/a/y/z")).file == pathlib.Path("runs/a/report.html")
    assert ReportConfig(run=("runs/a/x", str(tmp_path / "runs/b"))).file == tmp_path / "runs/report.html"
    assert ReportConfig(run=("runs/a",), output="mine.html").file == pathlib.Path("mine.html")
