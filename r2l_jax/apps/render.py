"""Renders many raw files to pictures with one pipeline."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, READERS, from_pictures, read_raw, warn_of_others
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime import remote, stop, store
from r2l_jax.runtime.contact_sheet import contact_sheet, quantized
from r2l_jax.runtime.devices import one_picture_at_a_time
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import clear_parts, refuse_shared_targets, replacing, write_json
from r2l_jax.runtime.jobs import Ended, finished, in_chunks, in_threads
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.remote import Place, Url
from r2l_jax.runtime.resume import MANIFEST, Table, read_manifest

FileFormat = Literal["tiff", "png"]

# The table of the pictures in a folder, and its columns.
_TABLE = "manifest.csv"
_PICTURE, _FILE, _VERSION = _COLUMNS = ("picture", "file", "version")


def find_raw_files(inputs: Sequence[str | os.PathLike], warns: bool = False) -> list[Place]:
    """Lists the given files, and the raw files in the given folders, each once.

    Of a folder on this machine without raw files, it takes those in its sub-folders, such as one for each class.

    Args:
        inputs: paths and URLs.
        warns: whether to warn of the files in these folders that are left out.

    Raises:
        InputError: a file is not there, a folder holds no file with the suffix of a raw file, or a URL cannot be
            reached.
    """
    files, there = list[Place](), list[Place]()
    for name in inputs:
        if not name:
            raise InputError("the name of an input is empty")
        place = remote.place(os.fspath(name))
        if isinstance(place, Url):
            with remote.named(place):
                place.fs.invalidate_cache()
                # Files are not asked for, because a web server would send the whole file.
                found, inside = ([place], []) if place.suffix.lower() in RAW_SUFFIXES else _found(place)
        else:
            found, inside = _found(place)
        files += found
        there += inside
    if warns:
        warn_of_others(set(there) - set(files))
    return list({file.resolve(): file for file in files}.values())


def _found(place: Place) -> tuple[list[Place], list[Place]]:
    """Returns a file, or the raw files in a folder; and all files in the folders of these."""
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
    """Completes the message that a folder holds no raw files: with a folder further down, or about pictures."""
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


class Processing(NamedTuple):
    """The pipeline and the calibration with which raw files are rendered.

    Attributes:
        pipeline: makes the pipeline for the camera of a file.
        camera: the known calibration of a file's camera.
        stored: the same for files that hold no calibration values, such as TIFF.
    """

    pipeline: NamedPipeline
    camera: KnownCamera
    stored: KnownCamera

    def of(self, file: Place) -> KnownCamera:
        """Returns the known calibration of a file's camera."""
        return self.stored if file.suffix.lower() in READERS else self.camera


class Pictures(NamedTuple):
    """The pictures of raw files to write.

    Attributes:
        output: the folder.
        file_format: "tiff" or "png".
        stages: whether to also write a contact sheet of the image after each stage.
    """

    output: Path
    file_format: FileFormat
    stages: bool

    def of(self, file: Place) -> list[Path]:
        """Returns the picture of a raw file, and the contact sheet if there is one."""
        picture, sheet = self.output / f"{file.stem}.{self.file_format}", self.output / f"{file.stem}_stages.png"
        return [picture, sheet] if self.stages else [picture]


def render_files(
    files: Sequence[Place],
    output: Path,
    camera: isp.Camera | KnownCamera | None = None,
    file_format: FileFormat = "tiff",
    stages: bool = False,
    pipeline: NamedPipeline | None = None,
    stored: KnownCamera | None = None,
    scheduler: str = "serial",
    load: Callable[[], Any] = int,
) -> tuple[int, int]:
    """Renders raw files, several at once, with a progress bar on stderr.

    Writes `<output>/<name>.tiff` (16 bits per channel) or `<output>/<name>.png` (8 bits), and `<name>_stages.png` if
    `stages` is true. A file that cannot be rendered is reported on stderr at the end, and the others are still
    rendered. `<output>/manifest.json` holds the pipeline and the camera, and `<output>/manifest.csv` has a row for each
    picture, with the size and the time of the raw file. Another call with the same settings renders the files whose
    pictures are missing, or were made by other code or from an earlier version of the raw file.

    Args:
        files: the raw files.
        output: the folder to write to; made if it does not exist.
        camera: the known calibration; None takes all of it from the files.
        file_format: "tiff" or "png".
        stages: whether to also write a contact sheet of the image after each stage.
        pipeline: makes the pipeline for the camera of a file; None takes `isp.parametrized`.
        stored: the camera of files that hold no calibration values, such as TIFF; None takes `camera`.
        scheduler: where files are rendered, see `jobs.SETTING`.
        load: returns the `Processing` of a worker.

    Returns:
        The number of files that were rendered, and the number that failed.

    Raises:
        InputError: two files would be written to one picture; a picture would replace a raw file or an unknown file;
            the output folder cannot be made, holds pictures of other settings, or another program writes to it; the
            workers cannot be started.
    """
    known = KnownCamera.of(camera)
    processing = Processing(pipeline or find_pipeline("parametrized"), known, stored or known)
    pictures = Pictures(output, file_format, stages)
    _check_targets(files, pictures)
    with writing_to(output):
        table = Table(output / _TABLE, _COLUMNS)
        is_new = _describe(files, output / MANIFEST, processing, pictures)
        # Read before the files: a file that changes meanwhile is rendered again by the next call.
        versions = {file: remote.version(file) for file in files}
        left = _left(versions, table, pictures)

        def record(file: Place, _: None) -> None:
            table.add(_rows(file, versions[file], pictures))

        render = functools.partial(_render_each, pictures)
        ended = in_chunks(render, [[file] for file in left], processing, scheduler, load)
        done, failed = finished(ended, left, len(files) - len(left), record)
        # Workers that were lost have left parts of files.
        clear_parts(output)
        table.sort(target.name for file in files for target in pictures.of(file))
        if is_new and not table.file.exists() and not _there(files, pictures):
            # The next call may have other settings, since the folder holds no pictures of these.
            (output / MANIFEST).unlink()
    return len(done), failed


