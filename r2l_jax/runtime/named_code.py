"""The Python files that this user has named, identified by content. No other file that a run or a model records is run.

A run records the file of its pipeline. Whoever passes a run on could record any file there, so the record alone does
not justify running it. The user names a file in a flag or in a call; the hash of its content is then kept in the user's
configuration folder, and files with this content are run from then on, wherever they are.
"""

import contextlib
import hashlib
import pathlib

import platformdirs

from r2l_jax.runtime.files import replacing

# The files named in this process, for when the home folder cannot be written.
_named_now: set[str] = set()


def config_dir() -> pathlib.Path:
    """Returns the user's configuration folder."""
    return platformdirs.user_config_path("r2l_jax")


def file_of(name: str) -> tuple[pathlib.Path, str] | None:
    """Splits `<file>.py:<function>` into the file and the function; None for any other name."""
    path, _, function = name.rpartition(":")
    return (pathlib.Path(path), function) if path.endswith(".py") else None


def name(text: str) -> None:
    """Allows the file in `<file>.py:<function>` to be run, now and later, as long as its content stays the same.

    Args:
        text: a pipeline's name as the user gave it. Names of other pipelines, and of files that cannot be read, have no
            effect.
    """
    named = file_of(text)
    if named is None:
        return
    with contextlib.suppress(OSError):
        sha256 = hashlib.sha256(named[0].read_bytes()).hexdigest()
        _named_now.add(sha256)
        if not (entry := _entry(sha256)).exists():
            with replacing(entry) as part:
                part.write_text(f"{named[0].resolve()}\n")


def is_named(sha256: str) -> bool:
    """Tells whether this user has named a file whose content has this SHA-256."""
    return sha256 in _named_now or _entry(sha256).is_file()


def _entry(sha256: str) -> pathlib.Path:
    return config_dir() / "named_code" / sha256
