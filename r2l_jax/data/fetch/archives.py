"""Unpacks archives without trusting the names and sizes that they state."""

import functools
import lzma
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, cast

from r2l_jax.runtime.errors import InputError, one_line

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Raw mosaics have noise in their lower bits, so even dim ones shrink by less than 10. Deflate shrinks by up to 1032.
MAX_RATIO = 100
# Masks are mostly empty and shrink by more than MAX_RATIO, but an archive of this unpacked size does no harm.
ALWAYS_ALLOWED = 2**30
# A completely full disk breaks other programs.
MAX_OF_FREE_DISK = 0.9
# The published sets have some ten thousand files, and a million empty files would use up a file system's inodes.
MAX_FILES = 10**6

_CHUNK = 2**20

# The exceptions other than OSError that zipfile and tarfile raise for damaged, encrypted or unknown content.
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
)


class _Member(NamedTuple):
    """A file or folder in an archive; `refusal` says why it must not be unpacked, if so."""

    name: str
    is_folder: bool
    refusal: str | None
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Returns whether a file of this name can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def inside(root: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path under `root` for a name from an archive or a server.

    Args:
        root: the folder that nothing may leave.
        name: parts separated by slashes, or by backslashes as some Windows programs write them.

    Raises:
        InputError: the name is empty or absolute, leads upwards, or has unprintable characters.
    """
    path = pathlib.PureWindowsPath(name)
    if not path.parts or path.anchor or ".." in path.parts or not name.isprintable():
        raise InputError(f"the name {name!r} does not stay in its folder")
    return root.joinpath(*path.parts)


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
        if isinstance(error, OSError):
            where = f" {error.filename}" if error.filename else ""
            raise InputError(f"{archive}: unpacking{where}: {error.strerror or error}") from None
        if isinstance(error, _UNREADABLE):
            raise InputError(f"{archive}: damaged or no archive: {one_line(error)}") from None
        raise


def _unpack_members(archive: pathlib.Path, target: pathlib.Path) -> None:
    free = shutil.disk_usage(target).free
    limits = {
        f"{MAX_RATIO} times its size, as no data set's does": max(MAX_RATIO * archive.stat().st_size, ALWAYS_ALLOWED),
        f"{MAX_OF_FREE_DISK:.0%} of the {free} bytes free on the disk": int(MAX_OF_FREE_DISK * free),
    }
    limit, left = min(limits.items(), key=lambda item: item[1])
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    for count, member in enumerate(members(archive), 1):
        if member.refusal:
            raise InputError(f"{member.name!r} is {member.refusal}")
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
    with zipfile.ZipFile(archive) as opened:
        if sum(member.compress_size for member in opened.infolist()) > archive.stat().st_size:
            raise InputError("its files overlap, as in a zip bomb")
        for member in opened.infolist():
            if member.filename == "./":
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            refusal = "encrypted" if member.flag_bits & 1 else None if plain else "a link or a device"
            is_folder = member.filename.endswith(("/", "\\"))
            yield _Member(member.filename, is_folder, refusal, functools.partial(opened.open, member))


def _tar_members(archive: pathlib.Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for member in opened:
            # An archive of a whole folder often starts with that folder itself.
            if member.isdir() and member.name in (".", "./"):
                continue
            refusal = None if member.isreg() or member.isdir() else "a link or a device"
            # Only for a member that is refused, extractfile returns None.
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
