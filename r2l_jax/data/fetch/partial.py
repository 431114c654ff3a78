"""Files that arrive over a network, in pieces: what has come is kept, and the next call asks for the rest."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import pooch
from tqdm import tqdm

from r2l_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file as its source describes it.

    Attributes:
        name: what to call it in messages.
        size: in bytes.
        checksum: "md5:..." or "sha1:...", in hexadecimal; None if the source has none.
    """

    name: str
    size: int
    checksum: str | None

    @property
    def fingerprint(self) -> str:
        """What tells this file from another of its name."""
        return self.checksum or f"size:{self.size}"

    def mismatch(self, path: pathlib.Path) -> str | None:
        """How the file at `path` differs from this one; None if it does not."""
        size = path.stat().st_size
        if size != self.size:
            return f"{size} bytes came, expected {self.size}"
        if self.checksum is None:
            return None
        algorithm, expected = self.checksum.split(":", 1)
        came = pooch.file_hash(str(path), alg=algorithm)
        return None if came == expected else f"the {algorithm.upper()} of what came is {came}, expected {expected}"


class Dropped(Exception):  # noqa: N818 -- the rest may still come
    """The connection ended before the file did."""


class Stopped(Exception):  # noqa: N818 -- nothing went wrong here
    """Another file's download failed, and this one was asked to end."""


class Sink:
    """Where a download's bytes go: appends to a file, counts them, and takes no more than were announced."""

    def __init__(self, file: BinaryIO, remote: Remote, bar: tqdm, stop: threading.Event):
        self._file, self._remote, self._bar, self._stop = file, remote, bar, stop

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        if self._stop.is_set():
            raise Stopped
        if self._file.tell() + len(data) > self._remote.size:
            raise InputError(f"{self._remote.name}: more than the {self._remote.size} bytes expected came")
        self._bar.update(len(data))
        return self._file.write(data)

    def restart(self) -> None:
        """Drops what has come so far."""
        self._bar.update(-self._file.tell())
        self._file.seek(0)
        self._file.truncate()

    def seekable(self) -> bool:
        """False: the bytes come in order, so that an interrupted file is one without its end."""
        return False


def fetch(
    remote: Remote,
    target: pathlib.Path,
    read: Callable[[Sink, int], None],
    bar: tqdm,
    stop: threading.Event | None = None,
) -> None:
    """Brings a file to `target`, where it appears whole and checked or not at all.

    Until then it is `<target>.part`, which an interruption leaves for the next call. A connection that drops is taken
    up again as long as each one brings the file further.

    Args:
        remote: the file.
        target: where it shall be; its folder is made. A file that is there is replaced.
        read: called with a sink and how many bytes are there already: writes the following ones to it. If the source
            begins from the first byte nevertheless, it calls `sink.restart()` before. Raises Dropped if the connection
            ends.
        bar: the progress bar, in bytes.
        stop: ends the download from another thread.

    Raises:
        InputError: the source sends other bytes than it announced, or no more; or writing fails.
        Stopped: `stop` was set.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            continued = _fill(part, remote, read, bar, stop or threading.Event())
            problem = remote.mismatch(part)
            if problem is None:
                part.replace(target)
                return
            bar.update(-part.stat().st_size)
            part.unlink()
            # What an earlier call left may have been of another version of the file.
            if not continued:
                raise InputError(f"{remote.name}: {problem}")
    except OSError as error:
        raise InputError(f"{remote.name}: writing {part}: {error.strerror or error}") from None
    finally:
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()


def _fill(
    part: pathlib.Path, remote: Remote, read: Callable[[Sink, int], None], bar: tqdm, stop: threading.Event
) -> bool:
    """Reads until all bytes are there; returns whether some of them are from an earlier call."""
    with part.open("ab") as file:
        sink = Sink(file, remote, bar, stop)
        bar.update(file.tell())
        earlier = furthest = file.tell()
        while (start := file.tell()) < remote.size:
            reason = "no more came"
            try:
                read(sink, start)
            except Dropped as drop:
                reason = str(drop)
            if file.tell() <= furthest:
                raise InputError(
                    f"{remote.name}: {reason} after {file.tell()} of {remote.size} bytes; "
                    "the same command again goes on from there"
                )
            furthest = file.tell()
        return earlier > 0


def check_free_disk(folder: pathlib.Path, missing: Mapping[pathlib.Path, Remote]) -> None:
    """Finds out before a download whether it will fit on the disk.

    Args:
        folder: a folder on the disk.
        missing: the files to come, by their targets.

    Raises:
        InputError: they do not fit.
    """
    parts = {target.with_name(f"{target.name}.part"): remote.size for target, remote in missing.items()}
    needed = sum(size - min(size, part.stat().st_size if part.is_file() else 0) for part, size in parts.items())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: {needed} bytes are still to come, and only {free} are free on the disk")


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other downloads out of a folder: two that append to one file would spoil it.

    Raises:
        InputError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another download into this folder is under way") from None
        except OSError:
            # Some network file systems lock no folders; there it is up to the user.
            pass
        yield
    finally:
        os.close(descriptor)
