"""Rendering raw files to pictures: many files, one pipeline."""

import collections
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, read_raw
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import each_file, replacing
from r2l_jax.runtime.pictures import contact_sheet, quantized

# One picture at a time on the device. It also makes the first one compile while the others wait, not all of them.
_device = threading.Lock()


def find_raw_files(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """The files named, whether they exist or not, and the raw files (by suffix) directly in the folders; each once.

    Raises:
        InputError: a folder without raw files.
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
    camera: isp.Camera | None = None,
    file_format: Literal["tiff", "png"] = "tiff",
    stages: bool = False,
    pipeline: NamedPipeline | None = None,
) -> tuple[int, int]:
    """Renders raw files, several at once, with a progress bar on stderr.

    Writes `<output>/<name>.tiff` (16 bits a channel) or `.png` (8 bits), and `<name>_stages.png` with `stages`, in
    place of earlier ones. A file that cannot be rendered is reported on stderr, and the others are still rendered.

    Args:
        files: the raw files.
        output: the folder to write to; made if need be.
        camera: the figures to render with; each file's own if None.
        file_format: "tiff" or "png".
        stages: also write a contact sheet of the image after each stage.
        pipeline: makes the pipeline of a file's camera; None is `isp.parametrized`.

    Returns:
        How many files were rendered, and how many failed.

    Raises:
        InputError: two files that would be written to one name, a picture that would replace a raw file, or an output
            folder that cannot be made.
    """
    pipeline = pipeline or find_pipeline("parametrized")
    _check_names(files, output, file_format, stages)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: not a folder to write to ({error.strerror})") from error

    rendered = len(each_file(lambda file: _render_file(file, output, camera, file_format, stages, pipeline), files))
    return rendered, len(files) - rendered


def _check_names(files, output, file_format, stages):
    sources = collections.defaultdict(list)
    for file in files:
        for name in (f"{file.stem}.{file_format}", f"{file.stem}_stages.png")[: 1 + stages]:
            sources[(output / name).resolve()].append(str(file))
    for target, names in sources.items():
        if len(names) > 1:
            raise InputError(f"{' and '.join(names)} would both be written to {target}")
    for file in files:
        if file.resolve() in sources:
            raise InputError(f"{file} is a raw file and would be written over: choose another output folder")


def _render_file(file, output, camera, file_format, stages, named):
    raw, camera = read_raw(file, camera)
    with _device:
        named.check(camera, *raw.shape)
        pipeline = named(camera)
        # The sheet, too: of a large picture, the images after all stages are too much to hold for several files.
        rgb, trace = pipeline.trace(raw) if stages else (pipeline(raw), None)
        sheet = contact_sheet({name: np.asarray(image) for name, image in trace.items()}) if stages else None
        rgb, trace = np.asarray(rgb), None
    with replacing(output / f"{file.stem}.{file_format}") as part:
        if file_format == "png":
            Image.fromarray(quantized(rgb, np.uint8)).save(part, format="png")
        else:
            tifffile.imwrite(part, quantized(rgb, np.uint16), photometric="rgb")
    if stages:
        with replacing(output / f"{file.stem}_stages.png") as part:
            sheet.save(part, format="png")
