"""Downloads of single files that keep the bytes received so far, so that the next call asks only for the rest."""

import dataclasses
import pathlib
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import BinaryIO

import pooch
from tqdm import tqdm

from r2l_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file as its source describes it.

    Attributes:
        name: the file's name in messages.
        size: the size in bytes.
        checksum: "md5:..." or "sha1:..." in hexadecimal; None if the source gives no checksum.
    """

    name: str
    size: int
    checksum: str | None

    @property
    def fingerprint(self) -> str:
        """The checksum or, without one, the size: distinguishes this file from another one of its name."""
        return self.checksum or f"size:{self.size}"

    def mismatch(self, path: pathlib.Path) -> str | None:
        """Describes how the file at a path differs from this one; returns None if it does not differ."""
        size = path.stat().st_size
        if size != self.size:
            return f"got {size} bytes, expected {self.size}"
        if self.checksum is None:
            return None
        algorithm, expected = self.checksum.split(":", 1)
        digest = pooch.file_hash(str(path), alg=algorithm)
        return None if digest == expected else f"got the {algorithm.upper()} {digest}, expected {expected}"


class Dropped(Exception):  # noqa: N818 -- not an error, since the rest may still come
    """Raised when the connection ends before the file does."""


class Stopped(Exception):  # noqa: N818 -- not an error of this file
    """Raised when a download is asked to end because another file's download failed."""


class Sink:
    """The destination of a download: appends bytes to a file, counts them, and refuses more than were announced."""

    def __init__(self, file: BinaryIO, remote: Remote, bar: tqdm, stop: threading.Event):
        self._file, self._remote, self._bar, self._stop = file, remote, bar, stop

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        if self._stop.is_set():
            raise Stopped
        if self._file.tell() + len(data) > self._remote.size:
            raise InputError(f"{self._remote.name}: got more than the {self._remote.size} bytes expected")
        self._bar.update(len(data))
        return self._file.write(data)

    def restart(self) -> None:
        """Discards the bytes received so far."""
        self._bar.update(-self._file.tell())
        self._file.seek(0)
        self._file.truncate()

    def seekable(self) -> bool:
        """Returns False: bytes must come in order, so that an interrupted file lacks only its end."""
        return False


def fetch(
    remote: Remote,
    target: pathlib.Path,
    read: Callable[[Sink, int], None],
    bar: tqdm,
    stop: threading.Event | None = None,
) -> None:
    """Downloads a file to `target`, where it appears complete and checked or not at all.

    Until then the file is `<target>.part`, which stays after an interruption for the next call. If the connection is
    dropped, it is opened again, as long as each connection brings more bytes.

    Args:
        remote: the file.
        target: the path to download to. Its folder is made, and an existing file is replaced.
        read: called with a sink and with the number of bytes that are there already; writes the following bytes to the
            sink. If the source can only start at the first byte, it calls `sink.restart()` first. Raises Dropped if the
            connection ends.
        bar: the progress bar, in bytes.
        stop: ends the download from another thread.

    Raises:
        InputError: the source sends something other than it announced, or stops sending; or writing fails.
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
            # The bytes of an earlier call may be from another version of the file; then a fresh download may succeed.
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
            reason = "the source sent no more"
            try:
                read(sink, start)
            except Dropped as drop:
                reason = str(drop)
            if file.tell() <= furthest:
                raise InputError(
                    f"{remote.name}: {reason} after {file.tell()} of {remote.size} bytes; "
                    "the same command resumes there"
                )
            furthest = file.tell()
        return earlier > 0


def check_free_disk(folder: pathlib.Path, missing: Mapping[pathlib.Path, Remote]) -> None:
    """Checks before a download whether the files fit on the disk.

    Args:
        folder: a folder on the disk.
        missing: the files to download, by their targets.

    Raises:
        InputError: the files do not fit.
    """
    parts = {target.with_name(f"{target.name}.part"): remote.size for target, remote in missing.items()}
    needed = sum(size - min(size, part.stat().st_size if part.is_file() else 0) for part, size in parts.items())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: {needed} bytes are still to be downloaded, but only {free} are free on the disk")
