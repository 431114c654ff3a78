"""The published data sets, Raw-Microscopy and Raw-Drone, from Zenodo or from a B2 bucket, in the published layout.

microscopy/images/raw_scale{001,005,010,025,050,075,100}/*    microscopy/labels/Ma190c_annotations.dat
drone/images_full/raw_scale{001,005,010,025,050,075,100}/*    drone/masks_full/*

Oala et al., "Data Models for Dataset Drift Controls in Machine Learning With Optical Images" (TMLR 2023); the layout is
that of the program published with it.
"""

import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence

import requests
from tqdm import tqdm

from r2l_jax.config import INTENSITIES
from r2l_jax.data.fetch import archives, b2
from r2l_jax.data.fetch.partial import Dropped, Remote, Sink, check_free_disk, fetch, lock
from r2l_jax.data.sets.synthetic import intensity_folder
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json

SOURCES = ("zenodo", "b2")
ZENODO_URL = "https://zenodo.org/api"
ZENODO_RECORD = 5235536

# To connect, and between two pieces of an answer: Zenodo may take a while to find a file's first byte.
_TIMEOUT = (30, 120)
# Small: of a piece during which the connection ends, nothing is kept.
_CHUNK = 2**16

# In a data set's folder: which archives have been unpacked into it, since they themselves are removed.
_UNPACKED = ".unpacked.json"
_SCRATCH = ".unpacking"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set's files are.

    Attributes:
        folder: the data set's folder under the data folder; Zenodo's files of it have the word in their names.
        images: the folder with one sub-folder for each intensity.
        targets: the file of labels, or the folder of masks.
        b2_folders: the bucket's folders, and where their files go.
    """

    folder: str
    images: str
    targets: str
    b2_folders: Mapping[str, str]

    @property
    def aliases(self) -> dict[str, str]:
        """The names that the bucket's folders have, and those that the published program gives them."""
        return {name.rsplit("/", 1)[-1]: place for name, place in self.b2_folders.items()}

    def missing(self, root: pathlib.Path) -> list[str]:
        """What of the layout is not there, or empty."""
        expected = [*(f"{self.images}/{intensity_folder(intensity)}" for intensity in INTENSITIES), self.targets]
        return [
            name for name in expected if not (root / name).is_file() and next((root / name).glob("[!.]*"), None) is None
        ]


LAYOUTS = {
    "Microscopy": Layout(
        folder="microscopy",
        images="images",
        targets="labels/Ma190c_annotations.dat",
        b2_folders={
            "Data histopathology/WhiteCellsImages": "images",
            "Data histopathology/WhiteCellsLabels": "labels",
        },
    ),
    "Drone": Layout(
        folder="drone",
        images="images_full",
        targets="masks_full",
        b2_folders={"drone/images": "images_full", "drone/masks": "masks_full"},
    ),
}


def download(
    dataset: str,
    data_dir: str | pathlib.Path,
    source: str = "zenodo",
    *,
    zenodo_url: str = ZENODO_URL,
    b2_account: b2.Account | None = None,
) -> pathlib.Path:
    """Brings a published data set to the disk, or finds it there; goes on where an earlier call was interrupted.

    Args:
        dataset: "Microscopy" or "Drone".
        data_dir: the folder that gets a sub-folder of the data set, `microscopy` or `drone`; made if missing.
        source: "zenodo", record 5235536, which needs no account; or "b2".
        zenodo_url: where Zenodo's REST API is.
        b2_account: for "b2": the application key and the bucket.

    Returns:
        The data set's folder.

    Raises:
        InputError: the source cannot be reached, refuses, or sends something else than it announced or than the data
            set is; another download into `data_dir` is under way; the disk is full. What has come of a file stays in
            `<name>.part`.
    """
    if dataset not in LAYOUTS:
        raise InputError(f"--dataset must be one of {', '.join(LAYOUTS)}, got {dataset!r}")
    if source not in SOURCES:
        raise InputError(f"--source must be one of {', '.join(SOURCES)}, got {source!r}")
    if source == "b2" and b2_account is None:
        raise InputError("--source=b2 needs a bucket and an application key")
    layout, folder = LAYOUTS[dataset], pathlib.Path(data_dir)
    root = folder / layout.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            if source == "zenodo":
                _from_zenodo(layout, root, zenodo_url)
            else:
                _from_b2(layout, root, b2_account)
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror or error}") from None
    return root


