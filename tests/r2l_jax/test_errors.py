"""Messages name arguments in Python and flags in programs, and rooms below the programs know no flag."""

import ast
import importlib
import inspect
import pathlib
import re

import pytest

import r2l_jax.controls
import r2l_jax.maite
from r2l_jax.cli import flags, stop
from r2l_jax.errors import InputError, naming_flags, one_line, printable, spelled, warn

SOURCES = pathlib.Path(r2l_jax.__file__).parent

# Commands and their arguments are no messages: those of other programs, and those that pages and closing lines show.
OTHERS = {
    "names.py",
    "results/environment.py",
    "apps/lab/saving.py",
    "apps/monitor.py",
    "apps/report/page.py",
    "apps/report/pictures.py",
    "data/sets/published.py",
    "training/tracking.py",
}


def texts(path):
    """Yields the texts of a module except docstrings and the help of settings."""
    tree = ast.parse(path.read_text())
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setting":
            left_out.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node


def test_rooms_below_the_programs_know_no_flag():
    found = [
        f"{path.relative_to(SOURCES)}:{text.lineno}: {text.value}"
        for path in SOURCES.rglob("*.py")
        if path.relative_to(SOURCES).parts[0] not in ("programs", "cli")
        if path.relative_to(SOURCES).as_posix() not in OTHERS
        for text in texts(path)
        # A boolean option of Dask's workers has two words, and a property of a style sheet ends with a colon.
        if re.search(r"(?<![\w-])--[a-z]\w*(?![\w:])|--$", text.value) and text.value not in ("--", "C0--")
    ]
    assert found == []


def test_errors_of_programs_name_arguments_too_since_python_calls_raise_them():
    found = [
        f"{path.name}:{text.lineno}: {text.value}"
        for path in (SOURCES / "programs").glob("*.py")
        for error in ast.walk(ast.parse(path.read_text()))
        if isinstance(error, ast.Raise)
        for text in ast.walk(error)
        if isinstance(text, ast.Constant) and "--" in str(text.value)
    ]
    assert found == []


def test_what_messages_name_as_an_argument_is_a_flag_of_a_program_or_of_a_call():
    programs = (SOURCES / "programs").glob("[a-z]*.py")
    mains = [importlib.import_module(f"r2l_jax.programs.{file.stem}").main for file in programs]
    known = {leaf.name for main in mains for leaf in flags.leaves(flags.settings_of(main))}
    calls = [
        r2l_jax.data.from_arrays,
        r2l_jax.maite.Augmentation,
        *(getattr(r2l_jax, name) for name in r2l_jax.controls.__all__),
    ]
    known |= {name for call in calls for name in inspect.signature(call).parameters}
    named = {
        (name, path.name)
        for path in SOURCES.rglob("*.py")
        for text in texts(path)
        for name in re.findall(r"`([a-z]\w*)(?:=[^`]*)?`", text.value)
    }
    assert len(named) > 100
    assert {each for each in named if each[0] not in known} == set()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`epochs` must be above 0, got -1", "--epochs must be above 0, got -1"),
        (
            "`run=my runs/x` is damaged; start over with `overwrite`",
            "--run=my runs/x is damaged; start over with --overwrite",
        ),
        ("give `sensor=defocus=1,exposure=-0.5`", "give --sensor=defocus=1,exposure=-0.5"),
        ("a name such as 'a`b' stays", "a name such as 'a`b' stays"),
    ],
)
def test_a_program_names_flags_in_errors_and_warnings(capsys, message, expected):
    def main():
        warn(message)
        assert str(InputError(message)) == expected
        raise InputError(message)

    assert spelled(message) == message
    assert stop.exit_status(main) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert warning == f"warning: {expected}"
    assert error.endswith(f": error: {expected}")
    assert spelled(message) == message


def test_a_stopped_program_names_its_command_and_a_stopped_call_itself():
    stopped = stop.Interrupted("stopped after step 3; the same command resumes there")
    assert str(stopped) == "stopped after step 3; the same call resumes there"
    with naming_flags():
        assert str(stopped) == "stopped after step 3; the same command resumes there"


def test_control_characters_which_could_hide_text_are_escaped():
    assert one_line("über\tfile \x1b[2K\n50% done") == "über file \\x1b[2K 50% done"
    assert printable("a\u202eb") == "a\\u202eb"
