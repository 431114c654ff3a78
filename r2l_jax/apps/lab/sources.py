"""Sources that a visitor can open: validation samples of the run, files that the program was given, and uploads."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import isp
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.apps.render import find_paths
from r2l_jax.data.files.known_camera import KnownCamera, read_known_camera
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, READERS, read_raw
from r2l_jax.data.sets import synthetic
from r2l_jax.runtime.errors import InputError, collected_warnings, printable, warn
from r2l_jax.training.run import Run

# The choice of a camera by which each file names its own.
OWN_CAMERA = "each file's own"

# The height and width of an example, in sites.
_EXAMPLE = 256

# The camera of the flag --camera.
GIVEN_CAMERA = "the program's camera"

Read = tuple[np.ndarray, isp.Camera, list[str]]


class Source(NamedTuple):
    """A frame to open.

    Attributes:
        name: the name to show.
        read: reads the frame, given the known facts about its camera, and returns it with the warnings about the file.
            It raises an InputError.
        lacks_camera: whether the file holds no calibration values, and the known facts do not replace them.
    """

    name: str
    read: Callable[[KnownCamera], tuple[Frame, list[str]]]
    lacks_camera: Callable[[KnownCamera], bool] = lambda camera: False


def cameras(model: Run | None, given: KnownCamera | None) -> dict[str, KnownCamera]:
    """Returns the cameras that a visitor can choose, by name; the first one is the default.

    The camera that the program was given comes first, and the camera of a model's training is among them.
    """
    found = {} if given is None else {GIVEN_CAMERA: given}
    found[OWN_CAMERA] = KnownCamera()
    if model is not None and model.calibration is not None:
        found["camera of the training"] = KnownCamera.of(model.calibration)
    return found | {name: KnownCamera.of(camera) for name, camera in isp.CAMERAS.items()}


def uploaded_camera(name: str, path: pathlib.Path) -> KnownCamera:
    """Reads a camera's JSON file that a visitor has uploaded under a name.

    Raises:
        InputError: the file describes no camera, or it names other files.
    """
    try:
        return read_known_camera(path, with_corrections=False)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    except InputError as error:
        raise _named(error, path, name) from None


def check_name(name: str) -> str:
    """Returns the suffix of an uploaded file in lower case.

    Raises:
        InputError: neither raw files nor a camera's JSON file have this suffix.
    """
    suffix = pathlib.PurePath(name).suffix.lower()
    if suffix not in (*RAW_SUFFIXES, ".json"):
        wanted = "a raw file (DNG, NEF, CR2, TIFF, PNG, ...) or a camera's JSON file"
        raise InputError(f"{printable(name)}: expected {wanted}")
    return suffix


def read_file(path: pathlib.Path, camera: KnownCamera) -> Read:
    """Reads a raw file, and returns its mosaic, its camera and the warnings about it.

    Raises:
        InputError: see `read_raw`.
    """
    with collected_warnings() as warnings:
        return *read_raw(path, camera), warnings


def file_source(
    name: str,
    path: pathlib.Path,
    model: Run | None,
    read: Callable[[pathlib.Path, KnownCamera], Read] = read_file,
) -> Source:
    """Makes a source of a raw file that is shown by a name, for a model; `read` works as `read_file` does."""
    is_stored = path.suffix.lower() in READERS

    def of_training(camera: KnownCamera) -> KnownCamera:
        """Returns the camera of the training for a file that holds no calibration values, unless another is given."""
        return KnownCamera.of(model.calibration) if is_stored and model and not camera.figures else camera

    def read_frame(camera: KnownCamera) -> tuple[Frame, list[str]]:
        known = of_training(camera)
        try:
            raw, own, warnings = read(path, known if model is None else model.reading(known))
            _check_fits(raw, model)
        except InputError as error:
            raise _named(error, path, name) from None
        return Frame(name, raw, own), [warning.replace(str(path), name) for warning in warnings]

    return Source(name, read_frame, lambda camera: is_stored and of_training(camera).camera is None)


def given_files(inputs: Sequence[str], model: Run | None) -> list[Source]:
    """Lists the files that the program was given.

    Raises:
        InputError: a file is missing, or a folder holds no raw files.
    """
    return [file_source(file.name, file, model) for file in find_paths(inputs)]


def examples() -> list[Source]:
    """Lists a rendered blood cell of each class, for a page without a model and without files."""

    def source(name: str) -> Source:
        def read(camera: KnownCamera) -> tuple[Frame, list[str]]:
            return Frame(name, synthetic.photograph(name, _EXAMPLE), synthetic.CAMERA), []

        return Source(f"example: {name}", read)

    return [source(name) for name in synthetic.CLASSES]


def validation_samples(run: str, model: Run, data_dir: str | None) -> list[Source]:
    """Lists the validation samples of a run; without its data, prints a warning and lists nothing.

    Args:
        run: the folder of a run or of one of its folds, or the file of a model, which has no samples.
        model: the model of the run.
        data_dir: the present folder of the data, with which the run was opened; None if it has not moved.

    Raises:
        InputError: `data_dir` does not hold the data of the training.
    """
    if pathlib.Path(run).is_file():
        if data_dir is not None:
            raise InputError(f"--data_dir={data_dir}: a model's file does not say which samples it was validated on")
        return []
    try:
        dataset = model.dataset
    except InputError as error:
        if data_dir is not None:
            raise
        warn(f"no validation samples: {error}")
        return []

    def source(index: int) -> Source:
        def read(camera: KnownCamera) -> tuple[Frame, list[str]]:
            raw, target = dataset.read(index)
            assert dataset.camera is not None
            return Frame(dataset.names[index], raw, dataset.camera, np.asarray(target)), []

        return Source(dataset.names[index], read)

    return [source(int(index)) for index in model.folds[0].measured_indices]


def _check_fits(raw: np.ndarray, model: Run | None) -> None:
    """Refuses a mosaic that the model cannot see."""
    if model is None:
        return
    least = model.shape
    if raw.shape[0] < least[0] or raw.shape[1] < least[1]:
        sides = f"{raw.shape[0]}x{raw.shape[1]}"
        raise InputError(f"it is {sides}, smaller than the mosaics of the model, {least[0]}x{least[1]}")


def _named(error: InputError, path: pathlib.Path, name: str) -> InputError:
    """Returns an error with the visitor's name of a file in place of its path on this machine."""
    text = str(error).replace(str(path), name)
    return InputError(text if text.startswith(name) else f"{name}: {text}")
