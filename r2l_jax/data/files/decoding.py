"""The layer against damaged and hostile files around all readers: errors, declared sizes and text."""

import contextlib
import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from r2l_jax.errors import InputError, one_line

# Deflate shrinks data by at most this factor; other common methods shrink it less.
MOST_SHRUNK = 1032
# A picture of this many bytes is harmless, whatever the size of its file.
ALWAYS_ALLOWED = 2**26


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns any exception from a reader into a one-line InputError that starts with the path.

    Decoders raise OSError, SyntaxError, zlib.error, struct.error, MemoryError and many others for damaged files. A
    ValueError also counts as damage, unless msgspec says which field is wrong; for a readable file with wrong content,
    raise an InputError.
    """
    try:
        yield
    except InputError as error:
        start = f"{path}: "
        raise InputError(start + str(error).removeprefix(start)) from error
    except Exception as error:
        first = error.args[0] if error.args else ""
        reason = one_line(first.decode(errors="replace") if isinstance(first, bytes) else error)[:200]
        if isinstance(error, OSError) and error.errno is not None:
            named = "" if str(error.filename) in (str(path), "None") else f"{error.filename}: "
            raise InputError(f"{path}: {named}{error.strerror or reason}") from error
        if isinstance(error, msgspec.ValidationError):
            raise InputError(f"{path}: {reason}") from error
        if isinstance(error, ImportError) or "imagecodecs" in reason:
            raise InputError(f'{path}: {reason}: pip install "r2l_jax[microscopy]"') from error
        kind = Path(path).suffix[1:].upper() or "file of this kind"
        reason = reason or type(error).__name__
        raise InputError(f"{path}: truncated, corrupt or not a valid {kind} ({reason})") from error


@dataclasses.dataclass(frozen=True)
class Stored:
    """The samples of an open file.

    Attributes:
        shape: their shape, from the header.
        size: the bytes that they take when decoded, as the header declares them.
        decode: decodes them, for `read`.
        white: the value of white, if the header states it.
    """

    shape: tuple[int, ...]
    size: int
    decode: Callable[[], np.ndarray]
    white: int | None = None

    def read(self) -> np.ndarray:
        """Decodes the samples; raises a ValueError if they have another shape."""
        samples = self.decode()
        if samples.shape != self.shape:
            raise ValueError(f"it declares samples of shape {self.shape} and holds {samples.shape}")
        return samples


# Reads the header of a file.
Open = Callable[[Path], contextlib.AbstractContextManager[Stored]]


@contextlib.contextmanager
def opened(path: Path, header: Open) -> Iterator[Stored]:
    """Opens a file whose samples are decoded on demand; any error is an InputError in one line.

    Samples that the file cannot hold are refused before memory is taken for them.
    """
    with reading(path), header(path) as stored:
        check_declared(stored.size, path.stat().st_size)
        yield stored


def check_finite(values: np.ndarray, what: str = "") -> None:
    """Raises an InputError with the place of the first value that is NaN or infinite; `what` begins its message."""
    if not np.isfinite(values).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
        raise InputError(f"{what}{' ' * bool(what)}must contain only finite values, got {values[place]} at {place}")


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """Adds advice to errors in reading files that the program itself wrote."""
    try:
        yield
    except (InputError, OSError) as error:
        raise InputError(f"{one_line(error)}; {advice}") from None


def check_declared(declared: int, present: int) -> None:
    """Raises a ValueError if no common compression could shrink the declared bytes of samples to the bytes present."""
    if declared > max(ALWAYS_ALLOWED, MOST_SHRUNK * present):
        raise ValueError(f"the {declared} bytes of samples that it declares cannot be compressed to {present} bytes")


def read_text(path: str | os.PathLike, most: int = 2**28) -> str:
    """Reads a UTF-8 text file of limited size; the default is enough for the names of a few million images."""
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: a text file must have at most {most} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_table(path: str | os.PathLike) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Reads a CSV file: the names of its columns, and its rows by their column `name`, which no two may share."""
    rows = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    columns, found = list(rows.fieldnames or ()), {}
    for row in rows if "name" in columns else ():
        if row["name"] in found:
            raise InputError(f"{path}: names {row['name']} twice")
        found[row["name"]] = row
    return columns, found


def read_labels(path: Path, separator: str | None = None) -> list[list[str]]:
    """Reads the lines of a file, each a name and a class, which a separator or white space divides."""
    pairs = [line.split(separator) for line in filter(str.strip, read_text(path).splitlines())]
    if damaged := [pair for pair in pairs if len(pair) != 2]:
        raise InputError(f"{path}: each line must be a name and a class, got {' '.join(damaged[0])!r:.100}")
    return pairs
