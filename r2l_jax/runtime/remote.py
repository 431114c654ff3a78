"""Files and folders by URL, in object storage: brought to this machine to be read, and sent there when written.

A place is a `pathlib.Path`, or a `UPath` of a URL such as `s3://bucket/folder`, which needs the extra `cloud`. Programs
read a file through `brought` and write one through `writing`, whichever it is. Only the files in use are on this
machine, in temporary folders. An object appears complete or not at all, as a file does with `files.replacing`.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from typing import Any

from upath import UPath as Url

from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.files import inside, replacing, write_json
from r2l_jax.runtime.locks import writing_to

# The help of a flag that takes a path or a URL.
BY_URL = "a path, or a URL such as s3://bucket/folder"

# Seconds between two uploads of a table; longer if uploads would take more than a twentieth of the time.
_SECONDS = 30

Place = pathlib.Path | Url


def place(text: str) -> Place:
    """Returns the place that a user names.

    Raises:
        InputError: no storage has this scheme.
    """
    if not re.match(r"[a-z][a-z0-9+.-]*://", text):
        return pathlib.Path(text)
    try:
        return Url(text.rstrip("/"))
    except ValueError as error:
        raise InputError(f"{text}: {one_line(error)}") from None


def listed(folder: Url) -> list[Url]:
    """Lists the objects directly in a folder by their names, or the object itself if it is one.

    Raises:
        InputError: there is nothing at this address, or it cannot be reached.
    """
    with _named(folder):
        folder.fs.invalidate_cache(folder.path)
        entries = folder.fs.ls(folder.path, detail=True)
    files = [entry["name"] for entry in entries if entry["type"] == "file" and not entry["name"].endswith("/")]
    return sorted((folder if name == folder.path else folder / name.rpartition("/")[2] for name in files), key=str)


def names(folder: Place) -> set[str]:
    """Returns the names of everything directly in a folder; no names if the folder does not exist.

    Raises:
        InputError: the address cannot be reached.
    """
    if isinstance(folder, pathlib.Path):
        return {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    with _named(folder):
        folder.fs.invalidate_cache(folder.path)
        try:
            entries = folder.fs.ls(folder.path, detail=False)
        except FileNotFoundError:
            # Object storage has no empty folders, but the bucket must be there.
            folder.fs.ls(folder.path.partition("/")[0], detail=False)
            return set()
    return {entry.rstrip("/").rpartition("/")[2] for entry in entries if entry != f"{folder.path}/"}


def version(file: Place) -> str:
    """Returns text that changes when the content of a file changes; empty if the file is not there.

    Raises:
        InputError: the address cannot be reached.
    """
    try:
        if isinstance(file, pathlib.Path):
            state = file.stat()
            return f"{state.st_size} {state.st_mtime_ns}"
        with _named(file, but=FileNotFoundError):
            return _version(file.fs.info(file.path))
    except OSError:
        return ""


def size(file: Place) -> int:
    """Returns the size of a file in bytes; 0 if it is not known."""
    try:
        return file.stat().st_size
    except Exception:  # Each storage raises exceptions of its own.
        return 0


@contextlib.contextmanager
def brought(file: Place) -> Iterator[pathlib.Path]:
    """Yields a path at which a file can be read; the copy of an object is removed afterwards.

    Raises:
        InputError: the object cannot be read; or the block raises one, in which the URL replaces the path.
    """
    if isinstance(file, pathlib.Path):
        yield file
        return
    with _scratch() as folder:
        path = folder / file.name
        with _named(file):
            file.fs.get_file(file.path, str(path))
        with _said_of(path, file):
            yield path


@contextlib.contextmanager
def writing(target: Place) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves or sends that file to `target` afterwards, see `replacing`.

    Raises:
        InputError: the object cannot be written.
        OSError: the file cannot be written.
    """
    if isinstance(target, pathlib.Path):
        with replacing(target) as part:
            yield part
        return
    with _scratch() as folder:
        yield folder / target.name
        _send(folder / target.name, target)


def remove(targets: Collection[Place]) -> None:
    """Removes files that may be there.

    Raises:
        InputError: an object cannot be removed.
    """
    for target in targets:
        if isinstance(target, pathlib.Path):
            target.unlink(missing_ok=True)
            continue
        with _named(target), contextlib.suppress(FileNotFoundError):
            target.fs.rm_file(target.path)


