"""Files and folders by URL, in object storage: brought to this machine to be read, and sent there when written.

A place is a `pathlib.Path`, or a `Url` such as `s3://bucket/folder`, which needs the extra `cloud`. Programs read a
file through `brought` and write one through `writing`, whichever it is. Only the files that are in work lie on this
machine, in temporary folders. An object appears complete or not at all, as a file by `files.replacing` does.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from typing import Any

from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.files import inside, is_running, replacing, write_json
from r2l_jax.runtime.locks import writing_to

# The help of a flag that takes a path or a URL.
BY_URL = "a path, or a URL such as s3://bucket/folder"

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")

# The beginning of the names of temporary folders, before the number of their process.
_SCRATCH = "r2l_jax_"

# Tables are sent every so many seconds, or less often if that took more than a twentieth of the time.
_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Url:
    """The address of an object, or of a folder of them, with the attributes of a path.

    Attributes:
        text: the address.
        size: of an object in bytes, if known from the listing of its folder.
        version: of an object's content, likewise.
    """

    text: str
    size: int | None = dataclasses.field(default=None, compare=False)
    version: str | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.text.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return pathlib.PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as ".dng"."""
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "Url":
        """The folder."""
        return Url(self.text.rpartition("/")[0])

    def resolve(self) -> "Url":
        """Returns the address itself: unlike a path, it has no other form."""
        return self


Place = pathlib.Path | Url


def place(text: str) -> Place:
    """Returns the place that a user names."""
    return Url(text.rstrip("/")) if _SCHEME.match(text) else pathlib.Path(text)


def listed(folder: Url) -> list[Url]:
    """Lists the objects directly in a folder by their names, or the object itself if it is one.

    Raises:
        InputError: there is nothing at this address, or it cannot be reached.
    """
    system, path = _system(folder)
    with _named(folder):
        system.invalidate_cache()
        entries = system.ls(path, detail=True)
    found = []
    for entry in entries:
        if entry["type"] == "file":
            name = entry["name"].rpartition("/")[2]
            url = folder if entry["name"] == path else folder / name
            found.append(Url(url.text, entry.get("size"), _version(entry)))
    return sorted((url for url in found if url.name), key=str)


