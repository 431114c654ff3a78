"""Works on many raw files: finds them, reads each with its camera, and processes all in chunks that are cached.

An interrupted call resumes with the next chunk. Errors are reported for each file, and the others are still processed.
"""

import functools
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

import isp
from isp.metering import Part
from r2l_jax import jobs
from r2l_jax.data.files import remote
from r2l_jax.data.files.file_metadata import hash_files
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.pictures import from_pictures
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, READERS, read_raw, warn_of_others
from r2l_jax.data.files.remote import Place, Url
from r2l_jax.data.sets.folder import center_crop
from r2l_jax.errors import InputError, in_words, one_line
from r2l_jax.jobs import AT_ONCE, Ended, Job, in_threads
from r2l_jax.results import result, store
from r2l_jax.results.files import clear_parts
from r2l_jax.results.result import Result
from r2l_jax.training.run import BATCH, Run

# The number of chunks, which lets all workers finish at about the same time, and the most batches in a chunk.
_CHUNKS, _BATCHES = 32, 8

Context = TypeVar("Context")


def find_raw_files(inputs: Sequence[str | os.PathLike], warns: bool = False) -> list[Place]:
    """Lists the given files, and the raw files in the given folders, each once.

    If a folder on this machine holds no raw files, those in its sub-folders are listed, such as one for each class.

    Args:
        inputs: paths and URLs.
        warns: whether to warn of the files in these folders that are left out.

    Raises:
        InputError: a file does not exist, a folder holds no file with the suffix of a raw file, or a URL cannot be
            reached.
    """
    files, there = list[Place](), list[Place]()
    for name in inputs:
        if not name:
            raise InputError("an input has an empty name")
        place = remote.place(os.fspath(name))
        if isinstance(place, Url):
            with remote.named(place):
                place.fs.invalidate_cache()
                # Not checked for existence, because a web server would send the whole file.
                found, inside = ([place], []) if place.suffix.lower() in RAW_SUFFIXES else _found(place)
        else:
            found, inside = _found(place)
        files += found
        there += inside
    if warns:
        warn_of_others(set(there) - set(files))
    return list({file.resolve(): file for file in files}.values())


def _found(place: Place) -> tuple[list[Place], list[Place]]:
    """Returns a single file and no others, or the raw files of a folder and all files beside them."""
    if place.is_dir():
        found = _raw_files(place.iterdir()) or _raw_files(place.glob("*/*"))
        if not found:
            raise InputError(f"{place}: no raw files in this folder{_below(place)}")
        return found, [
            file for folder in {file.parent for file in found} for file in folder.iterdir() if file.is_file()
        ]
    if not place.exists():
        raise InputError(f"{place}: no such file")
    return [place], []


def _raw_files(places: Iterable[Place]) -> list[Place]:
    return sorted(file for file in places if file.is_file() and file.suffix.lower() in RAW_SUFFIXES)


def _below(folder: Place) -> str:
    """Completes the message that a folder holds no raw files: they are in deeper folders, or the files are JPEG."""
    if not isinstance(folder, Path):
        return ""
    if deeper := _raw_files(folder.glob("*/*/*")):
        return f", only further down, such as in {os.path.relpath(str(deeper[0].parent), folder)}"
    here_and_below = [*folder.iterdir(), *folder.glob("*/*")]
    pictures = any(file.suffix.lower() in (".jpg", ".jpeg") for file in here_and_below)
    return f", but JPEG; {from_pictures()}" if pictures else ""


