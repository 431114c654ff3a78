"""SHA-256 of files, computed once and remembered by where the files are, their size and their times.

A file that was changed within the last two seconds is not remembered: if it changed once more within a tick of the
file system's clock, to the same size, nothing but its content would tell. Git does the same with its index.
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

_TICK = 2 * 10**9  # nanoseconds; no file system's clock is coarser

# A file's size, its times of change in nanoseconds, and its inode.
_State = list[int]

# The files of a folder by name: the state in which a file was hashed, and its SHA-256.
_Memory = dict[str, tuple[_State, str]]


def hash_files(paths: Sequence[pathlib.Path]) -> list[str]:
    """Computes the SHA-256 of each file, or recalls it if the file has not changed since.

    They are remembered in the user's cache folder, in one file for each folder. Of two processes that add to it at
    once, one may lose what it has added, which costs nothing but time.

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
        # A first time takes minutes for many large frames; what is quick shows no bar.
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
    """Turns an error of the system's into one line that names the file."""
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
    """Hashes a file; returns its state too unless it changed lately or while it was read."""
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
    """Reads what is remembered of a folder's files; nothing if it cannot be read."""
    try:
        content = json.loads(_memory_file(folder).read_text())
        if content["folder"] == str(folder):
            return {name: (state, digest) for name, (state, digest) in content["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}


def _remember(folder: pathlib.Path, memory: _Memory) -> None:
    """Keeps what is known of a folder's files that are there; on a full or read-only disk, it is found out again."""
    file = _memory_file(folder)
    try:
        there = set(os.listdir(folder))
        if not file.exists():
            _forget(file.parent.glob("*.json"))
        write_json(file, {"folder": str(folder), "files": {name: memory[name] for name in memory if name in there}})
    except OSError:
        pass


def _forget(files: Iterable[pathlib.Path]) -> None:
    """Removes what is known of folders that are no longer there."""
    for file in files:
        try:
            if not pathlib.Path(json.loads(file.read_text())["folder"]).is_dir():
                file.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # Another process has removed it.
        except (ValueError, LookupError, TypeError):
            file.unlink(missing_ok=True)
