"""Unpacks archives without trusting the names and sizes that they state."""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import pathlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.files import inside

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Raw mosaics have noise in their lower bits, so even dim ones shrink by a factor of less than 10. Deflate can reach a
# factor of 1032.
MAX_RATIO = 100
# Masks are mostly empty and shrink by more than MAX_RATIO, but an archive of this unpacked size does no harm.
ALWAYS_ALLOWED = 2**30
# A completely full disk breaks other programs.
MAX_OF_FREE_DISK = 0.9
# The published sets have some ten thousand files, and a million empty files would use up a file system's inodes.
MAX_FILES = 10**6

_CHUNK = 2**20
# The most bytes of headers of one member of a tar archive, its name included: file systems allow names of 4 KiB.
_MOST_HEADERS = 2**20
# The most bytes of a zip archive's directory, which is read whole before its entries can be counted.
_MOST_DIRECTORY = 2**27
# The first bytes of compressed files.
_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class _Member(NamedTuple):
    """A file or folder in an archive; `refusal` says why it must not be unpacked, if so."""

    name: str
    is_folder: bool
    refusal: str | None
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Returns whether a file of this name can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: pathlib.Path, target: pathlib.Path) -> None:
    """Unpacks a zip or tar archive into a new folder; removes the folder if anything is wrong.

    Only plain files and folders are accepted, and they get the user's default permissions. Bytes are counted as they
    are written, whatever sizes the archive states.

    Args:
        archive: the file; its suffix is one of `SUFFIXES`.
        target: the folder to make; a folder left by an interrupted call is removed first.

    Raises:
        InputError: a member would leave the folder, is a link or a device, or exists twice; the archive is damaged,
            encrypted, or unpacks to more than `MAX_RATIO` times its size, `MAX_OF_FREE_DISK` of the free disk or
            `MAX_FILES` files; or writing fails.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        target.mkdir(parents=True)
        _unpack_members(archive, target)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, InputError):
            raise InputError(f"{archive}: {error}") from None
        if isinstance(error, OSError) and error.errno is not None:
            where = f" {error.filename}" if error.filename else ""
            raise InputError(f"{archive}: unpacking{where}: {error.strerror or error}") from None
        if isinstance(error, Exception):
            # zipfile and tarfile raise many kinds of exceptions for damaged, encrypted or unknown content.
            reason = one_line(error) or type(error).__name__
            raise InputError(f"{archive}: damaged or not an archive: {reason:.200}") from None
        raise


def _unpack_members(archive: pathlib.Path, target: pathlib.Path) -> None:
    free = shutil.disk_usage(target).free
    limits = {
        f"{MAX_RATIO} times its size, which no data set does": max(MAX_RATIO * archive.stat().st_size, ALWAYS_ALLOWED),
        f"{MAX_OF_FREE_DISK:.0%} of the {free} bytes free on the disk": int(MAX_OF_FREE_DISK * free),
    }
    limit, left = min(limits.items(), key=lambda item: item[1])
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    for count, member in enumerate(members(archive), 1):
        if member.refusal:
            raise InputError(f"{member.name!r:.200} is {member.refusal}")
        if count > MAX_FILES:
            raise InputError(f"it has more than {MAX_FILES} files")
        path = inside(target, member.name)
        # macOS adds a second tree with metadata to its zip files, whose folders could be mistaken for the data set's.
        if "__MACOSX" in path.parts:
            continue
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, path.open("xb") as file:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise InputError(f"it unpacks to more than {limit}")
                file.write(chunk)


def _zip_members(archive: pathlib.Path) -> Iterator[_Member]:
    _check_directory(archive)
    with zipfile.ZipFile(archive) as opened:
        if sum(member.compress_size for member in opened.infolist()) > archive.stat().st_size:
            raise InputError("its files overlap, as in a zip bomb")
        for member in opened.infolist():
            if member.filename == "./":
                continue
            is_folder = member.filename.endswith(("/", "\\"))
            open_member = functools.partial(opened.open, member)
            yield _Member(member.filename, is_folder, _refusal_in_zip(member), open_member)


def _refusal_in_zip(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 1:
        return "encrypted"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    if member.compress_type not in _ZIP_METHODS:
        # LZMA allocates all the memory that the file declares.
        return f"compressed by method {member.compress_type}, expected Deflate"
    return None


def _check_directory(archive: pathlib.Path) -> None:
    """Rejects a zip archive whose directory would fill the memory.

    Raises:
        InputError: the directory is too long.
    """
    with archive.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        # The record at the end may be followed by a comment of 64 KiB.
        file.seek(max(0, size - 2**16 - 22))
        end = file.read()
    start = end.rfind(b"PK\x05\x06")
    length = int.from_bytes(end[start + 12 : start + 16], "little") if start >= 0 else 0
    if length == 2**32 - 1:
        # An archive of more than 4 GiB states it in a record of its own.
        start = end.rfind(b"PK\x06\x06")
        length = int.from_bytes(end[start + 40 : start + 48], "little") if start >= 0 else size
    if min(length, size) > _MOST_DIRECTORY:
        raise InputError(f"its directory has {min(length, size)} bytes, more than {_MOST_DIRECTORY}")


class _Metered:
    """Limits how much tarfile reads from a file at once, because tarfile reads the names of members whole.

    Attributes:
        left: the bytes that may still be read until it is reset.
    """

    def __init__(self, file: Any):
        self._file, self.seek, self.tell = file, file.seek, file.tell
        self.left = _MOST_HEADERS

    def read(self, size: int = -1) -> bytes:
        """Reads `size` bytes; raises an InputError if that is more than `left`."""
        if size < 0 or size > self.left:
            raise InputError(f"the headers of one of its members have more than {_MOST_HEADERS} bytes")
        self.left -= size
        return self._file.read(size)


@contextlib.contextmanager
def _unpacked(archive: pathlib.Path) -> Iterator[Any]:
    """Opens the tar archive within a compressed file, which is recognized by its first bytes."""
    with archive.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        wrap = next((wrap for magic, wrap in _COMPRESSED.items() if start.startswith(magic)), contextlib.nullcontext)
        with wrap(file) as unpacked:
            yield unpacked


def _check_end(file: Any, offset: int) -> None:
    """Raises an InputError unless a tar archive ends where tarfile stopped: at a damaged member, it stops silently."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise InputError("damaged or not an archive: the header of a member is damaged")


def _tar_members(archive: pathlib.Path) -> Iterator[_Member]:
    with _unpacked(archive) as file:
        metered: Any = _Metered(file)  # It has all that tarfile needs of a file.
        with tarfile.open(fileobj=metered, mode="r:") as opened:
            while True:
                metered.left = _MOST_HEADERS
                member = opened.next()
                if member is None:
                    _check_end(file, opened.offset)
                    return
                # tarfile keeps all members, of which there may be many.
                opened.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # typeshed lacks it
                # An archive of a whole folder often starts with that folder itself.
                if member.isdir() and member.name in (".", "./"):
                    continue
                refusal = None if member.isreg() or member.isdir() else "a link or a device"
                if member.issparse():
                    refusal = "a sparse file, which takes more room than the archive"
                metered.left = max(member.size, 0)
                # extractfile returns None only for members that are refused.
                open_member = functools.partial(cast(Callable[..., IO[bytes]], opened.extractfile), member)
                yield _Member(member.name, member.isdir(), refusal, open_member)


def merge(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves the content of a folder into another folder on the same disk, and replaces files of the same names.

    Raises:
        OSError: a file is in the place of a folder, or a folder in the place of a file.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            merge(path, place)
        else:
            path.replace(place)
