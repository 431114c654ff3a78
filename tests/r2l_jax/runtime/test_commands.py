import sys

import pytest

from r2l_jax.runtime.commands import as_started, command


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("scripts/train.py", "python scripts/evaluate.py"),
        ("/home/me/.venv/bin/r2l-train", "r2l-evaluate"),
        ("r2l-train.exe", "r2l-evaluate"),
        ("/home/r2l-jax/my_program.py", "python scripts/evaluate.py"),
    ],
)
def test_commands_have_the_form_of_the_one_that_was_typed(monkeypatch, started, expected):
    monkeypatch.setattr(sys, "argv", [started])
    assert command("evaluate") == expected
    assert as_started("first\npython scripts/evaluate.py --run=a\nlast") == f"first\n{expected} --run=a\nlast"
