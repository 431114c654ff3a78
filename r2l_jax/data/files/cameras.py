"""Cameras by name, and one camera in common for several files."""

import pathlib
from collections.abc import Sequence

import numpy as np

import isp
from r2l_jax.data.files.known_camera import KnownCamera, read_known_camera
from r2l_jax.runtime.errors import InputError


def find_known_camera(name: str, flag: str = "--camera") -> KnownCamera:
    """Returns the statements of a flag about the camera of raw files.

    Args:
        name: a name of `isp.CAMERAS`, the path of a JSON file, or "auto", which states nothing: each raw file names its
            camera.
        flag: the flag to name in errors.

    Raises:
        InputError: the name is neither a known camera nor a readable JSON file.
    """
    if name == "auto":
        return KnownCamera()
    if name in isp.CAMERAS:
        return KnownCamera.of(isp.CAMERAS[name])
    try:
        return read_known_camera(pathlib.Path(name))
    except OSError as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else error.strerror
        known = ", ".join(isp.CAMERAS)
        raise InputError(f"{flag} must be {known}, auto or a JSON file, got {name!r}: {reason}") from None
    except InputError as error:
        raise InputError(f"{flag}={error}") from None


def find_camera(name: str, flag: str = "--camera") -> isp.Camera | None:
    """Returns a known camera, a camera from a JSON file, or None for "auto".

    Args:
        name: as for `find_known_camera`.
        flag: the flag to name in errors.

    Raises:
        InputError: the name is neither a known camera nor a readable JSON file with all figures of one.
    """
    stated = find_known_camera(name, flag)
    if stated.camera is None and name != "auto":
        raise InputError(f"{flag}={name}: the camera lacks {', '.join(stated.missing)}")
    return stated.camera


def read_camera_file(path: pathlib.Path) -> isp.Camera:
    """Reads a whole camera from its JSON file.

    Raises:
        OSError: the file cannot be read.
        InputError: it is no camera, or lacks a figure; the message starts with the path.
    """
    stated = read_known_camera(path)
    if stated.camera is None:
        raise InputError(f"{path}: the camera lacks {', '.join(stated.missing)}")
    return stated.camera


def common_camera(files: Sequence[pathlib.Path], cameras: Sequence[isp.Camera]) -> isp.Camera:
    """Returns one camera for files of several: the median of each calibration value.

    Even files of one camera differ, for example in the white balance as shot. The camera has no `white_level`: it goes
    with mosaics that have been read, and so divided by that, already. It has the noise that all files agree on.

    Args:
        files: the files, to name in errors.
        cameras: the camera of each file.

    Raises:
        InputError: the files' color filter arrays differ.
    """
    for path, camera in zip(files, cameras, strict=True):
        if camera.pattern != cameras[0].pattern:
            raise InputError(
                f"all files must have one color filter array: {files[0]} has {cameras[0].pattern}, "
                f"{path} {camera.pattern}"
            )
    black, gains, matrix = (
        np.median([getattr(camera, name) for camera in cameras], axis=0)
        for name in ("black_level", "white_balance", "color_matrix")
    )
    noise = {name: {getattr(camera, name) for camera in cameras} for name in ("full_well", "read_noise", "bits")}
    agreed = {name: values.pop() for name, values in noise.items() if len(values) == 1}
    return isp.Camera(black, gains, matrix, cameras[0].pattern, **agreed)
