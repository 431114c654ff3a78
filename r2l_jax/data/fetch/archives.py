"""Unpacks archives without trusting the names and sizes that they state."""

import functools
import pathlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, cast

from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.files import inside

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Raw images have noise in their lower bits, so even dim ones shrink by a factor of less than 10. Deflate can reach a
# factor of 1032.
MAX_RATIO = 100
# Masks are mostly empty and shrink by more than MAX_RATIO, but an archive of this unpacked size does no harm.
ALWAYS_ALLOWED = 2**30
# The published sets have some ten thousand files, and a million empty files would use up a file system's inodes.
MAX_FILES = 10**6

_CHUNK = 2**20
# The maximum bytes of a tar header, such as a long name; file systems allow names of 4 KiB.
_MOST_HEADER = 2**20
_SPARSE = "a sparse file, which takes more space than the archive"
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class _Member(NamedTuple):
    """A file or folder in an archive; `refusal` is the reason not to unpack it, if there is one."""

    name: str
    is_folder: bool
    refusal: str | None
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Returns whether a file of this name can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: pathlib.Path, target: pathlib.Path) -> None:
    """Unpacks a zip or tar archive into a new folder; removes the folder if anything is wrong.

    Only plain files and folders are accepted, each once and within the folder, and they get the user's default
    permissions. Bytes are counted as they are written, whatever sizes the archive states, up to `MAX_RATIO` times its
    size and `MAX_FILES` files. A folder left by an interrupted call is removed first.
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
    left = max(MAX_RATIO * archive.stat().st_size, ALWAYS_ALLOWED)
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    for count, member in enumerate(members(archive), 1):
        if member.refusal:
            raise InputError(f"{member.name!r:.200} is {member.refusal}")
        if count > MAX_FILES:
            raise InputError(f"holds more than {MAX_FILES} files")
        # An archive of a whole folder often starts with that folder itself.
        if member.is_folder and member.name in (".", "./"):
            continue
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
                    raise InputError(f"unpacks to more than {MAX_RATIO} times its size, unlike any data set")
                file.write(chunk)


def _zip_members(archive: pathlib.Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        if sum(member.compress_size for member in opened.infolist()) > archive.stat().st_size:
            raise InputError("holds overlapping files, like a zip bomb")
        for member in opened.infolist():
            is_folder = member.filename.endswith(("/", "\\"))
            yield _Member(member.filename, is_folder, _refusal_in_zip(member), functools.partial(opened.open, member))


def _refusal_in_zip(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 1:
        return "encrypted"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    if member.compress_type not in _ZIP_METHODS:
        # LZMA allocates all the memory that the file declares.
        return f"compressed by method {member.compress_type}, expected Deflate"
    return None


class _Header(tarfile.TarInfo):
    """A member of a tar archive; rejects headers that would fill the memory, because tarfile reads them whole."""

    def _proc_member(self, tar: tarfile.TarFile):
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise InputError(f"{self.name!r:.200} is {_SPARSE}")
        if not self.isreg() and self.size > _MOST_HEADER:
            raise InputError(f"holds a member whose header exceeds {_MOST_HEADER} bytes")
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]  # documented for subclasses


def _tar_members(archive: pathlib.Path) -> Iterator[_Member]:
    with tarfile.open(archive, tarinfo=_Header) as opened:
        while (member := opened.next()) is not None:
            # tarfile would keep all members, and there may be many.
            opened.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # typeshed lacks it
            refusal = None if member.isreg() or member.isdir() else "a link or a device"
            if member.issparse():
                refusal = _SPARSE
            # extractfile returns None only for members that are rejected.
            open_member = functools.partial(cast(Callable[..., IO[bytes]], opened.extractfile), member)
            yield _Member(member.name, member.isdir(), refusal, open_member)
        # tarfile treats an unreadable header as the end of the archive, which is a block of zeros.
        file = cast(IO[bytes], opened.fileobj)
        file.seek(opened.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError("holds a member whose header is damaged")
