"""Raw files: the mosaic in [0, 1], and the camera that took it.

Levels and color indices have LibRaw's names: a Bayer sensor has the color indices 0 for red, 1 for green, 2 for blue
and 3 for the second green.
"""

import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import rawpy
import tifffile
from jaxtyping import Float, Float32, Float64, Shaped

from isp.bayer import PATTERNS
from isp.camera import Camera
from r2l_jax.data.files.decoding import check_declared, reading
from r2l_jax.data.files.pictures import TIFF_SUFFIXES, read_png
from r2l_jax.data.files.tiff import check_chunks, check_page, read_tiff
from r2l_jax.runtime.errors import InputError, one_line, warn

# The suffixes that folders are searched for. `read_raw` hands every suffix other than TIFF's and PNG's to LibRaw.
RAW_SUFFIXES = (
    ".tif", ".tiff", ".png", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc",
    ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
    ".x3f",
)  # fmt: skip

# Linear sRGB to CIE XYZ (D65), with as many digits as in LibRaw, so that `camera_to_srgb` gives LibRaw's matrices.
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


# The beginnings of the containers of camera formats: TIFF and its kin, FUJIFILM, Foveon, Minolta.
_CONTAINERS = (
    b"II*\0", b"MM\0*", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILM", b"FOVb", b"\0MRM",
)  # fmt: skip
# A DNG with more images than this is damaged.
_MOST_IMAGES = 64
# A file whose highest value is below this fraction of its range probably has a lower white level.
_DIM = 1 / 8


def read_raw(
    path: str | os.PathLike, camera: Camera | None = None, warn: Callable[[str], object] = warn
) -> tuple[Float32[np.ndarray, "rows cols"], Camera]:
    """Reads the mosaic of a raw file and the calibration values of its camera.

    LibRaw reads camera formats (DNG, NEF, CR2, CR3, ARW, ...): the visible area, cropped to even size at the bottom and
    the right, divided by the white level (of each channel, if the file has them). TIFF and PNG files are mosaics of 8
    or 16 bits, divided by 255 or 65535; the values of a floating-point TIFF are in [0, 1] already. A PNG of several
    channels is a mosaic stored as a gray picture, with equal color channels. If the given camera has a `white_level`,
    the samples of any file are divided by that instead.

    Args:
        path: the file; its suffix decides how it is read.
        camera: required for TIFF and PNG, which have no calibration values; replaces the camera of other formats.
        warn: called with one line if a TIFF or PNG uses less than an eighth of its range, as a mosaic of 10 bits in a
            file of 16 does, and the camera has no `white_level`. By default, the line goes to stderr.

    Returns:
        The mosaic `(H, W)` in float32, clipped to [0, 1], with even H and W of at least 2; and the camera.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is truncated, corrupt, of another format or without calibration values, or does not say
            what it is; the sensor has no Bayer pattern, or another one than the given camera; a picture was given
            instead of a mosaic; the height or width of a TIFF or PNG is odd; values are not finite or, in floating
            point, not in [0, 1]. Each message starts with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = path.suffix.lower()
    stored = suffix in (*TIFF_SUFFIXES, ".png")
    with reading(path, None if stored else "raw file"):
        if stored:
            samples = read_tiff(path) if suffix in TIFF_SUFFIXES else _gray(*read_png(path))
            mosaic, camera = _checked_size(_fractions(path, samples, camera, warn)), _required(camera)
        else:
            mosaic, camera = _read_camera_file(path, camera)
        if mosaic.size == 0:
            raise InputError(f"a mosaic has at least two rows and columns, got {mosaic.shape[0]}x{mosaic.shape[1]}")
        return mosaic, camera


def read_mosaic(
    path: Path, camera: Camera | None, warn: Callable[[str], object] = warn
) -> tuple[Float32[np.ndarray, "rows cols"], Camera]:
    """Calls `read_raw`, and turns each of its errors into an InputError."""
    try:
        return read_raw(path, camera, warn)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'no such file'}") from None


def camera_to_srgb(xyz_to_camera: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Computes the matrix from white-balanced camera RGB to linear sRGB as dcraw does (`cam_xyz_coeff`).

    The product of `xyz_to_camera` and the matrix from sRGB to XYZ converts sRGB to camera RGB. Its rows are divided by
    their sums, which maps white-balanced white to the white of sRGB, and the result is inverted.

    Args:
        xyz_to_camera: CIE XYZ to camera RGB, such as rawpy's `rgb_xyz_matrix` or DNG's ColorMatrix.

    Returns:
        The matrix `(3, 3)`; its rows sum to one.
    """
    srgb_to_camera = xyz_to_camera @ SRGB_TO_XYZ
    return np.linalg.inv(srgb_to_camera / srgb_to_camera.sum(axis=1, keepdims=True))