def find_paths(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """Lists files as `find_raw_files` does, for programs that read only files on this machine.

    Raises:
        InputError: as for `find_raw_files`; or an input is a URL.
    """
    for name in inputs:
        if isinstance(remote.place(os.fspath(name)), Url):
            raise InputError(f"{name}: this program reads files on this machine, not URLs")
    return [file for file in find_raw_files(inputs) if isinstance(file, Path)]


class Cameras(NamedTuple):
    """The known calibration of the camera of raw files.

    Attributes:
        camera: of files in camera formats.
        stored: of files that hold no calibration values, such as TIFF.
    """

    camera: KnownCamera
    stored: KnownCamera

    @classmethod
    def of_run(cls, run: Run, camera: KnownCamera | None = None) -> "Cameras":
        """Returns the cameras of files that a run processes.

        If none is given, camera formats bring their own, and other files are of the training's camera.

        Raises:
            InputError: the models of the run do not take raw files.
        """
        known = run.reading(camera)
        return cls(known, run.reading(run.calibration) if camera is None else known)

    def read(self, file: Place) -> tuple[np.ndarray, isp.Camera]:
        """Reads the raw image of a file and its camera; see `read_raw`."""
        with remote.downloaded(file) as path:
            return read_raw(path, self.stored if is_stored(file) else self.camera)


def is_stored(file: Place) -> bool:
    """Tells whether a file's format has no calibration values."""
    return file.suffix.lower() in READERS


def read_file(file: Place, run: Run, camera: KnownCamera | None, size: tuple[int, int] | None) -> np.ndarray | Part:
    """Reads the raw image of a file as a run's models take it, see `Run.reading`.

    After training on tiles, the middle of a file is metered as the whole file.

    Args:
        file: the raw file.
        run: the run, which has a camera.
        camera: as for `Cameras.of_run`.
        size: height and width to cut out of the middle, for example `run.shape`; None keeps the whole frame.

    Raises:
        InputError: the file cannot be read, is smaller than that size, or has another color filter array.
    """
    raw, file_camera = Cameras.of_run(run, camera).read(file)
    if size is None:
        return raw
    height, width = size
    if raw.shape[0] < height or raw.shape[1] < width:
        images = "raw images in training" if size == run.shape else "raw images of `size`"
        raise InputError(f"{file} is {raw.shape[0]}x{raw.shape[1]}, smaller than the {images}, {height}x{width}")
    # Copied, because a view would keep the whole file in memory.
    middle = center_crop(raw, height, width, file_camera.pattern).copy()
    return middle if not run.about.in_parts or (frame := run.metered_frame(raw)) is None else Part(middle, frame)


def frame_by_frame(
    files: Sequence[Place], read: Callable[[Place], Any], work: Callable[[Place, Any], Any]
) -> Iterator[Ended]:
    """Works on one file after the other, and yields the result or the error of each; reads ahead in threads."""
    for file, raw, error, warnings, _ in in_threads(read, files, AT_ONCE + 1):
        found = None
        if raw is not None:
            try:
                found = work(file, raw)
            except InputError as failed:
                error = f"{file}: {in_words(failed)}"
        yield Ended(file, found, error, warnings if error is None else ())


class Worked(NamedTuple):
    """Results in the order of the files, and the numbers of files with a new result and of those that failed."""

    results: dict[Place, Any]
    counts: tuple[int, int]


def closing(counts: tuple[int, int], files: Sequence[Place], verb: str) -> str:
    """Returns a program's last line, such as "2 rendered, 0 failed, 1 rendered earlier", given `Worked.counts`."""
    before = len(files) - sum(counts)
    return f"{counts[0]} {verb}, {counts[1]} failed" + f", {before} {verb} earlier" * bool(before)


def for_each_file(
    files: Sequence[Place],
    work: Callable[[Context, Sequence[Place]], Iterable[Ended]],
    context: Context,
    *,
    chunks: Path,
    settings: Any,
    models: Any,
    targets: Callable[[Place], list[Path]],
    scheduler: str = "serial",
    load: Callable[[], Context] | None = None,
) -> Worked:
    """Works on files in chunks, with a progress bar and, at the end, the errors on stderr.

    Chunks are computed again if their settings, models, code or files have changed, or if a file in them failed.

    Args:
        files: the raw files.
        work: works on files, and yields an `Ended` for each, in order, with a result that JSON can hold.
        context: what `work` needs besides files, such as a model.
        chunks: a folder for the chunks' results alone.
        settings: everything that results depend on besides files and models.
        models: the identities of models and pipelines.
        targets: the files that the work on a file writes.
        scheduler: where chunks are worked on, see `jobs.SETTING`.
        load: returns the context of another process.
    """
    get = load if scheduler != "serial" and load else lambda: context
    size = BATCH * int(np.clip(-(-len(files) // (_CHUNKS * BATCH)), 1, _BATCHES))
    parts, before, given = dict[str, Sequence[Place]](), set[str](), []
    version_of = _versions(files)
    for start in range(0, len(files), size):
        part = files[start : start + size]
        versions = [[str(file), version_of[file]] for file in part]
        inputs = store.identity(settings, versions, models)
        name = store.hash_json(inputs)[:16]
        is_known = all(version for _, version in versions)
        if not (is_known and all(target.exists() for file in part for target in targets(file))):
            shutil.rmtree(chunks / name, ignore_errors=True)
        if (chunks / name / result.FILE).exists():
            before.add(name)
        parts[name] = part
        given.append(Job(name, functools.partial(_chunk, chunks / name, inputs, work, get, part)))
    counts = [0]

    def ended() -> Generator[Ended, None, None]:
        for name, found, error, *_ in jobs.run(given, scheduler):
            if error is not None:
                found = [[None, one_line(f"{file}: {error}"), ()] for file in parts[name]]
            if any(failed is not None for _, failed, _ in found):
                shutil.rmtree(chunks / name, ignore_errors=True)
            elif name in before:
                counts[0] += len(found)
            yield from (Ended(file, *each) for file, each in zip(parts[name], found, strict=True))

    # Removed first: the files of other chunks are about to be replaced.
    for other in chunks.glob("*/"):
        if other.name not in parts:
            shutil.rmtree(other, ignore_errors=True)
    results, failed = jobs.finished(ended(), files)
    # Lost workers leave partial files.
    for folder in {target.parent for file in files for target in targets(file)}:
        clear_parts(folder)
    ordered = {file: results[file] for file in files if file in results}
    return Worked(ordered, (len(results) - counts[0], failed))


def _versions(files: Sequence[Place]) -> dict[Place, str]:
    """Returns a hash of the content of each file, of a URL's metadata instead; empty if unknown."""
    here = [file for file in files if isinstance(file, Path) and file.is_file() and os.access(file, os.R_OK)]
    return {file: remote.version(file) for file in files} | dict(zip(here, hash_files(here), strict=True))


def _chunk(
    folder: Path,
    inputs: store.Identity,
    work: Callable[[Context, Sequence[Place]], Iterable[Ended]],
    get: Callable[[], Context],
    files: Sequence[Place],
) -> list[list[Any]]:
    """Returns the result, the error and the warnings of each file of a chunk."""

    def make() -> Result:
        with tqdm(work(get(), files), total=len(files), unit="file", leave=False, disable=None) as ended:
            return Result({"ended": [[each.result, each.error, each.warnings] for each in ended]})

    return result.cached(folder, inputs, make).metadata["ended"]
