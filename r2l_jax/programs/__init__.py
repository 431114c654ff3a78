"""The programs: flags, one call, and the exit status. Each has a file in scripts/ and a command r2l-<name>."""

import importlib
import pathlib
import sys

from r2l_jax.runtime.stop import end_on_signals


def start(name: str = "") -> None:
    """Imports and runs a program. From here on, SIGINT and SIGTERM end it in one line.

    Args:
        name: the program's name; by default, the installed command's.
    """
    end_on_signals()
    name = name or pathlib.Path(sys.argv[0]).stem.removeprefix("r2l-")
    importlib.import_module(f"{__name__}.{name}").run()
