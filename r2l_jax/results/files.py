"""Atomic writes: files and folders appear complete or not at all."""

import contextlib
import csv
import errno
import glob
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from r2l_jax.errors import InputError

# TensorBoard's files of a folder; times and hosts are in their names.
EVENTS = "events.out.tfevents.*"

# Unfinished folders older than this, in seconds, count as left by killed programs. A folder may be older than its last
# file.
_A_WEEK = 7 * 86_400.0

# Most file systems do not allow deeper paths.
_MAX_DEPTH = 100


def cache_dir() -> pathlib.Path:
    """Returns the user's cache folder for generated data sets, downloads and compiled functions."""
    import pooch  # takes a tenth of a second, which `--help` does not need

    return pathlib.Path(pooch.os_cache("r2l_jax"))


def inside(root: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path under `root` of a name from an archive, a server or object storage.

    Slashes separate the parts of the name, or backslashes as some Windows programs write them. Raises an InputError for
    a name that is empty, absolute, too deep or unprintable, or that leads upwards.
    """
    path = pathlib.PureWindowsPath(name)
    if not path.parts or path.anchor or ".." in path.parts or not name.isprintable():
        raise InputError(f"the name {name!r:.200} leads out of its folder")
    if len(path.parts) > _MAX_DEPTH:
        raise InputError(f"the name {name!r:.200} has {len(path.parts)} parts, more than {_MAX_DEPTH}")
    return root.joinpath(*path.parts)


@contextlib.contextmanager
def replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of an empty temporary file to write to, and moves that file to `target` afterwards.

    Makes the target's folder. If the block raises, the temporary file is removed and an earlier target stays. An
    OSError names the target, not the temporary file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with naming(target, str(part)):
            part.touch()
            yield part
            part.replace(target)
    finally:
        # On a read-only file system, this also raises, and would hide the error above.
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def naming(target: pathlib.Path, *temporary: str) -> Iterator[None]:
    """Names `target` in an OSError that names a temporary file or no file, such as a library's error on a full disk."""
    try:
        yield
    except OSError as error:
        # NumPy does not even give the reason.
        number = errno.ENOSPC if " requested and " in str(error) else error.errno
        if number is None or error.filename not in (None, *temporary):
            raise
        raise OSError(number, os.strerror(number), str(target)) from error


def clear_parts(folder: pathlib.Path, seconds: float = 60.0) -> None:
    """Removes temporary files (see `replacing`) that killed programs left, if unchanged for this many seconds."""
    for part in folder.glob(".*.part"):
        if _is_left(part, seconds):
            part.unlink(missing_ok=True)


def _is_left(path: pathlib.Path, seconds: float) -> bool:
    try:
        return path.stat().st_mtime < time.time() - seconds
    except FileNotFoundError:  # Another process has moved it to its final name.
        return False


def write_safetensors(target: pathlib.Path, arrays: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Writes NumPy arrays and text fields to a safetensors file."""
    # Imported here, because `--help` of programs needs neither.
    import numpy as np
    import safetensors.numpy

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # The library's writer raises a special error for a full disk.
    with replacing(target) as part:
        part.write_bytes(safetensors.numpy.save(whole, dict(about)))


def write_json(target: pathlib.Path, content: Mapping[str, Any] | Sequence[str]) -> None:
    """Writes a JSON file."""
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def open_csv(file: pathlib.Path, mode: str = "r") -> IO[Any]:
    """Opens a CSV file in which file names that are not UTF-8 keep their bytes."""
    return file.open(mode, newline="", encoding="utf-8", errors="surrogateescape")


def write_csv(target: pathlib.Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Writes rows (cells by column) to a CSV file; `columns` defaults to the columns of the first row."""
    with replacing(target) as part, open_csv(part, "w") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(source: pathlib.Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file, whose cells are texts. May raise an OSError, a ValueError or a csv.Error."""
    with open_csv(source) as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def atomic_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Writes a folder atomically: yields a new folder to fill, and moves it to `folder` afterwards.

    Makes the parent folder. If the block raises, nothing is left behind. Folders that killed programs left over a week
    ago are removed first. If two processes fill the same folder, the slower one drops its copy.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}_unfinished_"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):
        if _is_left(left, _A_WEEK):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        # Temporary folders are readable only by their owner, so a folder with ordinary permissions is made inside.
        unfinished = pathlib.Path(scratch) / folder.name
        unfinished.mkdir()
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def common_folder(folders: Sequence[str]) -> pathlib.Path:
    """Returns the innermost folder that contains all folders, as a relative path unless one of them is absolute."""
    common = os.path.commonpath([os.path.abspath(each) for each in folders])
    return pathlib.Path(common if any(map(os.path.isabs, folders)) else os.path.relpath(common))


def make_output_folder(folder: pathlib.Path) -> None:
    """Makes a folder and its parents; raises an InputError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write to this folder ({error.strerror})") from None


def check_output_folder(folder: pathlib.Path) -> None:
    """Raises an InputError unless a folder can be written to or made, as a check before long work."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    number = errno.ENOTDIR if not place.is_dir() else 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise InputError(f"{folder}: cannot write to this folder ({os.strerror(number)})")


def refuse_shared_targets(targets: Iterable[tuple[Any, Any]]) -> None:
    """Raises an InputError if two sources share a target; `targets` are pairs of a source and a path or URL."""
    sources = {}
    for source, target in targets:
        if (place := target.resolve()) in sources:
            raise InputError(f"{sources[place]} and {source} would both be written to {target}")
        sources[place] = source
