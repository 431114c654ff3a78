"""Renders many raw files to pictures by one pipeline."""

import contextlib
import csv
import functools
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tifffile
from PIL import Image
from tqdm import tqdm

import isp
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, STORED_SUFFIXES, read_raw
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime import manifests, remote, store
from r2l_jax.runtime.chunks import SERIAL, Workers, spread
from r2l_jax.runtime.contact_sheet import contact_sheet, quantized
from r2l_jax.runtime.devices import one_picture_at_a_time
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import (
    append_csv,
    clear_parts,
    read_csv,
    refuse_shared_targets,
    sort_csv,
    worked,
    write_csv,
    write_json,
)
from r2l_jax.runtime.remote import Place, Url

FileFormat = Literal["tiff", "png"]

# The table of the pictures in a folder, and its columns.
_TABLE = "manifest.csv"
_PICTURE, _FILE, _VERSION = _COLUMNS = ("picture", "file", "version")


def find_raw_files(inputs: Sequence[str | os.PathLike]) -> list[Place]:
    """Lists the given files, and the raw files directly in the given folders, each once.

    Args:
        inputs: paths and URLs.

    Raises:
        InputError: a file is not there, a folder holds no file with the suffix of a raw file, or a URL cannot be
            reached.
    """
    files = list[Place]()
    for name in inputs:
        if not name:
            raise InputError("the name of an input is empty")
        place = remote.place(os.fspath(name))
        if isinstance(place, Url):
            if place.suffix.lower() in RAW_SUFFIXES:
                files.append(place)
                continue
            found = [url for url in remote.listed(place) if url.suffix.lower() in RAW_SUFFIXES or url == place]
        elif place.is_dir():
            found = sorted(file for file in place.iterdir() if file.is_file() and file.suffix.lower() in RAW_SUFFIXES)
        elif place.exists():
            files.append(place)
            continue
        else:
            raise InputError(f"{place}: no such file")
        if not found:
            raise InputError(f"{place}: no raw files in this folder{_below(place)}")
        files += found
    return list({file.resolve(): file for file in files}.values())


def _below(folder: Place) -> str:
    """Continues the message that a folder holds no raw files with the name of a sub-folder that does."""
    if isinstance(folder, Url):
        return ""
    deeper = sorted(file.parent.name for file in folder.glob("*/*") if file.suffix.lower() in RAW_SUFFIXES)
    return f", only in its sub-folders, such as {deeper[0]}" if deeper else ""


