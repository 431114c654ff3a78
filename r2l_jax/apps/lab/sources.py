"""Frames to open: validation samples of a run, raw files, and examples; and the cameras of raw files."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import isp
from r2l_jax.apps.files import read_file
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.data.sets import synthetic
from r2l_jax.errors import InputError, collected_warnings, warn
from r2l_jax.training.run import Run

# The names of two choices of a camera: each file's own, and the one that the flag --camera names.
OWN_CAMERA, GIVEN_CAMERA = "each file's own", "from `camera`"

# The height and width of an example, in sites.
_EXAMPLE = 256


class Source(NamedTuple):
    """A name, and a function that reads the frame, given a known camera, and returns it with the file's warnings."""

    name: str
    read: Callable[[KnownCamera], tuple[Frame, list[str]]]


def cameras(model: Run | None, given: KnownCamera | None) -> dict[str, KnownCamera]:
    """Returns the cameras to choose from, by name; the first, which is the default, is the given one if any."""
    found = {} if given is None else {GIVEN_CAMERA: given}
    found[OWN_CAMERA] = KnownCamera()
    if model is not None and model.calibration is not None:
        found["training camera"] = KnownCamera.of(model.calibration)
    return found | {name: KnownCamera.of(camera) for name, camera in isp.CAMERAS.items()}


def file_source(file: pathlib.Path, model: Run | None) -> Source:
    """Makes a source of a raw file, or of its middle as a model takes it, see `predict.read_file`."""

    def read(camera: KnownCamera) -> tuple[Frame, list[str]]:
        with collected_warnings() as warnings:
            if model is None:
                raw, file_camera = read_raw(file, camera)
            else:
                raw = np.asarray(read_file(file, model, camera if camera.figures else None, model.shape))
                file_camera = model.camera
                assert file_camera is not None
        return Frame(raw, file_camera), warnings

    return Source(file.name, read)


def examples() -> list[Source]:
    """Lists a synthetic blood cell of each class, for a page without a model and without files."""

    def source(name: str) -> Source:
        def read(camera: KnownCamera) -> tuple[Frame, list[str]]:
            return Frame(synthetic.photograph(name, _EXAMPLE), synthetic.CAMERA), []

        return Source(f"example: {name}", read)

    return [source(name) for name in synthetic.CLASSES]


def samples(model: Run) -> list[Source]:
    """Lists the test samples of a model, or else its validation samples; without its data, warns and lists none."""
    try:
        dataset = model.dataset
    except InputError as error:
        warn(f"no samples: {error}")
        return []

    def source(index: int) -> Source:
        def read(camera: KnownCamera) -> tuple[Frame, list[str]]:
            raw, target = dataset.read(index)
            assert dataset.camera is not None
            return Frame(np.asarray(raw), dataset.camera, np.asarray(target)), []

        return Source(dataset.names[index], read)

    return [source(int(index)) for index in model.folds[0].measured_indices]
