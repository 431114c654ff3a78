"""The names by which a user starts the programs: files of scripts/, or the installed commands r2l-<name>."""

import pathlib
import re
import sys

_INSTALLED = "r2l-"


def command(program: str) -> str:
    """Returns how to start a program, in the form in which this one was started.

    Args:
        program: such as "evaluate".

    Returns:
        `r2l-evaluate` in an installed command, else `python scripts/evaluate.py`.
    """
    return f"{_INSTALLED}{program}" if _is_installed() else f"python scripts/{program}.py"


def as_started(text: str) -> str:
    """Returns a text with every `python scripts/<name>.py` in the form in which this program was started."""
    return re.sub(r"python scripts/(\w+)\.py", lambda found: command(found[1]), text)


def _is_installed() -> bool:
    return pathlib.Path(sys.argv[0]).name.startswith(_INSTALLED)
