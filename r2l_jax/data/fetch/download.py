"""Downloads the published data sets, Raw-Microscopy and Raw-Drone, from Zenodo or a B2 bucket, into one layout."""

import functools
import json
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Annotated

import msgspec
import pooch
import requests

from r2l_jax.data.fetch import archives, b2
from r2l_jax.data.fetch.fetched import fetch, get
from r2l_jax.data.sets.published import LAYOUTS, Layout
from r2l_jax.errors import InputError, root_cause
from r2l_jax.names import ZENODO_URL
from r2l_jax.results.files import inside, write_json
from r2l_jax.results.locks import writing_to

_RECORD = 5235536

# A file in a data set's folder that lists the archives unpacked into it, because the archives themselves are removed.
_UNPACKED = ".unpacked.json"
_SCRATCH = ".unpacking"


def download(
    dataset: str,
    data_dir: str | pathlib.Path,
    source: str = "zenodo",
    *,
    zenodo_url: str = ZENODO_URL,
    b2_account: b2.Account | None = None,
) -> pathlib.Path:
    """Downloads a published data set unless it exists; continues where an earlier call was interrupted.

    Returns the folder of the data set, "Microscopy" or "Drone", in `data_dir`. The source is "zenodo" (record 5235536
    of the REST API at `zenodo_url`, no account needed) or "b2", which needs `b2_account`. After an error, such as a
    full disk, the bytes received so far are kept.
    """
    layout, folder = LAYOUTS[dataset], pathlib.Path(data_dir)
    root = folder / layout.folder
    try:
        with writing_to(folder):
            if source == "zenodo":
                _from_zenodo(layout, root, zenodo_url)
            elif b2_account is not None:
                _from_b2(layout, root, b2_account)
    except InputError as error:
        raise InputError(_without_passwords(str(error))) from None
    except OSError as error:
        raise InputError(_without_passwords(f"{error.filename or root}: {error.strerror or error}")) from None
    return root


def _without_passwords(message: str) -> str:
    """Returns a message with *** instead of user names and passwords, which precede the @ in its URLs."""
    return re.sub(r"(?<=://)[^/\s]+@", "***@", message)


def _from_b2(layout: Layout, root: pathlib.Path, account: b2.Account) -> None:
    # A missing file may be in any of the archives, so all of them are needed again.
    unpacked = {} if layout.missing(root) else _read_unpacked(root)
    b2.download_folders(account, {name: root / place for name, place in layout.b2_folders.items()}, unpacked)
    if names := _unpack_images(layout, root, root / _SCRATCH):
        write_json(root / _UNPACKED, unpacked | dict.fromkeys(names, ""))
    if missing := layout.missing(root):
        raise InputError(f"{root}: missing from bucket {account.bucket}: {', '.join(missing)}")


