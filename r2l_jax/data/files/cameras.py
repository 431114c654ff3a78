"""Cameras by name, and one camera for files of several."""

import pathlib
from collections.abc import Sequence

import numpy as np

import isp
from r2l_jax.runtime.errors import InputError


def find_camera(name: str, flag: str = "--camera") -> isp.Camera | None:
    """A camera by its name in `isp.CAMERAS` or from a JSON file; None for "auto", the files' own.

    Args:
        name: the camera.
        flag: what errors call it by.

    Raises:
        InputError: neither a known camera nor a readable JSON file.
    """
    if name == "auto":
        return None
    if name in isp.CAMERAS:
        return isp.CAMERAS[name]
    try:
        return isp.Camera.from_json(pathlib.Path(name).read_text())
    except OSError:
        raise InputError(f"{flag} must be {', '.join(isp.CAMERAS)}, auto or a JSON file, got {name!r}") from None
    except ValueError as error:
        raise InputError(f"{flag}={name}: {error}") from None


def common_camera(files: Sequence[pathlib.Path], cameras: Sequence[isp.Camera]) -> isp.Camera:
    """One camera for all files: the median of each figure, since white balance as shot differs from file to file.

    Raises:
        InputError: the files' Bayer patterns differ.
    """
    for path, camera in zip(files, cameras, strict=True):
        if camera.pattern != cameras[0].pattern:
            raise InputError(
                f"all files must have one Bayer pattern: {files[0]} has {cameras[0].pattern}, {path} {camera.pattern}"
            )
    figures = {
        name: np.median([getattr(camera, name) for camera in cameras], axis=0)
        for name in ("black_level", "white_balance", "color_matrix")
    }
    return isp.Camera(**figures, pattern=cameras[0].pattern)
