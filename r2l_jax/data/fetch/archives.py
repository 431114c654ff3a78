"""Unpacking archives of which neither the names nor the sizes are trusted."""

import lzma
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from r2l_jax.runtime.errors import InputError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Raw mosaics are noise in their lower bits and shrink by less than ten, even dim ones; deflate's best is 1032.
MAX_RATIO = 100
# An archive of nothing but masks, which are mostly empty, shrinks by more, and does no harm.
ALWAYS_ALLOWED = 2**30
# A disk that is filled to the last byte breaks other programs.
MAX_OF_FREE_DISK = 0.9
# The published sets have some ten thousand files; a million empty ones would use up a file system's inodes.
MAX_FILES = 10**6

_CHUNK = 2**20

# What zipfile and tarfile let through of damaged, encrypted or unknown content, beside OSError.
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
)

# A member's name, whether it is a folder, why it is refused if it is, and a function that opens it.
_Member = tuple[str, bool, str | None, Callable[[], IO[bytes]]]


def is_archive(name: str) -> bool:
    """Whether a file of this name can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def inside(root: pathlib.Path, name: str) -> pathlib.Path:
    """The path of `name`, as an archive or a server gives it, under `root`.

    Args:
        root: the folder that nothing may leave.
        name: parts separated by slashes, or by backslashes as some Windows programs write them.

    Raises:
        InputError: the name is empty, absolute, leads upwards, or has characters that cannot be printed.
    """
    path = pathlib.PureWindowsPath(name)
    if not path.parts or path.anchor or ".." in path.parts or not name.isprintable():
        raise InputError(f"the name {name!r} does not stay in its folder")
    return root.joinpath(*path.parts)


def unpack(archive: pathlib.Path, target: pathlib.Path) -> None:
    """Unpacks a zip or tar archive into a new folder; the folder is removed again if anything is wrong.

    Only plain files and folders are taken, with the user's own permissions. Bytes are counted as they are written,
    whatever the archive's headers say.

    Args:
        archive: the file; its name says what it is, see `SUFFIXES`.
        target: the folder to make; what an earlier, interrupted call left there is removed.

    Raises:
        InputError: a member would leave the folder, is a link or a device, or is there twice; the archive is damaged,
            encrypted, or unpacks to more than `MAX_RATIO` times its size, `MAX_OF_FREE_DISK` of the free disk or
            `MAX_FILES` files; or writing fails.
    """
    shutil.rmtree(target, ignore_errors=True)
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    try:
        target.mkdir(parents=True)
        free = shutil.disk_usage(target).free
        limits = {
            f"{MAX_RATIO} times its size, as no data set's does": max(
                MAX_RATIO * archive.stat().st_size, ALWAYS_ALLOWED
            ),
            f"{MAX_OF_FREE_DISK:.0%} of the {free} bytes free on the disk": int(MAX_OF_FREE_DISK * free),
        }
        limit = min(limits, key=limits.__getitem__)
        left = limits[limit]
        for count, (name, is_folder, refusal, open_member) in enumerate(members(archive), 1):
            if refusal:
                raise InputError(f"{name!r} is {refusal}")
            if count > MAX_FILES:
                raise InputError(f"it has more than {MAX_FILES} files")
            path = inside(target, name)
            # What macOS adds to its zip files: a shadow of the tree, in which folders have the names looked for.
            if "__MACOSX" in path.parts:
                continue
            if is_folder:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, path.open("xb") as file:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise InputError(f"it unpacks to more than {limit}")
                    file.write(chunk)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, InputError):
            raise InputError(f"{archive}: {error}") from None
        if isinstance(error, OSError):
            where = f" {error.filename}" if error.filename else ""
            raise InputError(f"{archive}: unpacking{where}: {error.strerror or error}") from None
        if isinstance(error, _UNREADABLE):
            raise InputError(f"{archive}: damaged or no archive: {' '.join(str(error).split())}") from None
        raise


def _zip_members(archive: pathlib.Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        if sum(member.compress_size for member in opened.infolist()) > archive.stat().st_size:
            raise InputError("its files overlap, as in a bomb")
        for member in opened.infolist():
            if member.filename == "./":
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            refusal = "encrypted" if member.flag_bits & 1 else None if plain else "a link or a device"
            is_folder = member.filename.endswith(("/", "\\"))
            yield member.filename, is_folder, refusal, lambda member=member: opened.open(member)


def _tar_members(archive: pathlib.Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for member in opened:
            # A whole tar file often begins with the folder itself.
            if member.isdir() and member.name in (".", "./"):
                continue
            refusal = None if member.isreg() or member.isdir() else "a link or a device"
            yield member.name, member.isdir(), refusal, lambda member=member: opened.extractfile(member)


def merge(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves what is in one folder into another on the same disk; files of the same name are replaced.

    Raises:
        OSError: a file is where a folder should be, or the reverse.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            merge(path, place)
        else:
            path.replace(place)