def find_paths(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """Lists files as `find_raw_files` does, for programs that read only files of this machine.

    Raises:
        InputError: as `find_raw_files`; or an input is a URL.
    """
    for name in inputs:
        if isinstance(remote.place(os.fspath(name)), Url):
            raise InputError(f"{name}: this program reads files of this machine, not of a URL")
    return [file for file in find_raw_files(inputs) if isinstance(file, Path)]


class Processing(NamedTuple):
    """By which raw files are rendered.

    Attributes:
        pipeline: makes the pipeline for the camera of a file.
        camera: what is known of the camera of files.
        stored: what is known of the camera of files that hold no calibration values, such as TIFF.
    """

    pipeline: NamedPipeline
    camera: KnownCamera
    stored: KnownCamera

    def of(self, file: Place) -> KnownCamera:
        """Returns what is known of the camera of a file."""
        return self.stored if file.suffix.lower() in STORED_SUFFIXES else self.camera


class Pictures(NamedTuple):
    """Which pictures of raw files are written.

    Attributes:
        output: the folder.
        file_format: "tiff" or "png".
        stages: whether a contact sheet of the image after each stage is written as well.
    """

    output: Place
    file_format: FileFormat
    stages: bool

    def of(self, file: Place) -> list[Place]:
        """Returns the picture of a raw file, and the contact sheet if there is one."""
        picture, sheet = self.output / f"{file.stem}.{self.file_format}", self.output / f"{file.stem}_stages.png"
        return [picture, sheet] if self.stages else [picture]


def render_files(
    files: Sequence[Place],
    output: Place,
    camera: isp.Camera | KnownCamera | None = None,
    file_format: FileFormat = "tiff",
    stages: bool = False,
    pipeline: NamedPipeline | None = None,
    stored: KnownCamera | None = None,
    workers: Workers = SERIAL,
) -> tuple[int, int]:
    """Renders raw files, several at once, with a progress bar on stderr.

    Writes `<output>/<name>.tiff` (16 bits per channel) or `<output>/<name>.png` (8 bits), and `<name>_stages.png` if
    `stages` is true. A file that cannot be rendered is reported on stderr, and the others are still rendered.
    `<output>/manifest.json` says by which pipeline and for which camera: another call of the same settings adds its
    pictures, and replaces those of raw files that have changed. `<output>/manifest.csv` has a row for each picture,
    with the size and the time of the raw file: a picture that is there and listed is not rendered again by the same
    code.

    Args:
        files: the raw files.
        output: the folder to write to; made if it does not exist.
        camera: what is known of the camera; None leaves all to the files.
        file_format: "tiff" or "png".
        stages: whether to write a contact sheet of the image after each stage as well.
        pipeline: makes the pipeline for the camera of a file; None is `isp.parametrized`.
        stored: the camera of files that hold no calibration values, such as TIFF; None is `camera`.
        workers: the processes that render; their `load` returns the `Processing`.

    Returns:
        The number of files that were rendered, and the number that failed.

    Raises:
        InputError: two files would be written to one picture; a picture would replace a raw file, or one of which
            nothing is known; the output folder cannot be made, holds pictures of other settings, or another program
            writes to it; the workers cannot be started.
    """
    known = KnownCamera.of(camera)
    processing = Processing(pipeline or find_pipeline("parametrized"), known, stored or known)
    pictures = Pictures(output, file_format, stages)
    _check_targets(files, pictures)
    with remote.working(output, [manifests.NAME, _TABLE]) as work:
        table = work.path / _TABLE
        is_new = _describe(files, work.path, processing, pictures)
        versions = {file: remote.version(file) for file in files}
        left = _left(versions, table, pictures)
        done = failed = 0
        bar = tqdm(total=len(files), initial=len(files) - len(left), unit="file", disable=None)
        with bar, contextlib.closing(_rendered(left, processing, pictures, workers)) as rendered:
            for file, error in rendered:
                if error:
                    tqdm.write(f"error: {error}", file=sys.stderr)
                    failed += 1
                else:
                    if not table.exists():
                        write_csv(table, [], _COLUMNS)
                    append_csv(table, _rows(file, versions[file], pictures), _COLUMNS)
                    done += 1
                bar.update()
                work.save()
        if isinstance(output, Path):
            # Of workers that were lost.
            clear_parts(output)
        if table.exists():
            order = {target.name: number for number, file in enumerate(files) for target in pictures.of(file)}
            sort_csv(table, order)
        elif is_new:
            # The next call may have other settings, since the folder holds no pictures of these.
            (work.path / manifests.NAME).unlink()
    return done, failed


def _describe(files: Sequence[Place], folder: Path, processing: Processing, pictures: Pictures) -> bool:
    """Writes the manifest, and returns whether there was none before; forgets pictures of other code.

    Args:
        files: the raw files.
        folder: where the manifest is kept.
        processing: by which the files are rendered.
        pictures: the pictures to write.

    Raises:
        InputError: see `render_files`.
    """
    pipeline, camera, stored = processing
    fixed = {
        "pipeline": pipeline.description,
        "camera": camera.described,
        **({} if stored is camera else {"stored_camera": stored.described}),
    }
    earlier = manifests.read(folder, fixed, "pictures")
    if earlier is None:
        there = remote.names(pictures.output)
        for file in files:
            for target in pictures.of(file):
                if target.name in there:
                    raise InputError(
                        f"{target} would be written over, and no {manifests.NAME} says how it was made: "
                        "choose another output folder"
                    )
    if earlier is None or earlier.get("made_by") != store.made_by():
        (folder / _TABLE).unlink(missing_ok=True)
    write_json(folder / manifests.NAME, {**fixed, "made_by": store.made_by(), **environment()})
    return earlier is None


def _left(versions: Mapping[Place, str], table: Path, pictures: Pictures) -> list[Place]:
    """Returns the files whose pictures are not there, or not of their present versions.

    Their rows, and rows that are not whole, are removed from the table.
    """
    try:
        rows = read_csv(table)
    except (OSError, ValueError, csv.Error):
        rows = []
    there = remote.names(pictures.output) if rows else set()
    made = {row[_PICTURE]: (row[_FILE], row[_VERSION]) for row in rows if row.get(_VERSION) and row[_PICTURE] in there}
    left = [
        file
        for file, version in versions.items()
        if not all(made.get(target.name) == (str(file), version) for target in pictures.of(file))
    ]
    again = {target.name for file in left for target in pictures.of(file)}
    kept = [row for row in rows if row[_PICTURE] in made.keys() - again]
    if kept:
        write_csv(table, kept, _COLUMNS)
    else:
        table.unlink(missing_ok=True)
    return left


def _rows(file: Place, version: str, pictures: Pictures) -> list[dict[str, str]]:
    return [{_PICTURE: target.name, _FILE: str(file), _VERSION: version} for target in pictures.of(file)]


def _rendered(
    files: Sequence[Place], processing: Processing, pictures: Pictures, workers: Workers
) -> Generator[tuple[Place, str], None, None]:
    """Renders files; yields each with why it failed, or with an empty text."""
    if not workers.are_others:
        for file, _, error in worked(functools.partial(_render_file, processing, pictures), files):
            yield file, error
        return
    work = functools.partial(_render_chunk, pictures)
    for chunk, errors, lost in spread(workers, work, [[file] for file in files], remote.size):
        yield from errors or [(file, f"{file}: {lost}") for file in chunk]


def _render_chunk(pictures: Pictures, processing: Processing, files: list[Place]) -> list[tuple[Place, str]]:
    """Renders files in a worker."""
    return list(_rendered(files, processing, pictures, SERIAL))


def _check_targets(files: Sequence[Place], pictures: Pictures) -> None:
    pairs = [(file, target) for file in files for target in pictures.of(file)]
    refuse_shared_targets(pairs)
    targets = {target.resolve() for _, target in pairs}
    for file in files:
        if file.resolve() in targets:
            raise InputError(f"{file} is a raw file and would be written over: choose another output folder")


def _render_file(processing: Processing, pictures: Pictures, file: Place) -> None:
    with remote.brought(file) as path:
        raw, own = read_raw(path, processing.of(file))
    is_png = pictures.file_format == "png"
    with one_picture_at_a_time:
        processing.pipeline.check(own, *raw.shape)
        rgb, sheet = _render(processing.pipeline(own), raw, pictures.stages)
        # Before the next picture is rendered: those that wait to be written then take half or a quarter of the memory.
        picture = quantized(rgb, np.uint8 if is_png else np.uint16)
        del raw, rgb
    picture_file, *sheet_file = pictures.of(file)
    with remote.writing(picture_file) as part:
        if is_png:
            Image.fromarray(picture).save(part, format="png")
        else:
            tifffile.imwrite(part, picture, photometric="rgb")
    if sheet is not None:
        with remote.writing(sheet_file[0]) as part:
            sheet.save(part, format="png")


def _render(pipeline: isp.Pipeline, raw: np.ndarray, stages: bool) -> tuple[np.ndarray, Image.Image | None]:
    """Renders a mosaic, and draws its contact sheet if `stages` is true."""
    if not stages:
        return np.asarray(pipeline(raw)), None
    rgb, trace = pipeline.trace(raw)
    # Drawn here, while other pictures wait: the images after all stages of several large pictures are too much to hold.
    return np.asarray(rgb), contact_sheet({name: np.asarray(image) for name, image in trace.items()})