def _from_zenodo(layout: Layout, root: pathlib.Path, url: str) -> None:
    record = f"{url.rstrip('/')}/records/{_RECORD}"
    files = {root.parent / file.key: file for file in _archives_of(layout, record, read_record(record))}
    unpacked = {file.key: file.checksum for file in files.values()}
    if root.exists():
        if layout.missing(root) or _read_unpacked(root) != unpacked:
            raise InputError(f"{root} exists but differs from {record}: move it, or choose another `data_dir`")
    else:
        for target, file in files.items():
            algorithm, _, expected = file.checksum.partition(":")
            if target.exists() and pooch.file_hash(str(target), algorithm) != expected:
                raise InputError(f"{target} exists but does not match the checksum of {file.key}: move it")
            fetch(file.links.self, target, file.checksum, file.size)
        scratch = root.with_name(f".{root.name}{_SCRATCH}")
        try:
            unfinished = _assemble(layout, list(files), scratch)
            write_json(unfinished / _UNPACKED, unpacked)
            unfinished.rename(root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    for target in files:
        target.unlink(missing_ok=True)


class _Links(msgspec.Struct):
    self: str


class File(msgspec.Struct):
    """A file of a record: its name, its size in bytes, its checksum such as "md5:..." in hexadecimal, and its URL."""

    key: str
    size: int
    checksum: Annotated[str, msgspec.Meta(pattern=r"^(md5|sha1|sha256|sha512):[0-9a-fA-F]+$")]
    links: _Links


class _Record(msgspec.Struct):
    files: list[File]


def read_record(url: str) -> list[File]:
    """Returns the files of a record in Zenodo's REST API."""
    try:
        with get(url) as response:
            return msgspec.json.decode(response.content, type=_Record).files
    except msgspec.MsgspecError as error:
        raise InputError(f"{url}: not a Zenodo record with a list of files: {error}") from None
    except requests.RequestException as error:
        raise InputError(f"{url}: {root_cause(error)}") from None


def _read_unpacked(root: pathlib.Path) -> dict[str, str]:
    """Returns the names and checksums of the archives that were unpacked into a data set's folder."""
    try:
        return dict(json.loads((root / _UNPACKED).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


# Moves the content of a folder into another, and replaces files of the same names.
_move = functools.partial(shutil.copytree, dirs_exist_ok=True, copy_function=shutil.move)


def _unpack_images(layout: Layout, root: pathlib.Path, scratch: pathlib.Path) -> list[str]:
    """Unpacks the archives among the images in place, and returns their names.

    They are removed only after all are unpacked. Otherwise, after a failure, they would be downloaded again.
    """
    found = sorted(path for path in (root / layout.images).glob("*") if archives.is_archive(path.name))
    for archive in found:
        archives.unpack(archive, scratch)
        _move(scratch, archive.parent)
    shutil.rmtree(scratch, ignore_errors=True)
    for archive in found:
        archive.unlink()
    return [archive.name for archive in found]


def _archives_of(layout: Layout, record: str, files: Sequence[File]) -> list[File]:
    chosen = [file for file in files if layout.folder in file.key.lower() and archives.is_archive(file.key)]
    if not chosen:
        names = ", ".join(file.key for file in files)[:1000] or "no files"
        raise InputError(f"{record}: expected an archive with {layout.folder} in its name, found {names}")
    for file in chosen:
        if len(inside(pathlib.Path(), file.key).parts) != 1:
            raise InputError(f"{record}: {file.key!r} is not a file name")
    return chosen


def _assemble(layout: Layout, files: Sequence[pathlib.Path], scratch: pathlib.Path) -> pathlib.Path:
    """Unpacks archives under `scratch`, and moves their contents into one folder in the published layout."""
    shutil.rmtree(scratch, ignore_errors=True)
    unfinished = scratch / layout.folder
    for archive in files:
        tree = scratch / "unpacked"
        archives.unpack(archive, tree)
        _move(_find_folder(layout, tree, archive), unfinished)
    for name, place in layout.aliases.items():
        if (unfinished / name).is_dir() and not (unfinished / place).exists():
            (unfinished / name).rename(unfinished / place)
    _unpack_images(layout, unfinished, scratch / "unpacked")
    if missing := layout.missing(unfinished):
        raise InputError(f"{', '.join(map(str, files))}: missing after unpacking: {', '.join(missing)}")
    return unfinished


def _find_folder(layout: Layout, tree: pathlib.Path, archive: pathlib.Path) -> pathlib.Path:
    """Returns the data set's folder in an unpacked archive, whatever folders are around it."""
    folders = sorted((path for path in tree.rglob("*") if path.is_dir()), key=lambda path: (len(path.parts), path))
    for folder in folders:
        if folder.name.lower() == layout.folder:
            return folder
    for folder in (tree, *folders):
        if any((folder / name).is_dir() for pair in layout.aliases.items() for name in pair):
            return folder
    names = ", ".join(sorted(path.name for path in tree.iterdir()))
    raise InputError(f"{archive}: expected a folder {layout.folder}, found {names or 'nothing'}")
