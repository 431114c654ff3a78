"""Helpers for all file readers: one-line errors that name the file, and bounds on declared sizes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from r2l_jax.runtime.errors import InputError, one_line

# Deflate shrinks data by at most this factor, and other common methods by less.
MOST_SHRUNK = 1032
# A picture of this many bytes does no harm, whatever the size of its file.
ALWAYS_ALLOWED = 2**26
# A message of a decoder may quote the whole file.
_LONGEST = 200


@contextlib.contextmanager
def reading(path: str | os.PathLike, kind: str | None = None) -> Iterator[None]:
    """Turns every exception of a reader into an InputError of one line that starts with the path.

    Decoders raise OSError, SyntaxError, zlib.error, struct.error, MemoryError and many others for damaged files. A
    ValueError also counts as damage; for a readable file with wrong content, raise an InputError.

    Args:
        path: the file.
        kind: the expected kind of file, such as "TIFF"; None takes it from the suffix.

    Raises:
        InputError: anything was raised.
    """
    path = Path(path)
    kind = kind or path.suffix[1:].upper() or "file of this kind"
    try:
        yield
    except InputError as error:
        start = f"{path}: "
        raise InputError(start + str(error).removeprefix(start)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: {error.strerror or one_line(error)}") from error
        reason = one_line(error) or type(error).__name__
        if len(reason) > _LONGEST:
            reason = f"{reason[:_LONGEST]}..."
        raise InputError(f"{path}: truncated, corrupt or not a valid {kind} ({reason})") from error


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """Adds advice to errors in reading files that the program itself wrote.

    Raises:
        InputError: an InputError or OSError was raised.
    """
    try:
        yield
    except (InputError, OSError) as error:
        raise InputError(f"{one_line(error)}; {advice}") from None


def check_declared(declared: int, present: int) -> None:
    """Rejects a file that declares more than it can hold, before memory is taken for it.

    Args:
        declared: the bytes of the samples that the file declares.
        present: the bytes in the file from which they are decoded.

    Raises:
        ValueError: no usual compression method could shrink the declared bytes to the present ones.
    """
    if declared > max(ALWAYS_ALLOWED, MOST_SHRUNK * present):
        raise ValueError(f"it declares {declared} bytes of samples, and {present} bytes cannot hold them")


def read_text(path: str | os.PathLike, most: int = 2**20) -> str:
    """Reads a text file of limited size.

    Raises:
        OSError: the file cannot be read.
        InputError: it is longer, or is not text in UTF-8; the message starts with the path.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: expected text of at most {most} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