def copied(folder: Url, cache: pathlib.Path) -> pathlib.Path:
    """Copies a folder of object storage and its sub-folders to this machine, except for files that are copied already.

    Args:
        folder: the folder.
        cache: the folder for copies of all addresses.

    Returns:
        The copy. Files that are gone from the folder are removed from it, and files that programs have added to it
        stay.

    Raises:
        InputError: there is nothing at this address, it cannot be reached, or the key of an object leads out of the
            folder.
    """
    with _named(folder):
        folder.fs.invalidate_cache()
        entries: Any = folder.fs.find(folder.path, detail=True)
        if not entries:
            raise FileNotFoundError
    target = cache / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    table = target.with_suffix(".json")
    there = {name.removeprefix(folder.path).strip("/"): _version(entry) for name, entry in entries.items()}
    try:
        files = {name: inside(target, name) for name in there if name}
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    try:
        earlier = json.loads(table.read_text())
    except (OSError, ValueError):
        earlier = {}
    for name in earlier.keys() - there.keys():
        # Others may have changed the table, so it may name files outside the copy.
        with contextlib.suppress(InputError):
            inside(target, name).unlink(missing_ok=True)
    for name, file in files.items():
        if earlier.get(name) != there[name] or not file.exists():
            with _named(folder / name), replacing(file) as part:
                folder.fs.get_file(f"{folder.path}/{name}", str(part))
    write_json(table, there)
    return target


class Workplace:
    """The place where one program keeps the tables and manifests of an output folder while it works.

    Args:
        output: the output folder.
        path: the folder on this machine.

    Attributes:
        path: the output folder itself; or a temporary folder, whose files are sent to the output by `save`.
    """

    def __init__(self, output: Place, path: pathlib.Path):
        self._output, self.path = output, path
        self._sent = self._states()
        self._next = 0.0

    def save(self, now: bool = False) -> None:
        """Sends the files that have changed, unless it sent files a moment ago; removes files that are gone.

        Args:
            now: whether to send them in any case.
        """
        begun = time.monotonic()
        if isinstance(self._output, pathlib.Path) or not (now or begun >= self._next):
            return
        states = self._states()
        for name in states:
            if self._sent.get(name) != states[name]:
                _send(self.path / name, self._output / name)
        remove([self._output / name for name in self._sent.keys() - states.keys()])
        self._sent, ended = states, time.monotonic()
        self._next = ended + max(_SECONDS, 20 * (ended - begun))

    def _states(self) -> dict[str, int]:
        """Returns the times of change of all files in the temporary folder."""
        if isinstance(self._output, pathlib.Path):
            return {}
        files = [file for file in self.path.rglob("*") if file.is_file()]
        return {file.relative_to(self.path).as_posix(): file.stat().st_mtime_ns for file in files}


@contextlib.contextmanager
def working(output: Place, kept: Collection[str], file: str = "") -> Iterator[Workplace]:
    """Makes an output folder, and yields the place on this machine for its tables and manifests.

    A folder, or one file in it, is locked (see `locks.writing_to`). Object storage has no locks: there, the user must
    not start two programs with one output.

    Args:
        output: the output folder.
        kept: the paths of the tables and manifests in it.
        file: the name of the file to lock; empty locks the folder.

    Raises:
        FolderInUseError: another program writes to the folder or the file.
        InputError: the folder cannot be made or written to, or the address cannot be reached; or the block raises one,
            in which the URL replaces the path.
    """
    if isinstance(output, pathlib.Path):
        with writing_to(output, file):
            yield Workplace(output, output)
        return
    there = names(output)
    with _scratch() as folder:
        for name in kept:
            if "/" in name or name in there:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with _named(output / name), contextlib.suppress(FileNotFoundError):
                    output.fs.get_file(f"{output.path}/{name}", str(folder / name))
        workplace = Workplace(output, folder)
        with _said_of(folder, output):
            try:
                yield workplace
            finally:
                workplace.save(now=True)


def _send(file: pathlib.Path, target: Url) -> None:
    with _named(target):
        target.fs.put_file(str(file), target.path)


@contextlib.contextmanager
def _named(url: Url, but: type[Exception] = InputError) -> Iterator[None]:
    """Turns errors of a storage into InputErrors that name the URL, except for errors of the type `but`."""
    try:
        yield
    except (InputError, but):
        raise
    except ImportError as error:
        raise InputError(f"{url}: {one_line(error)}: pip install 'r2l_jax[cloud]'") from None
    except FileNotFoundError as error:
        # The message may be the path alone.
        reason = one_line(error)
        raise InputError(f"{url}: {reason if ' ' in reason else 'not found'}") from None
    except Exception as error:  # Each storage has its own.
        raise InputError(f"{url}: {one_line(error) or type(error).__name__}") from None


@contextlib.contextmanager
def _said_of(path: pathlib.Path, url: Url) -> Iterator[None]:
    """Names a URL in place of the path that stands for it, in InputErrors of the block."""
    try:
        yield
    except InputError as error:
        raise type(error)(str(error).replace(str(path), str(url))) from error


def _version(entry: dict[str, Any]) -> str:
    """Returns the size of an object, and its storage's mark of its content."""
    known = [entry[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if name in entry]
    return " ".join(map(str, [entry.get("size"), *known[:1]]))


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    """Yields a temporary folder for copies of objects."""
    with tempfile.TemporaryDirectory(prefix="r2l_jax_") as folder:
        yield pathlib.Path(folder)