def _describe(files: Sequence[Place], manifest: Path, processing: Processing, pictures: Pictures) -> bool:
    """Writes the manifest, and returns whether it is the first; forgets pictures of other code.

    Raises:
        InputError: see `render_files`.
    """
    pipeline, camera, stored = processing
    fixed = {
        "pipeline": pipeline.description,
        "camera": camera.described,
        **({} if stored is camera else {"stored_camera": stored.described}),
    }
    earlier = read_manifest(manifest, fixed, "pictures")
    if earlier is None and (there := _there(files, pictures)):
        raise InputError(
            f"{there[0]} would be overwritten, but no {MANIFEST} says how it was made: choose another output folder"
        )
    if earlier is None or earlier.get("made_by") != store.made_by():
        manifest.with_name(_TABLE).unlink(missing_ok=True)
    write_json(manifest, {**fixed, "made_by": store.made_by(), **environment()})
    return earlier is None


def _there(files: Sequence[Place], pictures: Pictures) -> list[Path]:
    """Returns the pictures of files that are in the output folder."""
    return [target for file in files for target in pictures.of(file) if target.exists()]


def _left(versions: Mapping[Place, str], table: Table, pictures: Pictures) -> list[Place]:
    """Returns the files that lack a picture of their present version, and removes their rows from the table."""
    rows = table.rows()
    made = {name: row for name, row in rows.items() if (pictures.output / name).exists()}
    left = [
        file
        for file, version in versions.items()
        if not version or any(made.get(row[_PICTURE]) != row for row in _rows(file, version, pictures))
    ]
    again = {target.name for file in left for target in pictures.of(file)}
    table.write(made[name] for name in rows if name in made.keys() - again)
    return left


def _rows(file: Place, version: str, pictures: Pictures) -> list[dict[str, str]]:
    return [{_PICTURE: target.name, _FILE: str(file), _VERSION: version} for target in pictures.of(file)]


def _check_targets(files: Sequence[Place], pictures: Pictures) -> None:
    pairs = [(file, target) for file in files for target in pictures.of(file)]
    refuse_shared_targets(pairs)
    targets = {target.resolve() for _, target in pairs}
    for file in files:
        if file.resolve() in targets:
            raise InputError(f"{file} is a raw file and would be overwritten: choose another output folder")


def _render_each(pictures: Pictures, processing: Processing, files: Sequence[Place]) -> Iterator[Ended]:
    return in_threads(functools.partial(_render_file, pictures, processing), files, stopped=stop.requested)


def _render_file(pictures: Pictures, processing: Processing, file: Place) -> None:
    """Renders a file, and writes its pictures."""
    with remote.brought(file) as path:
        raw, own = read_raw(path, processing.of(file))
    is_png = pictures.file_format == "png"
    with one_picture_at_a_time:
        processing.pipeline.check(own, *raw.shape)
        rgb, sheet = _render(processing.pipeline(own), raw, pictures.stages)
        # Quantized before the next picture is rendered, so that pictures that wait to be written take less memory.
        picture = quantized(rgb, np.uint8 if is_png else np.uint16)
        del raw, rgb
    picture_file, *sheet_file = pictures.of(file)
    with replacing(picture_file) as part:
        if is_png:
            Image.fromarray(picture).save(part, format="png")
        else:
            tifffile.imwrite(part, picture, photometric="rgb")
    if sheet is not None:
        with replacing(sheet_file[0]) as part:
            sheet.save(part, format="png")


def _render(pipeline: isp.Pipeline, raw: np.ndarray, stages: bool) -> tuple[np.ndarray, Image.Image | None]:
    """Renders a mosaic, and draws its contact sheet if `stages` is true."""
    if not stages:
        return np.asarray(pipeline(raw)), None
    rgb, trace = pipeline.trace(raw)
    # Drawn while other pictures wait, because memory holds the stages of one large picture, not of several.
    return np.asarray(rgb), contact_sheet({name: np.asarray(image) for name, image in trace.items()})