def _required(camera: Camera | None) -> Camera:
    if camera is None:
        raise InputError("TIFF and PNG hold no calibration values: a camera must be given")
    return camera


def _gray(samples: np.ndarray, mode: str, bits: int) -> Shaped[np.ndarray, "rows cols"]:
    """Returns the mosaic that is stored in the samples of a PNG."""
    if mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        raise InputError(f"expected a mosaic of 8 or 16 bits, got a PNG of mode {mode}")
    if samples.ndim == 2:
        return samples
    if bits == 16:
        raise InputError("a 16-bit PNG must have one channel: pillow cuts several channels to 8 bits")
    colors = samples[..., : len(mode.rstrip("A"))]
    if (colors != colors[..., :1]).any():
        raise InputError("expected a mosaic, got a color picture: its channels differ")
    return colors[..., 0]


def _fractions(
    path: Path, samples: np.ndarray, camera: Camera | None, warn: Callable[[str], object]
) -> Float32[np.ndarray, "rows cols"]:
    """Divides the samples of a TIFF or PNG by the camera's white level or, without one, by the range of their type."""
    if samples.ndim != 2:
        raise InputError(f"expected one mosaic (H, W), got samples of shape {samples.shape}")
    if samples.dtype.kind != "f" and samples.dtype not in (np.uint8, np.uint16):
        raise InputError(f"expected samples of 8 or 16 bits or floating point, got {samples.dtype}")
    if samples.size == 0:
        return samples.astype(np.float32)
    lowest, highest = samples.min(), samples.max()
    if not np.isfinite([lowest, highest]).all():
        raise InputError("holds values that are not finite")
    white = camera and camera.white_level
    if white is not None:
        if lowest < 0:
            raise InputError(f"samples must not be negative, got {lowest:g}")
        return np.minimum(samples / np.float64(white), 1).astype(np.float32)
    full = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    if samples.dtype.kind == "f" and (lowest < 0 or highest > 1):
        raise InputError(f"floating-point samples must be in [0, 1], got {lowest:g} to {highest:g}")
    if highest < _DIM * full:
        warn(
            f"{path}: the highest value is {highest:g} of {full}: if the sensor saturates at less, give that value as "
            '"white_level" in the camera\'s JSON file'
        )
    return samples.astype(np.float32) if full == 1 else samples / np.float32(full)


def _checked_size(mosaic: Float32[np.ndarray, "rows cols"]) -> Float32[np.ndarray, "rows cols"]:
    if mosaic.shape[0] % 2 or mosaic.shape[1] % 2:
        raise InputError(f"a mosaic has an even height and width, got {mosaic.shape[0]}x{mosaic.shape[1]}")
    return mosaic


def _read_camera_file(path: Path, camera: Camera | None) -> tuple[Float32[np.ndarray, "rows cols"], Camera]:
    if not _says_what_it_is(path):
        raise InputError(
            "does not say which camera it is from: LibRaw would guess the size, pattern and levels from the number of "
            "bytes; convert it to DNG or TIFF"
        )
    if path.suffix.lower() == ".dng":
        _check_dng(path)
    try:
        with rawpy.RawPy() as raw:
            raw.open_file(str(path))
            check_declared(2 * raw.sizes.raw_height * raw.sizes.raw_width, path.stat().st_size)
            raw.unpack()
            return _mosaic_and_camera(path, raw, camera)
    except rawpy.LibRawError as error:
        message = error.args[0] if error.args else type(error).__name__
        message = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        raise InputError(f"truncated, corrupt or no raw file (LibRaw: {one_line(message)})") from error
    except NotImplementedError as error:  # rawpy raises it for patterns that it does not know.
        raise InputError(one_line(error)) from error


