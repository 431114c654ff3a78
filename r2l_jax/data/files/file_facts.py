"""Facts of files, such as their hashes, found once and remembered by path, size and times of change.

The facts of a file that was changed within the last two seconds are not remembered. If the file were changed again
within one tick of the file system's clock, to the same size, only its content would show it. Git's index has the same
rule.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import AT_ONCE, write_json

# The coarsest tick of a file system's clock, in nanoseconds.
_TICK = 2 * 10**9

# For smaller files, one thread is faster than several, which would wait for Python's lock.
_SMALL = 2**20


def hash_files(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns the SHA-256 of each file, and reads only files that are new or have changed.

    Raises:
        InputError: a file cannot be read.
    """
    return of_files("file_hashes", paths, _sha256, "hashing files")


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(kind: str, paths: Sequence[pathlib.Path], find: Callable[[pathlib.Path], Any], doing: str) -> list[Any]:
    """Returns the facts of each file, and looks for them only in files that are new or have changed.

    The user's cache folder holds them, in one file for all files below one folder. If two processes add facts at the
    same time, the facts of one may be lost and found again.

    Args:
        kind: names the facts, and everything that they depend on apart from the files.
        paths: the files.
        find: finds the facts of a file, as values that JSON can hold. It may be called in several threads.
        doing: the text of the progress bar.

    Raises:
        InputError: a file cannot be read, or `find` raised it.
    """
    if not paths:
        return []
    # As text, which is faster for many files. Messages name a file as the caller does.
    fulls = [os.path.abspath(path) for path in paths]
    named = dict(zip(fulls, paths, strict=True))
    root = os.path.commonpath(set(map(os.path.dirname, fulls)))
    memory_file = startup.cache_dir() / kind / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
    memory = _recall(memory_file)
    known = {full: memory.get(full, (None, None)) for full in named}
    unknown = {full: path for full, path in named.items() if known[full][0] != _state(path)}
    small = sum(os.stat(full).st_size for full in unknown) < _SMALL * len(unknown)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = (map if small else pool.map)(lambda path: _found(path, find), unknown.values())
        # Many large frames take minutes; a quick reading shows no progress bar.
        shown = tqdm(found, total=len(unknown), desc=doing, unit="file", delay=2, disable=None)
        known |= zip(unknown, shown, strict=True)
    if unknown:
        kept = {full: entry for full, entry in (memory | known).items() if entry[0] and os.path.exists(full)}
        with contextlib.suppress(OSError):  # If the disk is full or read-only, nothing is stored.
            write_json(memory_file, kept)
    return [known[full][1] for full in fulls]


def _recall(memory_file: pathlib.Path) -> dict[str, Any]:
    """Reads the states and facts of files by their paths; returns an empty dict if they cannot be read."""
    try:
        content = json.loads(memory_file.read_text())
        return {full: (state, facts) for full, (state, facts) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _found(path: pathlib.Path, find: Callable[[pathlib.Path], Any]) -> tuple[list[int] | None, Any]:
    """Returns the state of a file, or None if it changed recently or while it was read; and the facts of the file."""
    now, before = time.time_ns(), _state(path)
    with _naming(path):
        facts = find(path)
    settled = before == _state(path) and all(abs(now - changed) > _TICK for changed in before[1:])
    return before if settled else None, facts


def _state(path: pathlib.Path) -> list[int]:
    """Returns the size of a file, and the times at which its content and its entry changed."""
    with _naming(path):
        status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