def _from_b2(layout: Layout, root: pathlib.Path, account: b2.Account) -> None:
    # If something has been deleted, the archives that it may have been in are needed again.
    unpacked = {} if layout.missing(root) else _read_unpacked(root)
    folders = {name: root / place for name, place in layout.b2_folders.items()}
    done = {root / name: fingerprint for name, fingerprint in unpacked.items()}
    fingerprints = b2.download_folders(account, folders, done)
    shutil.rmtree(root / _SCRATCH, ignore_errors=True)
    packed = [archive for archive in _archives_in(root / layout.images) if archive in fingerprints]
    for archive in packed:
        _unpack_in_place(archive, root / _SCRATCH)
    # All at once: were some removed when unpacking the next one fails, they would have to come again.
    if packed:
        unpacked |= {str(archive.relative_to(root)): fingerprints[archive] for archive in packed}
        write_json(root / _UNPACKED, unpacked)
    for archive in packed:
        archive.unlink()
    if missing := layout.missing(root):
        raise InputError(f"{root}: bucket {account.bucket} lacks {', '.join(missing)}")


def _from_zenodo(layout: Layout, root: pathlib.Path, url: str) -> None:
    record = f"{url.rstrip('/')}/records/{ZENODO_RECORD}"
    urls = _choose(layout, record, _read_record(record))
    targets = {root.parent / remote.name: remote for remote in urls}
    unpacked = {remote.name: remote.fingerprint for remote in urls}
    if root.exists():
        if layout.missing(root) or _read_unpacked(root) != unpacked:
            raise InputError(
                f"{root} is there, but is not what {record} has: move it away, or use another folder for the download"
            )
    else:
        with tqdm(desc="Zenodo", total=sum(remote.size for remote in urls), unit="B", unit_scale=True) as bar:
            missing = {target: remote for target, remote in targets.items() if not _is_there(remote, target, bar)}
            check_free_disk(root.parent, missing)
            for target, remote in missing.items():
                _fetch_http(remote, target, urls[remote], bar)
        scratch = root.with_name(f".{root.name}{_SCRATCH}")
        try:
            draft = _assemble(layout, list(targets), scratch)
            write_json(draft / _UNPACKED, unpacked)
            draft.rename(root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    for target in targets:
        target.unlink(missing_ok=True)


def _read_unpacked(root: pathlib.Path) -> dict[str, str]:
    path = root / _UNPACKED
    try:
        unpacked = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        unpacked = None
    if not isinstance(unpacked, dict):
        raise InputError(f"{path}: not what a download writes; delete it")
    return unpacked


def _archives_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*") if path.is_file() and archives.is_archive(path.name))


def _unpack_in_place(archive: pathlib.Path, scratch: pathlib.Path) -> None:
    """Unpacks an archive of intensities' folders beside itself, as the published program does."""
    archives.unpack(archive, scratch)
    archives.merge(scratch, archive.parent)
    shutil.rmtree(scratch)


def _read_record(url: str) -> dict[Remote, str]:
    """The files of a record of Zenodo, and where each is."""
    try:
        response = requests.get(url, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise InputError(f"{url}: {reason(error)}") from None
    _check_status(response)
    try:
        files = {
            Remote(str(file["key"]), int(file["size"]), str(file["checksum"])): str(file["links"]["self"])
            for file in response.json()["files"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}: not a record of Zenodo's with a list of files: {error!r}") from None
    for remote in files:
        if not re.fullmatch(r"(md5|sha1|sha256|sha512):[0-9a-f]+", remote.checksum):
            raise InputError(f"{url}: {remote.name} has the checksum {remote.checksum!r}, expected one like md5:...")
    return files


def _choose(layout: Layout, record: str, files: Mapping[Remote, str]) -> dict[Remote, str]:
    """Those of a record's files that are archives of the data set, by their names."""
    chosen = {
        remote: url
        for remote, url in files.items()
        if layout.folder in remote.name.lower() and archives.is_archive(remote.name)
    }
    if not chosen:
        names = ", ".join(remote.name for remote in files) or "none at all"
        raise InputError(f"{record}: no archive with {layout.folder} in its name; its files are: {names}")
    for remote in chosen:
        if len(archives.inside(pathlib.Path(), remote.name).parts) != 1:
            raise InputError(f"{record}: the name {remote.name!r} is not that of a file")
    return chosen


def _is_there(remote: Remote, target: pathlib.Path, bar: tqdm) -> bool:
    if not target.exists():
        return False
    if problem := remote.mismatch(target):
        raise InputError(f"{target} is there, but it is not {remote.name}: {problem}; move it away")
    bar.update(remote.size)
    return True


def _fetch_http(remote: Remote, target: pathlib.Path, url: str, bar: tqdm) -> None:
    """Fetches a file by HTTP. pooch, which brings requests, would begin every file from its first byte."""

    def read(sink: Sink, start: int) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                _check_status(response)
                came = response.headers.get("Content-Range", "")
                if start and response.status_code != 206:
                    sink.restart()
                elif start and not came.startswith(f"bytes {start}-"):
                    raise InputError(f"{url}: the range {came!r} came, expected one from byte {start}")
                for chunk in response.iter_content(_CHUNK):
                    sink.write(chunk)
        except requests.RequestException as error:
            raise Dropped(f"{url}: {reason(error)}") from None

    fetch(remote, target, read, bar)


def _check_status(response: requests.Response) -> None:
    if not response.ok:
        raise InputError(f"{response.url}: HTTP {response.status_code} {response.reason}")


def reason(error: BaseException) -> str:
    """What lies at the bottom of a chain of exceptions, in one line."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return " ".join(str(error).split()) or type(error).__name__


def _assemble(layout: Layout, files: Sequence[pathlib.Path], scratch: pathlib.Path) -> pathlib.Path:
    """Unpacks archives under `scratch`, and makes one folder in the published layout of what is in them."""
    shutil.rmtree(scratch, ignore_errors=True)
    draft = scratch / layout.folder
    for archive in files:
        tree = scratch / "unpacked"
        archives.unpack(archive, tree)
        archives.merge(_find_folder(layout, tree, archive), draft)
        shutil.rmtree(tree, ignore_errors=True)
    for name, place in layout.aliases.items():
        if (draft / name).is_dir() and not (draft / place).exists():
            (draft / name).rename(draft / place)
    for archive in _archives_in(draft / layout.images):
        _unpack_in_place(archive, scratch / "unpacked")
        archive.unlink()
    if missing := layout.missing(draft):
        raise InputError(f"{', '.join(map(str, files))}: no {', '.join(missing)} in what was unpacked")
    return draft


def _find_folder(layout: Layout, tree: pathlib.Path, archive: pathlib.Path) -> pathlib.Path:
    """The data set's folder in what has been unpacked, whatever folders are around it."""
    folders = sorted((path for path in tree.rglob("*") if path.is_dir()), key=lambda path: (len(path.parts), path))
    for folder in folders:
        if folder.name.lower() == layout.folder:
            return folder
    for folder in (tree, *folders):
        if any((folder / name).is_dir() for pair in layout.aliases.items() for name in pair):
            return folder
    names = ", ".join(sorted(path.name for path in tree.iterdir()))
    raise InputError(f"{archive}: no folder {layout.folder} in it, but {names or 'nothing'}")