def _says_what_it_is(path: Path) -> bool:
    """Tells whether a file names its camera or format, so that LibRaw need not guess by the number of its bytes.

    LibRaw has a table of the sizes of files without a header. A file that it knows only from this table is unknown to
    it with one byte more.
    """
    with path.open("rb") as file:
        start = file.read(16)
        if start.startswith(_CONTAINERS) or start[6:14] == b"HEAPCCDR" or start[4:8] == b"ftyp":
            return True
        longer = start + file.read() + b"\0"
    with rawpy.RawPy() as raw:
        try:
            raw.open_buffer(io.BytesIO(longer))
        except rawpy.LibRawError:
            pass
        else:
            return True
    with rawpy.RawPy() as raw:
        try:
            raw.open_file(str(path))
        except rawpy.LibRawError:
            return True  # It is no raw file at all, as LibRaw will say when it is read.
    return False


def _mosaic_and_camera(
    path: Path, raw: rawpy.RawPy, camera: Camera | None
) -> tuple[Float32[np.ndarray, "rows cols"], Camera]:
    tile = _color_indices(raw)
    pattern = "".join("RGBG"[index] for index in tile)
    if camera is not None and camera.pattern != pattern:
        raise InputError(f"the sensor's pattern is {pattern}, the given camera's {camera.pattern}")
    origin = black_origin = (raw.sizes.top_margin, raw.sizes.left_margin)
    if path.suffix.lower() == ".dng":
        finite, active_origin = _inspect_dng(path)
        if not finite:
            raise InputError("holds values that are not finite")
        black_origin = active_origin or origin
    white = _white_levels(raw.white_level, raw.camera_white_level_per_channel)[tile]
    if camera is not None and camera.white_level is not None:
        white = np.full(4, camera.white_level)
    if np.float32(min(white)) <= 0:
        raise InputError(f"the white level must be greater than 0, got {white.tolist()}")
    mosaic = _normalized(raw.raw_image_visible, white)
    if camera is None:
        black = np.array(raw.black_level_per_channel)[tile].reshape(2, 2)
        black = np.roll(black, np.subtract(black_origin, origin), axis=(0, 1)).ravel() / white
        gains = _gains(raw.camera_whitebalance, raw.daylight_whitebalance)
        camera = Camera(black, gains, _color_matrix(raw), pattern)
    return mosaic, camera


def _check_dng(path: Path) -> None:
    """Checks that the images of a DNG are in the file: LibRaw takes as much memory as their tiles declare.

    Raises:
        ValueError: a strip or tile is missing.
    """
    with tifffile.TiffFile(path) as tiff:
        for page in _images(tiff):
            if page.subfiletype & 1 or (0 in page.shaped and not page.dataoffsets):
                continue  # a preview, or no image
            sizes = check_chunks(page)
            tag = page.tags.get("TileByteCounts")
            short = tag is not None and tag.dtype == tifffile.DATATYPE.SHORT and len(sizes) > 1
            if short and page.sampleformat == tifffile.SAMPLEFORMAT.IEEEFP:
                raise InputError("its tiles state their sizes in 16 bits, which LibRaw takes for 32")
            check_declared(page.nbytes, sum(sizes))


