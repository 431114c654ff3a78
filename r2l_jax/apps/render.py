"""Renders many raw files to pictures with one pipeline."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from r2l_jax.apps.files import Cameras, for_each_file
from r2l_jax.data.files.remote import Place
from r2l_jax.devices.placement import one_picture_at_a_time
from r2l_jax.errors import InputError
from r2l_jax.jobs import Ended, in_threads
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.results import result
from r2l_jax.results.contact_sheet import contact_sheet, quantized
from r2l_jax.results.files import refuse_shared_targets, replacing
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Column, Result, Table


class Processing(NamedTuple):
    """The pipeline, made for a file's camera, and the cameras with which raw files are rendered."""

    pipeline: NamedPipeline
    cameras: Cameras


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
    output, pipeline, (camera, stored) = pictures.output, processing.pipeline, processing.cameras
    _check_targets(files, pictures)
    metadata: dict[str, Any] = {"pipeline": pipeline.description, "camera": camera.described}
    if stored is not camera:
        metadata["stored_camera"] = stored.described
    with writing_to(output):
        rows = _earlier(files, pictures, metadata)
        # Written before the pictures, so that another call knows their settings.
        result.write(output, Result(metadata, {"manifest": _table(rows)} if rows else {}))
        done = for_each_file(
            files,
            functools.partial(_render_each, pictures),
            processing,
            chunks=output / ".parts",
            settings={**metadata, "format": pictures.file_format, "stages": pictures.stages},
            models=pipeline.identity,
            targets=pictures.of,
            scheduler=scheduler,
            load=load,
        )
        made = {target.name: str(file) for file in done.results for target in pictures.of(file)}
        if rows := [row for row in rows if row[0] not in made] + [list(row) for row in made.items()]:
            result.write(output, Result(metadata, {"manifest": _table(rows)}))
        elif not any(target.exists() for file in files for target in pictures.of(file)):
            # The next call may have other settings, since no file left a picture, not even one whose sheet failed.
            (output / result.FILE).unlink()
    return done.counts


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


def _render_each(pictures: Pictures, processing: Processing, files: Sequence[Place]) -> Iterator[Ended]:
    return in_threads(functools.partial(_render_file, pictures, processing), files)


def _render_file(pictures: Pictures, processing: Processing, file: Place) -> None:
    """Renders a file, and writes its pictures."""
    raw, file_camera = processing.cameras.read(file)
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
