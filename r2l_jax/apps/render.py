"""Renders many raw files to pictures with one pipeline."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from r2l_jax.apps.parts import in_parts
from r2l_jax.data.files import remote
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.pictures import from_pictures
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, READERS, read_raw, warn_of_others
from r2l_jax.data.files.remote import Place, Url
from r2l_jax.devices.placement import one_picture_at_a_time
from r2l_jax.errors import InputError
from r2l_jax.jobs import Ended, in_threads
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.results import result
from r2l_jax.results.contact_sheet import contact_sheet, quantized
from r2l_jax.results.files import clear_parts, refuse_shared_targets, replacing
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Column, Result, Table


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


class Processing(NamedTuple):
    """The pipeline and the calibration with which raw files are rendered.

    Attributes:
        pipeline: makes the pipeline for a file's camera.
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
    """The pictures of raw files to write: `<output>/<name>.tiff` of 16 bits per channel, or `<name>.png` of 8.

    With `stages`, `<name>_stages.png` is a contact sheet of the image after each stage.
    """

    output: Path
    file_format: Literal["tiff", "png"] = "tiff"
    stages: bool = False

    def of(self, file: Place) -> list[Path]:
        """Returns the picture of a raw file, and the contact sheet if there is one."""
        picture, sheet = self.output / f"{file.stem}.{self.file_format}", self.output / f"{file.stem}_stages.png"
        return [picture, sheet] if self.stages else [picture]


def render_files(
    files: Sequence[Place],
    pictures: Pictures,
    processing: Processing,
    scheduler: str = "serial",
    load: Callable[[], Processing] | None = None,
) -> tuple[int, int]:
    """Renders raw files, several at once, with a progress bar on stderr.

    A file that cannot be rendered is reported on stderr at the end, and the others are still rendered. `result.json` in
    the output folder holds the pipeline and the camera, and `manifest.csv` has a row for each picture. Another call
    skips finished pictures, which the folder `.parts` records.

    Args:
        files: the raw files.
        pictures: the pictures to write; their folder is made if it does not exist.
        processing: the pipeline and the camera.
        scheduler: where files are rendered, see `jobs.SETTING`.
        load: returns the `Processing` of a worker.

    Returns:
        The number of files that were rendered, and the number that failed.

    Raises:
        InputError: two files would be written to one picture; a picture would replace a raw file or an unknown file;
            the output folder cannot be made, holds pictures of other settings, or another program writes to it.
    """
    output, (pipeline, camera, stored) = pictures.output, processing
    _check_targets(files, pictures)
    metadata: dict[str, Any] = {"pipeline": pipeline.description, "camera": camera.described}
    if stored is not camera:
        metadata["stored_camera"] = stored.described
    with writing_to(output):
        rows = _earlier(files, pictures, metadata)
        # Written before the pictures, so that another call knows their settings.
        result.write(output, Result(metadata, {"manifest": _table(rows)} if rows else {}))
        work = functools.partial(_render_each, pictures, load if scheduler != "serial" and load else lambda: processing)
        settings = {**metadata, "format": pictures.file_format, "stages": pictures.stages}
        done = in_parts(files, output / ".parts", work, settings, pipeline.identity, pictures.of, scheduler)
        # Lost workers leave partial files.
        clear_parts(output)
        made = {target.name: str(file) for file in done.results for target in pictures.of(file)}
        if rows := [row for row in rows if row[0] not in made] + [list(row) for row in made.items()]:
            result.write(output, Result(metadata, {"manifest": _table(rows)}))
        elif not any(target.exists() for file in files for target in pictures.of(file)):
            # The next call may have other settings, since no file left a picture, not even one whose sheet failed.
            (output / result.FILE).unlink()
    return len(done.results) - done.before, done.failed


def _table(rows: Sequence[Sequence[str]]) -> Table:
    return Table("Pictures", [Column("picture"), Column("file")], rows)


def _earlier(files: Sequence[Place], pictures: Pictures, metadata: Mapping[str, Any]) -> list[list[str]]:
    """Returns the rows of the pictures that earlier calls have left in the folder.

    Raises:
        InputError: they have other settings, or no call has listed a picture that is there.
    """
    earlier = result.read(pictures.output)
    if earlier is None:
        for target in (target for file in files for target in pictures.of(file)):
            if target.exists():
                raise InputError(
                    f"{target} would be overwritten, but no {result.FILE} says how it was made: choose another folder"
                )
        return []
    for name in {**metadata, **earlier.metadata}:
        if metadata.get(name) != earlier.metadata.get(name):
            raise InputError(f"{pictures.output / result.FILE} lists pictures with another {name}: choose a new folder")
    table = earlier.tables.get("manifest", _table([]))
    return [list(map(str, row)) for row in table.rows if (pictures.output / str(row[0])).exists()]


def _check_targets(files: Sequence[Place], pictures: Pictures) -> None:
    pairs = [(file, target) for file in files for target in pictures.of(file)]
    refuse_shared_targets(pairs)
    targets = {target.resolve() for _, target in pairs}
    if replaced := [file for file in files if file.resolve() in targets]:
        raise InputError(f"{replaced[0]} is a raw file and would be overwritten: choose another output folder")


def _render_each(pictures: Pictures, load: Callable[[], Processing], files: Sequence[Place]) -> Iterator[Ended]:
    return in_threads(functools.partial(_render_file, pictures, load()), files)


def _render_file(pictures: Pictures, processing: Processing, file: Place) -> None:
    """Renders a file, and writes its pictures."""
    with remote.downloaded(file) as path:
        raw, file_camera = read_raw(path, processing.of(file))
    is_png, sheet = pictures.file_format == "png", None
    with one_picture_at_a_time:
        processing.pipeline.check(file_camera, *raw.shape)
        pipeline = processing.pipeline(file_camera)
        if pictures.stages:
            rgb, trace = pipeline.trace(raw)
            # Drawn while other pictures wait, because memory holds only the stages of one large picture.
            sheet = contact_sheet({name: np.asarray(image) for name, image in trace.items()})
            del trace
        else:
            rgb = pipeline(raw)
        # Quantized before the next picture is rendered, so that pictures that wait to be written take less memory.
        picture = quantized(np.asarray(rgb), np.uint8 if is_png else np.uint16)
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
