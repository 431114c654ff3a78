"""Functions in the user's Python files, which the user names as `<file>.py:<function>`.

A run or a model file records the file of its pipeline or its head. Anyone who shares a run could record any file there,
so a recorded file is never run. Instead, `training.run` takes the file that the user names, if its content is the same.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import pathlib
import secrets
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from r2l_jax.errors import InputError

# Module names of user files consist of this prefix and the hash of the content.
_MODULE_PREFIX = "_named_"


@dataclasses.dataclass(frozen=True)
class Source:
    """The Python file that a pipeline or a head comes from: its absolute path, and the hash of its content."""

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


def is_file(name: str) -> bool:
    """Returns whether a name has the form `<file>.py:<function>`, or `<file>.py` without the function."""
    return name.endswith(".py") or name.rpartition(":")[0].endswith(".py")


def title(name: str) -> str:
    """Returns `<file without suffix>.<function>`, for folders, tables and figures."""
    file, _, function = name.rpartition(":")
    return f"{pathlib.Path(file).stem}.{function}"


_given: dict[str, tuple[Source, Callable[..., Any]]] = {}


def given(function: Callable[..., Any], title: str) -> str:
    """Returns a name by which `load` finds a function that a caller holds in memory, in this process alone."""
    name = f"<memory>/{title}_{len(_given)}.py:{title}"
    _given[name] = Source(name.rpartition(":")[0], title, hashlib.sha256(secrets.token_bytes()).hexdigest()), function
    return name


def load(name: str, argument: str, noun: str) -> tuple[Source, Callable[..., Any]]:
    """Returns the function `<file>.py:<function>`; runs the file only once as long as its content stays the same.

    The `name` must come from the user, not from a record. Errors name the `argument`, and `noun`, "pipeline" or "head".
    """
    if name in _given:
        return _given[name]
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        raise InputError(f"`{argument}` must be <file>.py:<function>, a function that makes the {noun}, got {name}")
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"`{argument}={name}`: {path}: {error.strerror}") from None
    source = Source(str(pathlib.Path(path).resolve()), function, hashlib.sha256(content).hexdigest())
    try:
        module = _run(source.file, content)
    except (Exception, SystemExit) as error:
        raise InputError(f"`{argument}={name}` cannot be run: {in_one_line(error, source.file)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"`{argument}={name}`: {path} has no function {function!r} that makes a {noun}")
    return source, found


@functools.cache
def _run(file: str, content: bytes) -> types.ModuleType:
    """Runs a file once per content, so that its functions stay the same objects and share compiled code."""
    # The hash in the module's name tells functions of files with other contents apart, see `processor_hash.described`.
    module = types.ModuleType(_MODULE_PREFIX + hashlib.sha256(content).hexdigest())
    module.__file__ = file
    # Dataclasses look up the module of a class here.
    sys.modules[module.__name__] = module
    with _importing_from(pathlib.Path(file).parent):
        exec(compile(content, file, "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _importing_from(folder: pathlib.Path) -> Iterator[None]:
    """Puts a folder on the import path; other files then find their own modules under the same names."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    # Python's cached file lists may not contain a module that was just written.
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
    # A failed shape check prints many lines; the first is enough.
    return f"{type(error).__name__}{': ' + message.splitlines()[0] if message else ''}{where}"