def _images(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Goes through the images of a DNG, which has most of them in folders within its first image's."""
    pages = (page for ifd in tiff.pages for page in (ifd, *(ifd.pages or ())))
    for page in itertools.islice(pages, _MOST_IMAGES):
        if isinstance(page, tifffile.TiffPage):
            yield page


def _inspect_dng(path: Path) -> tuple[bool, tuple[int, int] | None]:
    """Finds out two facts about a DNG that LibRaw gets wrong.

    LibRaw reads samples that are not finite as zeros. It also moves the start of the visible area to an even row and
    column, by one where the active area starts at an odd one, but does not move the tile of BlackLevel along.

    Returns:
        Whether all samples are finite; and the corner (row, column) of the active area, where the tile of BlackLevel
        starts. The corner is None where LibRaw's black levels are right: without an active area, or with masked areas,
        in which LibRaw measures them.
    """
    with tifffile.TiffFile(path) as tiff:
        for page in _images(tiff):
            if page.photometric != tifffile.PHOTOMETRIC.CFA:
                continue
            finite = page.sampleformat != tifffile.SAMPLEFORMAT.IEEEFP or _is_finite(page)
            if "ActiveArea" in page.tags and "MaskedAreas" not in page.tags:
                top, left, *_ = map(int, page.tags["ActiveArea"].value)
                return finite, (top, left)
            return finite, None
    return True, None


def _is_finite(page: tifffile.TiffPage) -> bool:
    check_page(page)
    return bool(np.isfinite(page.asarray(maxworkers=1)).all())


def _color_indices(raw: rawpy.RawPy) -> Shaped[np.ndarray, "4"]:
    """Returns LibRaw's color index of each site in the first tile of the visible area."""
    tile = raw.raw_pattern if raw.raw_type == rawpy.RawType.Flat else None
    letters = raw.color_desc.decode()
    if tile is None or tile.shape != (2, 2) or tile.max() > 3:
        raise InputError("the sensor has no Bayer pattern (X-Trans, Foveon, monochrome or already demosaiced)")
    # raw_pattern starts at the corner of the full area. raw_colors_visible starts at that of the visible area, but ends
    # too early for odd sizes.
    tile = np.roll(tile, (-raw.sizes.top_margin, -raw.sizes.left_margin), axis=(0, 1)).ravel()
    if letters != "RGBG" or "".join(letters[index] for index in tile) not in PATTERNS:
        raise InputError(f"the sensor has no Bayer pattern: colors {letters}, indices {tile.tolist()} in its tile")
    if 3 not in tile:
        # Both greens have index 1. As in LibRaw, the last one becomes the second green.
        tile[np.flatnonzero(tile == 1)[-1]] = 3
    return tile


def _white_levels(common: int, by_channel: Sequence[int] | None) -> Shaped[np.ndarray, "4"]:
    """Returns the white level of each color index.

    Args:
        common: LibRaw's `white_level`, which no site exceeds.
        by_channel: LibRaw's `linear_max`, where each channel stops being linear; 0 if unknown.
    """
    own = np.array(by_channel or (0, 0, 0, 0))
    return np.where((own > 0) & (own < common), own, common)


def _normalized(visible: Shaped[np.ndarray, "..."], white: Shaped[np.ndarray, "4"]) -> Float32[np.ndarray, "rows cols"]:
    """Divides samples by the white level of their site, and clips them to at most 1."""
    height, width = (size // 2 * 2 for size in visible.shape)
    tiles = visible[:height, :width].reshape(height // 2, 2, width // 2, 2)
    mosaic = (tiles / white.reshape(1, 2, 1, 2).astype(np.float32)).reshape(height, width)
    return np.minimum(mosaic, 1, out=mosaic)


def _gains(as_shot: Sequence[float], daylight: Sequence[float]) -> tuple[float, float, float]:
    """Returns the gains of red, green and blue as shot or, if unknown, for daylight, relative to the mean green."""
    gains = as_shot if min(as_shot[:3]) > 0 else daylight
    red, green, blue, second_green = gains
    green = (green + (second_green if second_green > 0 else green)) / 2
    return red / green, 1.0, blue / green


def _color_matrix(raw: rawpy.RawPy) -> Shaped[np.ndarray, "3 3"]:
    """Returns the matrix from camera RGB to linear sRGB: the file's own, or else that of LibRaw's table of cameras."""
    own = raw.color_matrix[:, :3]
    if own.any():
        return own
    table = raw.rgb_xyz_matrix[:3]
    if not table.any():
        raise InputError("holds no color matrix, and LibRaw knows none for this camera: a camera must be given")
    return camera_to_srgb(table)
