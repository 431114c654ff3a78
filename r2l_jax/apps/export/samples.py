"""Chooses the samples on which exports are compared with their models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2l_jax.apps.files import read_file
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.errors import InputError, collected_warnings, warn_once
from r2l_jax.training.run import Run

# Enough samples for every class of the published sets, and few enough for small files.
COUNT = 8


def samples_of(
    model: Run, files: Sequence[Path] = (), camera: KnownCamera | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Takes samples that are evenly spread over a model's data set, or reads them from raw files.

    Args:
        model: the model.
        files: raw files; the middles of the first `COUNT` are read as `apps.predict` does.
        camera: their camera, as for `apps.predict`.
        size: height and width to which samples of the data are cropped or tiled, and files are cropped; None takes the
            training size.

    Raises:
        InputError: the data is missing, or is not the training data; or the model takes no raw files, or a file
            cannot be read, is smaller, or has another pattern.
    """
    if files and model.camera is None:
        raise InputError("the model was trained on processed images: leave `input` out")
    if files:
        with collected_warnings() as warnings:
            found = np.stack([read_file(file, model, camera, size or model.shape) for file in files[:COUNT]])
        warn_once(warnings, len(found))
        return found
    try:
        dataset = model.dataset
    except InputError as error:
        raise InputError(f"exports are checked on the run's data: {error}; or name raw files with `input`") from None
    chosen = np.linspace(0, len(dataset) - 1, min(COUNT, len(dataset))).astype(int).tolist()
    found = np.stack([np.asarray(dataset[index][0], np.float32) for index in chosen])
    height, width = size or found.shape[1:3]
    times = (1, -(-height // found.shape[1]), -(-width // found.shape[2]), *[1] * (found.ndim - 3))
    return np.tile(found, times)[:, :height, :width]
