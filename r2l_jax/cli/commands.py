"""The commands that start the programs: files in scripts/, or the installed command r2l."""

import pathlib
import re
import shlex
import sys
from collections.abc import Iterable


def command(program: str) -> str:
    """Returns a program's command in the form that started this one: `r2l <name>`, or `python scripts/<name>.py`."""
    # `programs.main` starts programs under the name "r2l <name>".
    by_command = pathlib.Path(sys.argv[0]).name.startswith("r2l ")
    return f"r2l {program}" if by_command else f"python scripts/{program}.py"


def report_command(runs: Iterable[str]) -> str:
    """Returns the command that writes a report of the runs in some folders."""
    return f"{command('report')} --run={shlex.quote(','.join(runs))}"


def closing(folder: pathlib.Path, runs: Iterable[str], is_default: bool) -> str:
    """Returns the location of results, and commands that show them; reports find results only in the default folder."""
    lines = [f"results in {folder}", f"tensorboard --logdir {shlex.quote(str(folder))}"]
    return "\n".join(lines + [report_command(runs)] * is_default)


def as_started(text: str) -> str:
    """Rewrites every `python scripts/<name>.py` in a text to the form in which this program was started."""
    return re.sub(r"python scripts/(\w+)\.py", lambda found: command(found[1]), text)
