"""Raw files: the raw image in [0, 1], and the camera that took it."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

import isp
from r2l_jax.data.files import headerless, libraw
from r2l_jax.data.files.arrays import open_npy, open_pgm
from r2l_jax.data.files.decoding import Open, Stored, check_finite, opened, reading
from r2l_jax.data.files.known_camera import NEUTRAL_START, KnownCamera
from r2l_jax.data.files.microscopes import open_czi, open_nd2, open_plane_of_tiff
from r2l_jax.data.files.pictures import from_pictures, open_gray_png
from r2l_jax.data.files.remote import Place
from r2l_jax.data.files.shot import read_shot
from r2l_jax.errors import InputError, warn

Mosaic = Float32[np.ndarray, "rows cols"]


# Files that hold samples but no calibration values. Others are in camera formats, read by LibRaw, or have no header.
READERS: dict[str, Open] = {
    ".tif": open_plane_of_tiff,
    ".tiff": open_plane_of_tiff,
    ".png": open_gray_png,
    ".npy": open_npy,
    ".pgm": open_pgm,
    ".czi": open_czi,
    ".nd2": open_nd2,
}

# The suffixes that folders are searched for. `read_raw` takes others as well.
RAW_SUFFIXES = (
    *READERS,
    ".3fr", ".arw", ".bin", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq",
    ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf",
    ".srw", ".x3f",
)  # fmt: skip

# A file whose highest value is below this fraction of its range probably has a lower white level.
_DIM = 1 / 8
# Even in the dark, the median of a raw image is about the black level.
_BELOW_BLACK = 0.9


def read_raw(
    path: str | os.PathLike, camera: isp.Camera | KnownCamera | str | os.PathLike | None = None
) -> tuple[Mosaic, isp.Camera]:
    """Reads a raw image and the calibration values of its camera from a raw file, whose suffix decides how it is read.

    - TIFF, PNG, PGM and NPY files hold raw images of 8 or 16 bits, which are divided by 255 or 65535, or by a PGM's
      maximum; the values of a floating-point TIFF or NPY are already in [0, 1].
    - CZI, ND2 and OME-TIFF files must hold a single plane, which is read like a TIFF. CZI and ND2 need the extra
      `microscopy`.
    - Files without a header, with any other suffix, are read as the camera's JSON file describes under `raw`.
    - LibRaw reads camera formats (DNG, NEF, CR2, CR3, ARW, ...): the visible area, cropped to even size at the bottom
      and the right, divided by the white level (of each channel, if the file has them). Gain maps of a DNG are applied.
      A demosaiced DNG is re-mosaiced: each site keeps only its pattern's color, the camera's or RGGB.

    If the camera has a `white_level`, the samples of any file are divided by it instead. Corrections that the camera's
    JSON file names are applied to the whole frame.

    A file that is missing, cannot be read or does not fit the camera raises an InputError, whose message is one line
    that starts with the path. A warning is printed if the camera has no `white_level` and a file without levels uses
    less than an eighth of its range, like a 10-bit raw image in a 16-bit TIFF (an error for a model, if most samples
    are below black); and if the patterns of a file and of a camera's JSON file differ.

    Args:
        camera: the camera, its name or JSON file, or some of its values (`known_camera.read_known_camera`). For camera
            formats, its values replace the file's; all other files need a whole camera.

    Returns:
        The raw image `(H, W)` in float32, clipped to [0, 1], with even H and W of at least 2; and its camera, or the
        stated reference camera.
    """
    path, stated = Path(path), KnownCamera.of(camera)
    with reading(path):
        if header := _header(path, stated):
            with opened(path, header) as stored:
                _check_shape(stored.shape)
                mosaic, camera = _fractions(path, stored, stated), _whole(path, stated)
        else:
            mosaic, camera = _by_libraw(path, stated)
            _check_shape(mosaic.shape)
        if stated.corrections is not None:
            mosaic = stated.corrections.apply(mosaic, camera)
        if (reference := stated.reference) is not None:
            if reference.cameras and not stated.figures:
                camera = reference.cameras.get(read_shot(path).title, camera)
            if ignored := reference.explain_ignored(camera, stated.figures):
                warn(f"{path}: {ignored}")
            return reference.scaled(mosaic, camera, stated.figures), reference.camera
        return mosaic, camera


def describe(path: Path, stated: KnownCamera) -> tuple[tuple[int, ...], isp.Camera]:
    """Returns the shape of the raw image in a file, and its camera, as `read_raw` does but from the header alone.

    Only camera formats whose camera is not stated are decoded, because LibRaw measures black levels in masked areas.
    """
    with reading(path):
        if header := _header(path, stated):
            with opened(path, header) as stored:
                _check_shape(stored.shape)
                return stored.shape, _whole(path, stated)
        if stated.camera is None:
            raw, camera = read_raw(path, stated)
            return raw.shape, camera
        return libraw.shape(path), stated.camera


def _header(path: Path, stated: KnownCamera) -> Open | None:
    """Returns how to open a file that holds samples but no calibration values; None for camera formats."""
    if not path.is_file():
        raise InputError("no such file")
    if header := READERS.get(path.suffix.lower()):
        return header
    return stated.layout.open if stated.layout is not None and not libraw.is_container(path) else None


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        is_picture = len(shape) == 3 and {3, 4} & {shape[0], shape[-1]}
        advice = f", like a color picture; {from_pictures()}" if is_picture else ""
        raise InputError(f"expected one raw image (H, W), got samples of shape {shape}{advice}")
    rows, cols = shape
    if rows % 2 or cols % 2 or not rows * cols:
        raise InputError(f"a raw image must have an even height and width of at least 2, got {rows}x{cols}")


def _by_libraw(path: Path, stated: KnownCamera) -> tuple[Mosaic, isp.Camera]:
    try:
        with reading(path):
            return libraw.read(path, stated)
    except InputError as error:
        with path.open("rb") as file:
            if file.read(3) == b"\xff\xd8\xff":
                raise InputError(f"expected a raw file, got a JPEG; {from_pictures()}") from error
        if stated.layout is None and not libraw.is_container(path):
            advice = "if the file has no header, describe its layout in the camera's JSON file, such as"
            raise InputError(f"{error}; {advice} {headerless.EXAMPLE}") from error
        raise


def _whole(path: Path, stated: KnownCamera) -> isp.Camera:
    """Returns the stated camera, for files without calibration values."""
    if stated.camera is None:
        known = path.suffix.lower() in READERS
        who = "TIFF, PNG, PGM, NPY, CZI and ND2 hold" if known else "a file without a header holds"
        lacks = f" that also has {', '.join(stated.missing)}" if stated.figures else ""
        raise InputError(f"{who} no calibration values: give a camera (`camera`){lacks}; {NEUTRAL_START}")
    return stated.camera


def warn_of_others(files: Iterable[Place]) -> None:
    """Warns about files in a folder without the suffix of a raw file, in one line.

    Hidden files, and the tables and settings that programs write beside raw files, are expected there.
    """
    expected = (*RAW_SUFFIXES, ".csv", ".json")
    others = [file for file in files if file.suffix.lower() not in expected and not file.name.startswith(".")]
    if others:
        number = "1 file" if len(others) == 1 else f"{len(others)} files"
        warn(f"skipped {number} without the suffix of a raw file, such as {min(others, key=str)}")


def _fractions(path: Path, stored: Stored, stated: KnownCamera) -> Mosaic:
    """Divides samples by the camera's white level or, without one, by the file's maximum or the range of their type."""
    samples = stored.read()
    if samples.dtype.kind != "f" and samples.dtype not in (np.uint8, np.uint16):
        raise InputError(f"samples must have 8 bits, 16 bits or floating point, got {samples.dtype}")
    lowest, highest = samples.min(initial=0), samples.max(initial=0)
    if not np.isfinite([lowest, highest]).all():
        check_finite(samples)
    white = stated.figures.get("white_level")
    full = white or stored.white or (1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)
    if lowest < 0 or (white is None and highest > full):
        raise InputError(f"samples must be in [0, {full:g}], got {lowest:g} to {highest:g}")
    if highest < _DIM * full and (white is None or stated.guesses_white_level):
        black = full * min(stated.figures.get("black_level", (0,)))
        if stated.reference and samples.dtype.kind == "u" and np.median(samples) < _BELOW_BLACK * black:
            raise InputError(
                f"the white level is unknown: the highest value is {highest:g} of {full:g}, and most are below the "
                f'black level, {black:.4g}: give it as "white_level" in the camera\'s JSON file (`camera`)'
            )
        warn(
            f"{path}: the highest value is {highest:g} of {full:g}: if the sensor saturates below {full:g}, give that "
            'level as "white_level" in the camera\'s JSON file'
        )
    if white is not None:
        # Divided in float64 in small parts: for a whole frame, float64 would take four times the result's memory.
        mosaic = np.divide(samples, white, np.empty(samples.shape, np.float32), dtype=float, casting="same_kind")
        return np.minimum(mosaic, 1, out=mosaic)
    return samples.astype(np.float32) if full == 1 else samples / np.float32(full)
