"""Raw files: a mosaic in [0, 1], and the figures of the camera that took it.

The names of levels and colour indices are LibRaw's: a Bayer sensor has the indices 0 red, 1 green, 2 blue and 3 the
second green.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rawpy
import tifffile
from jaxtyping import Float, Float32
from PIL import Image

from isp.bayer import PATTERNS
from isp.camera import Camera
from r2l_jax.runtime.errors import InputError

# What a folder is searched for; read_raw itself hands any suffix but TIFF's and PNG's to LibRaw.
RAW_SUFFIXES = (
    ".tif", ".tiff", ".png", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc",
    ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f",
)  # fmt: skip

# Linear sRGB to CIE XYZ (D65), in LibRaw's digits, so that its matrices and `camera_to_srgb`'s come out the same.
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def read_raw(path: str | os.PathLike, camera: Camera | None = None) -> tuple[Float32[np.ndarray, "rows cols"], Camera]:
    """Reads the mosaic of a raw file and the figures of its camera.

    Camera formats (DNG, NEF, CR2, CR3, ARW, ...) are read by LibRaw: the visible area, cropped to even size at its
    bottom and right, divided by the white level (of each channel where the file has one). TIFF and PNG are mosaics of
    8 or 16 bits, divided by 255 or 65535; a floating-point TIFF is in [0, 1] already. A PNG of several channels is a
    mosaic stored as a grey picture: its colour channels are equal.

    Args:
        path: the file; its suffix decides who reads it.
        camera: its figures: required for TIFF and PNG, which have none; in place of a camera format's own otherwise.

    Returns:
        The mosaic `(H, W)` in float32, clipped to [0, 1], H and W even, and the camera.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a file that is truncated, corrupt, of another format or without the camera's figures; a sensor
            without a Bayer pattern, or of another one than the camera's; a picture where a mosaic is expected; a
            TIFF or PNG of odd height or width; values that are not finite or, if floating-point, not in [0, 1]. Each
            message starts with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _even(_fractions(decode(tifffile.imread, path))), _given(camera)
        if path.suffix.lower() == ".png":
            return _even(_fractions(_gray(*decode(_read_png, path)))), _given(camera)
        return _read_camera_file(path, camera)
    except rawpy.LibRawError as error:
        message = error.args[0] if error.args else type(error).__name__
        message = message.decode() if isinstance(message, bytes) else message
        raise InputError(f"{path}: truncated, corrupt or no raw file (LibRaw: {message})") from error
    except (ValueError, NotImplementedError) as error:  # rawpy raises the latter for patterns that it does not know.
        raise InputError(f"{path}: {error}") from error


def camera_to_srgb(xyz_to_camera: Float[np.ndarray, "3 3"]) -> np.ndarray:
    """The matrix from white-balanced camera RGB to linear sRGB, as dcraw derives it (`cam_xyz_coeff`).

    sRGB to camera RGB is `xyz_to_camera` times sRGB to XYZ. Its rows are divided by their sums, so that white-balanced
    white is sRGB's white, and it is inverted.

    Args:
        xyz_to_camera: CIE XYZ to camera RGB: rawpy's `rgb_xyz_matrix`, DNG's ColorMatrix.

    Returns:
        `(3, 3)` float64, its rows sum to one.
    """
    srgb_to_camera = xyz_to_camera @ SRGB_TO_XYZ
    return np.linalg.inv(srgb_to_camera / srgb_to_camera.sum(axis=1, keepdims=True))


def _given(camera):
    if camera is None:
        raise ValueError("TIFF and PNG hold no camera figures: a camera must be given")
    return camera


def decode(read: Callable, path: Path) -> Any:
    """What `read(path)` gives; whatever it raises on a damaged file becomes a ValueError."""
    try:
        return read(path)
    except Exception as error:  # The decoders raise anything on a damaged file: OSError, SyntaxError, zlib.error, ...
        raise ValueError(f"truncated, corrupt or no {path.suffix[1:].upper()} ({error})") from error


def _read_png(path):
    """The samples of a PNG, pillow's name for their kind, and their number of bits."""
    with path.open("rb") as file, Image.open(path) as image:
        return np.asarray(image), image.mode, file.read(25)[24]


def _gray(samples, mode, bits):
    """The mosaic `(H, W)` of a PNG's samples."""
    if mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        raise ValueError(f"expected a mosaic of 8 or 16 bits, got a PNG of mode {mode}")
    if samples.ndim == 2:
        return samples
    if bits == 16:
        raise ValueError("a PNG of 16 bits must have one channel: pillow cuts several to 8 bits")
    colors = samples[..., : len(mode.rstrip("A"))]
    if (colors != colors[..., :1]).any():
        raise ValueError("a colour picture, no mosaic: its channels differ")
    return colors[..., 0]


def _fractions(samples):
    """Samples of a TIFF or PNG as float32 fractions of the largest number they can hold."""
    if samples.ndim != 2:
        raise ValueError(f"expected one mosaic (H, W), got samples of shape {samples.shape}")
    if samples.dtype.kind == "f":
        if not np.isfinite(samples).all():
            raise ValueError("holds values that are not finite")
        if samples.min() < 0 or samples.max() > 1:
            raise ValueError(f"floating-point samples must be in [0, 1], got {samples.min():g} to {samples.max():g}")
        return samples.astype(np.float32)
    if samples.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected samples of 8 or 16 bits or floating point, got {samples.dtype}")
    return samples / np.float32(np.iinfo(samples.dtype).max)


