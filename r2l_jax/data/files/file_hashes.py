"""SHA-256 hashes of files, computed once and remembered by path, size and times of change.

The hash of a file that was changed within the last two seconds is not remembered. If the file were changed again within
one tick of the file system's clock, to the same size, only its content would show it. Git's index has the same rule.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json

# The coarsest tick of a file system's clock, in nanoseconds.
_TICK = 2 * 10**9

# Size, times of change in nanoseconds, and inode of a file.
_State = list[int]

# By the name of a file in a folder: its state when it was hashed, and its SHA-256.
_Memory = dict[str, tuple[_State, str]]


def hash_files(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns the SHA-256 of each file, and reads only files that are new or have changed.

    The user's cache folder holds the hashes, in one file for each folder. If two processes add hashes at the same time,
    those of one may be lost and computed again.

    Raises:
        InputError: a file cannot be read.
    """
    paths = [path.absolute() for path in paths]
    memories = {folder: _recall(folder) for folder in {path.parent for path in paths}}
    digests, unknown = {}, []
    for path in dict.fromkeys(paths):
        state, digest = memories[path.parent].get(path.name, (None, ""))
        if state == _state(path):
            digests[path] = digest
        else:
            unknown.append(path)
    new: dict[pathlib.Path, _Memory] = {}
    with ThreadPoolExecutor() as pool:
        # Many large frames take minutes; a quick reading shows no progress bar.
        read = tqdm(pool.map(_read, unknown), total=len(unknown), desc="hashing files", unit="file", delay=2)
        for path, (digest, state) in zip(unknown, read, strict=True):
            digests[path] = digest
            if state is not None:
                new.setdefault(path.parent, {})[path.name] = (state, digest)
    for folder, of_folder in new.items():
        _remember(folder, _recall(folder) | of_folder)
    return [digests[path] for path in paths]


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _state(path: pathlib.Path) -> _State:
    with _naming(path):
        return _as_list(path.stat())


def _as_list(status: os.stat_result) -> _State:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(path: pathlib.Path) -> tuple[str, _State | None]:
    """Returns the hash of a file, and its state unless the file changed recently or while it was read."""
    with _naming(path), path.open("rb") as file:
        now, before = time.time_ns(), _as_list(os.fstat(file.fileno()))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = _as_list(os.fstat(file.fileno()))
    _, *times, _ = before
    settled = before == after and all(abs(now - changed) > _TICK for changed in times)
    return digest, before if settled else None


def _memory_file(folder: pathlib.Path) -> pathlib.Path:
    return startup.cache_dir() / "file_hashes" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _recall(folder: pathlib.Path) -> _Memory:
    """Reads the remembered hashes of a folder's files; returns an empty dict if they cannot be read."""
    try:
        content = json.loads(_memory_file(folder).read_text())
        if content["folder"] == str(folder):
            return {name: (state, digest) for name, (state, digest) in content["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}


def _remember(folder: pathlib.Path, memory: _Memory) -> None:
    """Stores the hashes of a folder's existing files. If the disk is full or read-only, nothing is stored."""
    file = _memory_file(folder)
    try:
        there = set(os.listdir(folder))
        if not file.exists():
            _forget(file.parent.glob("*.json"))
        write_json(file, {"folder": str(folder), "files": {name: memory[name] for name in memory if name in there}})
    except OSError:
        pass


def _forget(files: Iterable[pathlib.Path]) -> None:
    """Removes the hashes of folders that no longer exist."""
    for file in files:
        try:
            if not pathlib.Path(json.loads(file.read_text())["folder"]).is_dir():
                file.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # Another process has removed the file.
        except (ValueError, LookupError, TypeError):
            file.unlink(missing_ok=True)
