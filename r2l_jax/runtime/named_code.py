"""The Python files that this user has named, identified by content. No other file that a run or a model records is run.

A run records the file of its pipeline. Whoever passes a run on could record any file there, so the record alone does
not justify running it. The user names a file in a flag or in a call; the hash of its content is then kept in the user's
configuration folder, and files with this content are run from then on, wherever they are. Only where the user has named
it can a file import the modules beside it: those beside a copy in a received run may be anybody's.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import platformdirs

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing

# The places of the files named in this process, by content, for when the home folder cannot be written.
_named_now: dict[str, set[str]] = {}

# The names of the modules that user files are run as start with this prefix, followed by the hash of the content.
_MODULE_PREFIX = "_named_"


@dataclasses.dataclass(frozen=True)
class Source:
    """The Python file that a pipeline or a head comes from.

    Attributes:
        file: the absolute path of the file.
        function: the function in the file that makes the pipeline or the head.
        sha256: the hash of the file's content.
    """

    file: str
    function: str
    sha256: str

    @property
    def identity(self) -> tuple[str, str]:
        """The function and the content's hash, which do not depend on the path."""
        return self.function, self.sha256

    @property
    def description(self) -> str:
        """The `identity` in words."""
        return f"{self.function} of a file of SHA-256 {self.sha256[:12]}"


def config_dir() -> pathlib.Path:
    """Returns the user's configuration folder."""
    return platformdirs.user_config_path("r2l_jax")


def file_of(name: str) -> tuple[pathlib.Path, str] | None:
    """Splits `<file>.py:<function>` into the file and the function; None for any other name."""
    path, _, function = name.rpartition(":")
    return (pathlib.Path(path), function) if path.endswith(".py") else None


def is_file(name: str) -> bool:
    """Tells whether a name is that of a function in a Python file, or of a file whose function is missing."""
    return name.endswith(".py") or file_of(name) is not None


def title(name: str) -> str:
    """Returns `<file without suffix>.<function>`, for folders, tables and figures."""
    file, _, function = name.rpartition(":")
    return f"{pathlib.Path(file).stem}.{function}"


def name(text: str) -> None:
    """Allows the file in `<file>.py:<function>` to be run, now and later, as long as its content stays the same.

    Args:
        text: the name of a pipeline or a head as the user gave it. Names of others, and of files that cannot be read,
            have no effect.
    """
    named = file_of(text)
    if named is None:
        return
    with contextlib.suppress(OSError):
        sha256, place = hashlib.sha256(named[0].read_bytes()).hexdigest(), str(named[0].resolve())
        if place not in (known := _places(sha256)):
            _named_now.setdefault(sha256, set()).add(place)
            with replacing(_entry(sha256)) as part:
                part.write_text("".join(f"{each}\n" for each in sorted({*known, place})))


def is_named(sha256: str) -> bool:
    """Tells whether this user has named a file whose content has this SHA-256."""
    return bool(_places(sha256))


def load(name: str, flag: str, noun: str, naming: str) -> tuple[Source, Callable[..., Any]]:
    """Returns a function of a user's file, which is run only once as long as its content stays the same.

    Args:
        name: `<file>.py:<function>`.
        flag: the flag to name in errors.
        noun: what the function makes: "pipeline" or "head".
        naming: where the user can name the file, such as "--pipeline of a program".

    Raises:
        InputError: the file has not been named with its present content, cannot be read, raises, or lacks the function.
    """
    named = file_of(name)
    if named is None:
        raise InputError(f"{flag}={name} names a file: name the function in it that makes the {noun}, {name}:make")
    path, function = named
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{flag}={name}: {path}: {error.strerror}") from None
    source = Source(str(path.resolve()), function, hashlib.sha256(content).hexdigest())
    if not is_named(source.sha256):
        raise InputError(
            f"{flag}={name}: the file is not run, since you have not named it with its present content: if you have "
            f"read it and trust it, name it once with the flag {naming}"
        )
    try:
        module = _run(source.file, content)
    except (Exception, SystemExit) as error:
        raise InputError(f"{flag}={name} cannot be run: {in_one_line(error, source.file)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"{flag}={name}: {path} has no function {function!r} that makes a {noun}")
    return source, found


@functools.cache
def _run(file: str, content: bytes) -> types.ModuleType:
    """Runs a file once per content, so that what it makes has the same functions and shares compiled code."""
    # The hash in the module's name distinguishes functions of other contents (see `model_hash.described`).
    sha256 = hashlib.sha256(content).hexdigest()
    module = types.ModuleType(_MODULE_PREFIX + sha256)
    module.__file__ = file
    # Dataclasses look up the module of a class here.
    sys.modules[module.__name__] = module
    is_place = file in _places(sha256)
    with _importing_from(pathlib.Path(file).parent) if is_place else contextlib.nullcontext():
        exec(compile(content, file, "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _importing_from(folder: pathlib.Path) -> Iterator[None]:
    """Puts a folder on the import path; other files then find their own modules under the same names."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    # A module that was written a moment ago is not in the lists of files that Python keeps.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and pathlib.Path(file).is_relative_to(folder) and not name.startswith(_MODULE_PREFIX):
                del sys.modules[name]


def is_from_file(function: Callable) -> bool:
    """Returns whether a function was defined in a user's file."""
    return str(function.__module__).startswith(_MODULE_PREFIX)


def in_one_line(error: BaseException, file: str = "") -> str:
    """Describes an error in one line, with the line of the user's file that raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if file and frame.filename == file]
    message = str(error).strip()
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, message = [error.lineno], error.msg
    where = f" (line {lines[-1]})" if lines else ""
    # A failed shape check explains itself in many lines, of which the first is enough.
    return f"{type(error).__name__}{': ' + message.splitlines()[0] if message else ''}{where}"


def _places(sha256: str) -> set[str]:
    """Returns the paths at which this user has named files of a content."""
    entry = _entry(sha256)
    stored = entry.read_text().splitlines() if entry.is_file() else ()
    return {*stored, *_named_now.get(sha256, ())}


def _entry(sha256: str) -> pathlib.Path:
    return config_dir() / "named_code" / sha256
