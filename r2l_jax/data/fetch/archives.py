"""Unpacks archives without trusting the names and sizes that they state.

pooch's `Untar` unpacks without a filter before Python 3.12, and neither it nor `Unzip` bounds what is written.
"""

import contextlib
import pathlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Generator
from typing import IO, cast

from r2l_jax.data.files.decoding import reading
from r2l_jax.errors import InputError
from r2l_jax.results.files import inside

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
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)

# The name of a member of an archive, and its content; None for a folder.
_Member = tuple[str, IO[bytes] | None]


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
        with reading(archive):
            target.mkdir(parents=True)
            _unpack_members(archive, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _unpack_members(archive: pathlib.Path, target: pathlib.Path) -> None:
    left = max(MAX_RATIO * archive.stat().st_size, ALWAYS_ALLOWED)
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    with contextlib.closing(members(archive)) as found:
        for count, (name, content) in enumerate(found, 1):
            if count > MAX_FILES:
                raise InputError(f"holds more than {MAX_FILES} files")
            # An archive of a whole folder often starts with that folder itself. macOS adds a second tree with metadata
            # to its zip files, whose folders could be mistaken for the data set's.
            if name in (".", "./") or "__MACOSX" in (path := inside(target, name)).parts:
                continue
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                while chunk := content.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise InputError(f"unpacks to more than {MAX_RATIO} times its size, unlike any data set")
                    file.write(chunk)


def _refuse(name: str, reason: str) -> InputError:
    return InputError(f"{name!r:.200} is {reason}")


def _zip_members(archive: pathlib.Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refuse(member.filename, "a link or a device")
            if member.compress_type not in _ZIP_METHODS:
                # LZMA allocates all the memory that the file declares.
                raise _refuse(member.filename, f"compressed by method {member.compress_type}, expected Deflate")
            with opened.open(member) as content:
                yield member.filename, None if member.filename.endswith(("/", "\\")) else content


class _Header(tarfile.TarInfo):
    """A member of a tar archive; rejects headers that would fill the memory, because tarfile reads them whole."""

    def _proc_member(self, tar: tarfile.TarFile):
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise _refuse(self.name, "a sparse file")
        if not self.isreg() and self.size > _MOST_HEADER:
            raise InputError(f"holds a member whose header exceeds {_MOST_HEADER} bytes")
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]  # documented for subclasses


def _tar_members(archive: pathlib.Path) -> Generator[_Member, None, None]:
    with tarfile.open(archive, tarinfo=_Header) as opened:
        for member in opened:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _refuse(member.name, "a sparse file" if member.issparse() else "a link or a device")
            yield member.name, opened.extractfile(member)  # None for a folder
        # tarfile treats an unreadable header as the end of the archive, which is a block of zeros.
        file = cast(IO[bytes], opened.fileobj)
        file.seek(opened.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError("holds a member whose header is damaged")
