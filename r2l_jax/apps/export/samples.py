"""The samples that exports are compared with their models on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2l_jax.apps.predict import read_file
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.run import Run

# Enough samples for every class of the published sets, and few enough for small files.
COUNT = 8


def of_run(model: Run, size: tuple[int, int] | None = None) -> np.ndarray:
    """Takes samples from the data that a model was trained on, evenly spread over the data set.

    Args:
        model: the model.
        size: height and width to which samples are cropped or repeated; None keeps the size of the training.

    Raises:
        InputError: the data is missing, or is not the data of the training.
    """
    try:
        dataset = model.dataset
    except InputError as error:
        raise InputError(
            f"exports are checked on the data of the run: {error}; or name raw files with --input"
        ) from None
    chosen = np.linspace(0, len(dataset) - 1, min(COUNT, len(dataset))).astype(int).tolist()
    found = np.stack([np.asarray(dataset[index][0], np.float32) for index in chosen])
    if size is None:
        return found
    times = [-(-wanted // side) for wanted, side in zip(size, found.shape[1:3], strict=True)]
    return np.tile(found, (1, *times, *[1] * (found.ndim - 3)))[:, : size[0], : size[1]]


def of_files(
    model: Run, files: Sequence[Path], camera: KnownCamera | None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Reads the first few raw files as `apps.predict` does.

    Args:
        model: the model.
        files: the files.
        camera: the camera, as for `apps.predict`.
        size: height and width to cut out of the middle of each file; None takes the size of the training.

    Raises:
        InputError: the model takes no raw files; or a file cannot be read, is smaller, or has another pattern.
    """
    if model.camera is None:
        raise InputError("the model was trained on images that are processed already: leave --input out")
    return np.stack([read_file(file, model, camera, size or model.shape) for file in files[:COUNT]])