def names(folder: Place) -> set[str]:
    """Returns the names of all that is directly in a folder; of a folder that does not exist, none.

    Raises:
        InputError: the address cannot be reached.
    """
    if isinstance(folder, pathlib.Path):
        return {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    system, path = _system(folder)
    with _named(folder):
        system.invalidate_cache()
        try:
            return {
                entry.rstrip("/").rpartition("/")[2] for entry in system.ls(path, detail=False) if entry != f"{path}/"
            }
        except FileNotFoundError:
            # Object storage has no empty folders, but the bucket must be there.
            system.ls(path.partition("/")[0], detail=False)
            return set()


def version(file: Place) -> str:
    """Returns words that change when the content of a file does; empty if the file is not there.

    Raises:
        InputError: the address cannot be reached.
    """
    if isinstance(file, Url):
        if file.version is not None:
            return file.version
        system, path = _system(file)
        with _named(file):
            try:
                return _version(system.info(path))
            except FileNotFoundError:
                return ""
    try:
        state = file.stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"


def size(file: Place) -> int:
    """Returns the size of a file in bytes; 0 if it is not known."""
    if isinstance(file, Url):
        return file.size or 0
    try:
        return file.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def brought(file: Place) -> Iterator[pathlib.Path]:
    """Yields a path at which a file can be read; that of an object is removed afterwards.

    Raises:
        InputError: the object cannot be read; or any that the block raises, with the URL in place of the path.
    """
    if isinstance(file, pathlib.Path):
        yield file
        return
    with _scratch() as folder:
        path = folder / file.name
        system, source = _system(file)
        with _named(file):
            system.get_file(source, str(path))
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
        system, path = _system(target)
        with _named(target), contextlib.suppress(FileNotFoundError):
            system.rm_file(path)


def copied(folder: Url, cache: pathlib.Path) -> pathlib.Path:
    """Copies a folder of object storage with its sub-folders to this machine, but for what was copied before.

    Args:
        folder: the folder.
        cache: the folder for copies of all addresses.

    Returns:
        The copy. A file that is gone from the folder is gone from it; what programs have added to it stays.

    Raises:
        InputError: there is nothing at this address, it cannot be reached, or the key of an object leads out of it.
    """
    system, root = _system(folder)
    with _named(folder):
        system.invalidate_cache()
        entries = system.find(root, detail=True)
        if not entries:
            raise FileNotFoundError
    target = cache / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    table = target.with_suffix(".json")
    there = {name.removeprefix(root).strip("/"): _version(entry) for name, entry in entries.items()}
    try:
        files = {name: inside(target, name) for name in there if name}
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    try:
        earlier = json.loads(table.read_text())
    except (OSError, ValueError):
        earlier = {}
    for name in earlier.keys() - there.keys():
        # The table may be of an earlier version, which copied keys that lead out of the folder.
        with contextlib.suppress(InputError):
            inside(target, name).unlink(missing_ok=True)
    for name, file in files.items():
        if earlier.get(name) != there[name] or not file.exists():
            with _named(folder / name), replacing(file) as part:
                system.get_file(f"{root}/{name}", str(part))
    write_json(table, there)
    return target


class Workplace:
    """Where one program keeps the tables and manifests of an output folder while it works.

    Args:
        output: the output folder.
        path: the folder on this machine.

    Attributes:
        path: the output folder itself; or a temporary folder, whose files are sent to the output by `save`.
    """

    def __init__(self, output: Place, path: pathlib.Path):
        self._output, self.path = output, path
        self._sent: dict[pathlib.Path, int] = self._states()
        self._next = 0.0

    def save(self, now: bool = False) -> None:
        """Sends the files that have changed, unless others were sent a moment ago; removes those that are gone.

        Args:
            now: whether to send them in any case.
        """
        begun = time.monotonic()
        if not isinstance(self._output, Url) or not (now or begun >= self._next):
            return
        states = self._states()
        for file, state in states.items():
            if self._sent.get(file) != state:
                _send(file, self._object(file))
        remove([self._object(file) for file in self._sent.keys() - states.keys()])
        self._sent, ended = states, time.monotonic()
        self._next = ended + max(_SECONDS, 20 * (ended - begun))

    def _object(self, file: pathlib.Path) -> Place:
        return self._output / file.relative_to(self.path).as_posix()

    def _states(self) -> dict[pathlib.Path, int]:
        if not isinstance(self._output, Url):
            return {}
        return {file: file.stat().st_mtime_ns for file in self.path.rglob("*") if file.is_file()}


@contextlib.contextmanager
def working(output: Place, kept: Collection[str]) -> Iterator[Workplace]:
    """Makes an output folder, and yields where its tables and manifests are kept on this machine.

    A folder is locked (see `locks.writing_to`). Object storage has no locks: there, the user must not start two
    programs with one output.

    Args:
        output: the output folder.
        kept: the paths of the tables and manifests in it.

    Raises:
        FolderInUseError: another program writes to the folder.
        InputError: the folder cannot be made or written to, or the address cannot be reached; or any that the block
            raises, with the URL in place of the path.
    """
    if isinstance(output, pathlib.Path):
        with writing_to(output):
            yield Workplace(output, output)
        return
    there = names(output)
    with _scratch() as folder:
        system, root = _system(output)
        for name in kept:
            if "/" in name or name in there:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with _named(output / name), contextlib.suppress(FileNotFoundError):
                    system.get_file(f"{root}/{name}", str(folder / name))
        workplace = Workplace(output, folder)
        with _said_of(folder, output):
            try:
                yield workplace
            finally:
                workplace.save(now=True)


def _send(file: pathlib.Path, target: Place) -> None:
    system, path = _system(target)
    with _named(target):
        system.put_file(str(file), path)


def _system(url: Place) -> tuple[Any, str]:
    """Returns the file system of a URL, and its path there.

    Raises:
        InputError: a package that it needs is not installed, or no storage has this scheme.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(f"{url} needs fsspec: pip install 'r2l_jax[cloud]'") from None
    try:
        with _named(url):
            return url_to_fs(str(url))
    except ImportError as error:
        raise InputError(f"{url}: {one_line(error)}: pip install 'r2l_jax[cloud]'") from None


@contextlib.contextmanager
def _named(url: Place) -> Iterator[None]:
    """Turns whatever a storage raises into an InputError that names the URL, but for what the block itself handles."""
    try:
        yield
    except (InputError, ImportError):
        raise
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
    """Returns the size of an object, and what its storage tells of its content."""
    known = [entry[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if name in entry]
    return " ".join(map(str, [entry.get("size"), *known[:1]]))


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    """Yields a temporary folder."""
    _clear_scratch()
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}_") as folder:
        yield pathlib.Path(folder)


@functools.cache
def _clear_scratch() -> None:
    """Removes the temporary folders of processes that were killed, once in a process."""
    for left in pathlib.Path(tempfile.gettempdir()).glob(f"{_SCRATCH}[0-9]*_*"):
        if not is_running(left.name.removeprefix(_SCRATCH).partition("_")[0]):
            shutil.rmtree(left, ignore_errors=True)
