"""The environment that a result was computed in: git commit, package versions and devices."""

import functools
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Iterable
from typing import Any

import jax

PACKAGES = ("r2l_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def environment() -> dict[str, Any]:
    """Returns the git commit, the versions and the devices of this process."""
    return {
        "git_commit": _git_commit(),
        "versions": versions(PACKAGES),
        "devices": [device.device_kind for device in jax.devices()],
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Returns the versions of Python and of some packages; None for a package that is not installed."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


@functools.cache
def _git_commit() -> str | None:
    """Returns the commit of this project's checkout, with "+changes" if files differ from it; None outside one."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # An installed copy inside another repository.
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
