"""The environment of a result: git commit, versions and devices."""

import importlib.metadata
import pathlib
import platform
import subprocess

import jax

PACKAGES = ("r2l_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def environment() -> dict:
    """What computes here: git commit, versions, devices."""
    return {
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "devices": [device.device_kind for device in jax.devices()],
    }


def _git_commit() -> str | None:
    """The commit of this project's checkout, with "+changes" if files differ from it; None outside a checkout."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # an installed copy, within somebody else's repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
