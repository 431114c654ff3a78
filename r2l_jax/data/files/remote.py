"""Raw files by URL, in object storage or on a server; fsspec copies each to this machine while it is read.

A place is a `pathlib.Path`, or a `UPath` of a URL such as `s3://bucket/folder`, which needs the extra `cloud`.
"""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator

from upath import UPath as Url

from r2l_jax.errors import InputError, in_words, one_line

BY_URL = "a path, or a URL such as s3://bucket/folder"

Place = pathlib.Path | Url


def place(text: str) -> Place:
    """Returns the place that a user names."""
    if not re.match(r"[a-z][a-z0-9+.-]*://", text):
        return pathlib.Path(text)
    try:
        return Url(text.rstrip("/"))
    except ValueError as error:
        raise InputError(f"{text}: {one_line(error)}") from None


def on_disk(flag: str, text: str) -> pathlib.Path:
    """Returns the path that a flag names; rejects URLs, which cannot be written to."""
    found = place(text)
    if not isinstance(found, pathlib.Path):
        raise InputError(f"`{flag}` must be a local path, got {text}")
    return found


def version(file: Place) -> str:
    """Returns text that changes with the content of a file; empty if unknown."""
    try:
        if isinstance(file, pathlib.Path):
            state = file.stat()
            return f"{state.st_size} {state.st_mtime_ns}"
        return str(file.fs.ukey(file.path))
    except Exception:  # Each storage has its own exceptions; reading the file gives a better error.
        return ""


@contextlib.contextmanager
def downloaded(file: Place) -> Iterator[pathlib.Path]:
    """Yields a path at which a file can be read; a copy is removed afterwards. InputErrors name the URL."""
    if isinstance(file, pathlib.Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="r2l_jax_") as folder:
        path = pathlib.Path(folder) / file.name
        with named(file):
            file.fs.get_file(file.path, str(path))
        try:
            yield path
        except InputError as error:
            raise type(error)(str(error).replace(str(path), str(file))) from error


@contextlib.contextmanager
def named(url: Place) -> Iterator[None]:
    """Turns storage errors into InputErrors that name the URL."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{url}: not found") from None
    except ImportError as error:
        raise InputError(f"{url}: {one_line(error)}: pip install 'r2l_jax[cloud]'") from None
    except Exception as error:  # Each storage has its own.
        raise InputError(f"{url}: {in_words(error)}") from None
