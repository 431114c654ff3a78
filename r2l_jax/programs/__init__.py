"""The programs: flags, one call, and the exit status. Each has a file in scripts/; `r2l <name>` also starts it."""

import importlib
import sys

from r2l_jax.cli import flags
from r2l_jax.cli.stop import end_on_signals, exit_status

# The programs by purpose, in the order of a project.
GROUPS = {
    "data": ("download", "unprocess", "synthesize", "card"),
    "camera": ("calibrate", "process"),
    "train": ("train", "study"),
    "drift": ("evaluate", "forensics", "adjust"),
    "look": ("report", "lab"),
    "use": ("predict", "monitor", "export"),
}

# Programs in which threads besides the main one use JAX.
_THREADED = ("lab", "process", "unprocess")


def start(name: str) -> None:
    """Imports and runs a program, and exits with its status. From here on, SIGINT and SIGTERM end it in one line."""
    end_on_signals()

    def run() -> None:
        flags.run(importlib.import_module(f"{__name__}.{name}").main, name in _THREADED)

    sys.exit(exit_status(run))


def main() -> None:
    """Runs the program that the first argument names, as the command `r2l`; without one, lists the programs."""
    names = [name for group in GROUPS.values() for name in group]
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in names:
        sys.argv = [f"{sys.argv[0]} {given}", *sys.argv[2:]]
        start(given)
    elif given in ("--help", "-h", "help"):
        end_on_signals()
        sys.exit(exit_status(lambda: print(listing())))
    else:
        sys.exit(f"r2l: error: unknown program {given}; run r2l for a list")


def listing() -> str:
    """Returns the names of all programs with the first line of their help, in groups."""
    lines = ["r2l <program> --<flag>=<value> ...", "r2l <program> --help"]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        for name in names:
            about = importlib.import_module(f"{__name__}.{name}").__doc__ or ""
            lines.append(f"  {name:<12}{about.splitlines()[0].rstrip('.')}")
    return "\n".join(lines)
