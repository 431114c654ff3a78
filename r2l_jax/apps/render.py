"""Renders many raw files to pictures by one pipeline."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, STORED_SUFFIXES, read_raw
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime import manifests
from r2l_jax.runtime.devices import one_picture_at_a_time
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import each_file, refuse_shared_targets, replacing, write_json
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.pictures import contact_sheet, quantized

FileFormat = Literal["tiff", "png"]


def find_raw_files(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """Lists the given files, whether they exist or not, and the raw files directly in the given folders, each once.

    Raises:
        InputError: a folder holds no file with the suffix of a raw file.
    """
    files = []
    for name in inputs:
        if not name:
            raise InputError("the name of an input is empty")
        path = Path(name)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in RAW_SUFFIXES)
            if not found:
                raise InputError(f"{path}: no raw files in this folder")
            files += found
        else:
            files.append(path)
    return list({file.resolve(): file for file in files}.values())


def render_files(
    files: Sequence[Path],
    output: Path,
    camera: isp.Camera | KnownCamera | None = None,
    file_format: FileFormat = "tiff",
    stages: bool = False,
    pipeline: NamedPipeline | None = None,
    stored: KnownCamera | None = None,
) -> tuple[int, int]:
    """Renders raw files, several at once, with a progress bar on stderr.

    Writes `<output>/<name>.tiff` (16 bits per channel) or `<output>/<name>.png` (8 bits), and `<name>_stages.png` if
    `stages` is true. A file that cannot be rendered is reported on stderr, and the others are still rendered.
    `<output>/manifest.json` says by which pipeline and for which camera: another call of the same settings adds its
    pictures, and replaces earlier ones of the same name.

    Args:
        files: the raw files.
        output: the folder to write to; made if it does not exist.
        camera: what is known of the camera; None leaves all to the files.
        file_format: "tiff" or "png".
        stages: whether to write a contact sheet of the image after each stage as well.
        pipeline: makes the pipeline for the camera of a file; None is `isp.parametrized`.
        stored: the camera of files that hold no calibration values, such as TIFF; None is `camera`.

    Returns:
        The number of files that were rendered, and the number that failed.

    Raises:
        InputError: two files would be written to one picture; a picture would replace a raw file, or one of which
            nothing is known; the output folder cannot be made, holds pictures of other settings, or another program
            writes to it.
    """
    pipeline, camera = pipeline or find_pipeline("parametrized"), KnownCamera.of(camera)
    stored = stored or camera
    _check_targets(files, output, file_format, stages)
    with writing_to(output):
        is_new = _describe(files, output, camera, file_format, stages, pipeline, stored)

        def render(file: Path) -> None:
            own = stored if file.suffix.lower() in STORED_SUFFIXES else camera
            _render_file(file, output, own, file_format, stages, pipeline)

        rendered = len(each_file(render, files))
        pictures = (target for file in files for target in _targets(file, output, file_format))
        if is_new and not any(picture.exists() for picture in pictures):
            # The next call may have other settings, since the folder holds no pictures of these.
            (output / manifests.NAME).unlink()
    return rendered, len(files) - rendered


def _describe(
    files: Sequence[Path],
    output: Path,
    camera: KnownCamera,
    file_format: FileFormat,
    stages: bool,
    pipeline: NamedPipeline,
    stored: KnownCamera,
) -> bool:
    """Writes the manifest, and returns whether there was none before.

    Raises:
        InputError: see `render_files`.
    """
    fixed = {
        "pipeline": pipeline.description,
        "camera": camera.described,
        **({} if stored is camera else {"stored_camera": stored.described}),
    }
    is_new = manifests.read(output, fixed, "pictures") is None
    if is_new:
        for file in files:
            for target in _targets(file, output, file_format)[: 1 + stages]:
                if target.exists():
                    raise InputError(
                        f"{target} would be written over, and no {manifests.NAME} says how it was made: "
                        "choose another output folder"
                    )
    write_json(output / manifests.NAME, {**fixed, **environment()})
    return is_new


def _targets(file: Path, output: Path, file_format: FileFormat) -> tuple[Path, Path]:
    """Returns the paths of the picture and of the contact sheet of a raw file."""
    return output / f"{file.stem}.{file_format}", output / f"{file.stem}_stages.png"


def _check_targets(files: Sequence[Path], output: Path, file_format: FileFormat, stages: bool) -> None:
    pairs = [(file, target) for file in files for target in _targets(file, output, file_format)[: 1 + stages]]
    refuse_shared_targets(pairs)
    targets = {target.resolve() for _, target in pairs}
    for file in files:
        if file.resolve() in targets:
            raise InputError(f"{file} is a raw file and would be written over: choose another output folder")


def _render_file(
    file: Path, output: Path, camera: KnownCamera, file_format: FileFormat, stages: bool, named: NamedPipeline
) -> None:
    raw, own = read_raw(file, camera)
    with one_picture_at_a_time:
        named.check(own, *raw.shape)
        rgb, sheet = _render(named(own), raw, stages)
    picture_file, sheet_file = _targets(file, output, file_format)
    with replacing(picture_file) as part:
        if file_format == "png":
            Image.fromarray(quantized(rgb, np.uint8)).save(part, format="png")
        else:
            tifffile.imwrite(part, quantized(rgb, np.uint16), photometric="rgb")
    if sheet is not None:
        with replacing(sheet_file) as part:
            sheet.save(part, format="png")


def _render(pipeline: isp.Pipeline, raw: np.ndarray, stages: bool) -> tuple[np.ndarray, Image.Image | None]:
    """Renders a mosaic, and draws its contact sheet if `stages` is true."""
    if not stages:
        return np.asarray(pipeline(raw)), None
    rgb, trace = pipeline.trace(raw)
    # Drawn here, while other pictures wait: the images after all stages of several large pictures are too much to hold.
    return np.asarray(rgb), contact_sheet({name: np.asarray(image) for name, image in trace.items()})
