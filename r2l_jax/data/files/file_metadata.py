"""File metadata, such as hashes, computed once and cached by path, size and modification times.

The metadata of a file that changed within the last two seconds is not cached. If the file changed again within one tick
of the file system's clock, to the same size, only its content would show it. Git's index has the same rule.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r2l_jax.data.files.decoding import reading
from r2l_jax.jobs import mapped
from r2l_jax.results.files import cache_dir, write_json

# The coarsest tick of a file system's clock, in nanoseconds.
_TICK = 2 * 10**9


def hash_files(paths: Sequence[Path]) -> list[str]:
    """Returns the SHA-256 of each file; reads only files that are new or have changed."""
    return of_files("file_hashes", paths, _sha256, "hashing files")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(kind: str, paths: Sequence[Path], find: Callable[[Path], Any], doing: str) -> list[Any]:
    """Returns the metadata of each file; computes it only for files that are new or have changed.

    `kind` names the metadata, and everything that it depends on apart from the files; `find` computes it for one file,
    as JSON values, and is called in several threads; `doing` is the text of the progress bar. The metadata is kept in
    the user's cache folder. If two processes add metadata at the same time, one of them may lose its own and computes
    it again.
    """
    if not paths:
        return []
    # Text is faster for many files. Messages name a file as the caller does.
    named = {os.path.abspath(path): path for path in paths}
    root = os.path.commonpath(set(map(os.path.dirname, named)))
    memory_file = cache_dir() / kind / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
    memory = _recall(memory_file)

    def entry(full: str, path: Path) -> tuple[list[int] | None, Any]:
        """Returns the state of a file before it is read, or None if it changed recently; and its metadata."""
        with reading(path):
            now, before = time.time_ns(), _state(path)
            if full in memory and memory[full][0] == before:
                return memory[full]
            settled = all(abs(now - changed) > _TICK for changed in before[1:])
            return before if settled else None, find(path)

    # Many large frames take minutes; quick reads show no progress bar.
    entries = mapped(lambda item: entry(*item), named.items())
    shown = tqdm(entries, total=len(named), desc=doing, unit="file", delay=2, disable=None)
    found = dict(zip(named, shown, strict=True))
    if any(each is not memory.get(full) for full, each in found.items()):
        kept = {full: each for full, each in (memory | found).items() if each[0] and os.path.exists(full)}
        with contextlib.suppress(OSError):  # If the disk is full or read-only, nothing is stored.
            write_json(memory_file, kept)
    return [found[os.path.abspath(path)][1] for path in paths]


def _recall(memory_file: Path) -> dict[str, Any]:
    """Reads the states and metadata of files by their paths; returns an empty dict if they cannot be read."""
    try:
        content = json.loads(memory_file.read_text())
        return {full: (state, metadata) for full, (state, metadata) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _state(path: Path) -> list[int]:
    """Returns the size of a file, and the times at which its content and its entry changed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
