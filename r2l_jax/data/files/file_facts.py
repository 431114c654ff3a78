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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import AT_ONCE, write_json

# The coarsest tick of a file system's clock, in nanoseconds.
_TICK = 2 * 10**9

# The bytes from which on four threads read more TIFF files in a second than one thread does, which need not wait for
# Python's lock.
_SMALL = 2**20

# Size, times of change in nanoseconds, and inode of a file.
_State = list[int]

# By the name of a file in a folder: its state when its facts were found, and the facts.
_Memory = dict[str, tuple[_State, Any]]


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
    """Returns the facts of each file, and finds only those of files that are new or have changed.

    The user's cache folder holds them, in one file for each folder. If two processes add facts at the same time, those
    of one may be lost and found again.

    Args:
        kind: names the facts, and all that they depend on apart from the files.
        paths: the files.
        find: finds the facts of a file, as values that JSON can hold. It may be called in several threads.
        doing: what the progress bar says.

    Raises:
        InputError: a file cannot be read, or an error of `find`.
    """
    # As text: hashing and splitting 20,000 paths takes half a second.
    fulls = [os.path.abspath(path) for path in paths]
    # Messages name a file as the caller does.
    named = dict(zip(fulls, paths, strict=True))
    memories: dict[str, _Memory] = {}
    facts, unknown = {}, []
    for full, path in named.items():
        folder, name = os.path.split(full)
        if folder not in memories:
            memories[folder] = _recall(kind, folder)
        state, known = memories[folder].get(name, (None, None))
        if state == _state(path):
            facts[full] = known
        else:
            unknown.append(full)
    new: dict[str, _Memory] = {}
    small = sum(os.stat(full).st_size for full in unknown) < _SMALL * len(unknown)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = (map if small else pool.map)(lambda full: _found(named[full], find), unknown)
        # Many large frames take minutes; a quick reading shows no progress bar.
        for full, (found, state) in zip(
            unknown, tqdm(results, total=len(unknown), desc=doing, unit="file", delay=2, disable=None), strict=True
        ):
            facts[full] = found
            if state is not None:
                folder, name = os.path.split(full)
                new.setdefault(folder, {})[name] = (state, found)
    for folder, of_folder in new.items():
        _remember(kind, folder, _recall(kind, folder) | of_folder)
    return [facts[full] for full in fulls]


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _state(path: pathlib.Path) -> _State:
    with _naming(path):
        status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _found(path: pathlib.Path, find: Callable[[pathlib.Path], Any]) -> tuple[Any, _State | None]:
    """Returns the facts of a file, and its state unless the file changed recently or while they were found."""
    now, before = time.time_ns(), _state(path)
    with _naming(path):
        facts = find(path)
    _, *times, _ = before
    settled = before == _state(path) and all(abs(now - changed) > _TICK for changed in times)
    return facts, before if settled else None


def _memory_file(kind: str, folder: str) -> pathlib.Path:
    return startup.cache_dir() / kind / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _recall(kind: str, folder: str) -> _Memory:
    """Reads the remembered facts of a folder's files; returns an empty dict if they cannot be read."""
    try:
        content = json.loads(_memory_file(kind, folder).read_text())
        if content["folder"] == folder:
            return {name: (state, facts) for name, (state, facts) in content["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}


def _remember(kind: str, folder: str, memory: _Memory) -> None:
    """Stores the facts of a folder's existing files. If the disk is full or read-only, nothing is stored."""
    file = _memory_file(kind, folder)
    try:
        there = set(os.listdir(folder))
        if not file.exists():
            _forget(file.parent.glob("*.json"))
        write_json(file, {"folder": folder, "files": {name: memory[name] for name in memory if name in there}})
    except OSError:
        pass


def _forget(files: Iterable[pathlib.Path]) -> None:
    """Removes the facts of folders that no longer exist."""
    for file in files:
        try:
            if not pathlib.Path(json.loads(file.read_text())["folder"]).is_dir():
                file.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # Another process has removed the file.
        except (ValueError, LookupError, TypeError):
            file.unlink(missing_ok=True)