def _even(mosaic):
    if mosaic.shape[0] % 2 or mosaic.shape[1] % 2:
        raise ValueError(f"a mosaic has an even height and width, got {mosaic.shape[0]}x{mosaic.shape[1]}")
    return mosaic


def _read_camera_file(path, camera):
    with rawpy.imread(str(path)) as raw:
        tile = _color_indices(raw)
        pattern = "".join("RGBG"[index] for index in tile)
        if camera is not None and camera.pattern != pattern:
            raise ValueError(f"the sensor's pattern is {pattern}, the given camera's {camera.pattern}")
        origin = black_origin = (raw.sizes.top_margin, raw.sizes.left_margin)
        if path.suffix.lower() == ".dng":
            finite, active_origin = decode(_inspect_dng, path)
            if not finite:
                raise ValueError("holds values that are not finite")
            black_origin = active_origin or origin
        white = _white_level(raw)[tile]
        mosaic = _normalized(raw.raw_image_visible, white)
        if camera is None:
            black = np.array(raw.black_level_per_channel)[tile].reshape(2, 2)
            black = np.roll(black, np.subtract(black_origin, origin), axis=(0, 1)).ravel() / white
            camera = Camera(tuple(black), _white_balance(raw), tuple(map(tuple, _color_matrix(raw))), pattern)
    return mosaic, camera


def _inspect_dng(path):
    """What LibRaw does not tell of a DNG.

    It reads samples that are not finite as zeros. And it begins the visible area at even rows and columns, one further
    where the active area begins at odd ones, but does not move the tile of BlackLevel along.

    Returns:
        Whether all samples are finite, and the active area's corner (row, column), where the tile of BlackLevel
        begins; None where LibRaw has the black levels right: without an active area, or measured in masked areas.
    """
    with tifffile.TiffFile(path) as tiff:
        pages = [page for ifd in tiff.pages for page in (ifd, *(ifd.pages or ()))]
        for page in (page for page in pages if page.photometric == tifffile.PHOTOMETRIC.CFA):
            finite = page.sampleformat != tifffile.SAMPLEFORMAT.IEEEFP or bool(np.isfinite(page.asarray()).all())
            if "ActiveArea" in page.tags and "MaskedAreas" not in page.tags:
                top, left, *_ = map(int, page.tags["ActiveArea"].value)
                return finite, (top, left)
            return finite, None
    return True, None


def _color_indices(raw):
    """LibRaw's colour index of the four sites of the visible area's first tile, in CFA order."""
    tile = raw.raw_pattern if raw.raw_type == rawpy.RawType.Flat else None
    letters = raw.color_desc.decode()
    if tile is None or tile.shape != (2, 2) or tile.max() > 3:
        raise ValueError("the sensor has no Bayer pattern (X-Trans, Foveon, monochrome or already demosaiced)")
    # raw_pattern starts at the full area's corner. raw_colors_visible would do, but ends early for odd sizes.
    tile = np.roll(tile, (-raw.sizes.top_margin, -raw.sizes.left_margin), axis=(0, 1)).ravel()
    if letters != "RGBG" or "".join(letters[index] for index in tile) not in PATTERNS:
        raise ValueError(f"the sensor has no Bayer pattern: colours {letters}, indices {tile.tolist()} in its tile")
    if 3 not in tile:
        tile[np.flatnonzero(tile == 1)[-1]] = 3  # Both greens under one index: the last is the second, as in LibRaw.
    return tile


def _white_level(raw):
    """The white level of each colour index.

    LibRaw's own level per channel (`linear_max`) is where a sensor stops being linear. It is zero where unknown, and
    no site goes beyond the common level.
    """
    own = np.array(raw.camera_white_level_per_channel or (0, 0, 0, 0))
    return np.where((own > 0) & (own < raw.white_level), own, raw.white_level)


def _normalized(visible, white):
    """Samples over the white level of their site, clipped to [0, 1]."""
    height, width = (size // 2 * 2 for size in visible.shape)
    tiles = visible[:height, :width].reshape(height // 2, 2, width // 2, 2)
    mosaic = (tiles / white.reshape(1, 2, 1, 2).astype(np.float32)).reshape(height, width)
    return np.minimum(mosaic, 1, out=mosaic)


def _white_balance(raw):
    """Gains of red, green and blue as shot, or else for daylight; green's, the mean of the two, is one."""
    gains = raw.camera_whitebalance
    if min(gains[:3]) <= 0:
        gains = raw.daylight_whitebalance
    red, green, blue, second_green = gains
    green = (green + (second_green if second_green > 0 else green)) / 2
    return red / green, 1.0, blue / green


def _color_matrix(raw):
    """Camera RGB to linear sRGB: the file's own, or else that of LibRaw's table of cameras."""
    own = raw.color_matrix[:, :3]
    if own.any():
        return own
    table = raw.rgb_xyz_matrix[:3]
    if not table.any():
        raise ValueError("holds no colour matrix, and LibRaw knows none for this camera: a camera must be given")
    return camera_to_srgb(table)
