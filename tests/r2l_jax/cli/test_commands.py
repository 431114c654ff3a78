import pathlib
import sys

import pytest

from r2l_jax.cli.commands import as_started, closing, command


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("scripts/train.py", "python scripts/evaluate.py"),
        ("/home/me/.venv/bin/r2l train", "r2l evaluate"),
        ("/home/r2l-jax/my_program.py", "python scripts/evaluate.py"),
    ],
)
def test_commands_have_the_form_of_the_one_that_was_typed(monkeypatch, started, expected):
    monkeypatch.setattr(sys, "argv", [started])
    assert command("evaluate") == expected
    assert as_started("first\npython scripts/evaluate.py --run=a\nlast") == f"first\n{expected} --run=a\nlast"


def test_the_last_line_is_the_command_of_a_report(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/evaluate.py"])
    folder, runs = pathlib.Path("my runs/evaluation"), ["my runs/a", "my runs/b"]
    lines = ["results in my runs/evaluation", "tensorboard --logdir 'my runs/evaluation'"]
    report = "python scripts/report.py --run='my runs/a,my runs/b'"
    assert closing(folder, runs, is_default=True).splitlines() == [*lines, report]
    # A report does not look for results in other folders.
    assert closing(folder, runs, is_default=False).splitlines() == lines
