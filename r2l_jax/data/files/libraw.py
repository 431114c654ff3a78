"""Reading files in camera formats (DNG, NEF, CR2, CR3, ARW, ...) with LibRaw.

Levels and color indices have LibRaw's names: a Bayer sensor has the color indices 0 for red, 1 for green, 2 for blue
and 3 for the second green.
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rawpy
from jaxtyping import Float, Float32, Float64, Shaped

import isp
from r2l_jax.data.files import dng
from r2l_jax.data.files.decoding import check_declared
from r2l_jax.data.files.known_camera import NEUTRAL_MATRIX, KnownCamera
from r2l_jax.errors import InputError, warn

# Linear sRGB to CIE XYZ (D65), with LibRaw's digits, so that `camera_to_srgb` gives LibRaw's matrices.
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)

# The first bytes of camera formats: TIFF and its variants, FUJIFILM, Foveon, Minolta.
_CONTAINERS = (
    b"II*\0", b"MM\0*", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILM", b"FOVb", b"\0MRM",
)  # fmt: skip

# The pattern with which a demosaiced file is re-mosaiced.
_SAMPLED = "RGGB"

Mosaic = Float32[np.ndarray, "rows cols"]


def is_container(path: Path) -> bool:
    """Returns whether a file starts like a camera file."""
    with path.open("rb") as file:
        start = file.read(16)
    return start.startswith(_CONTAINERS) or start[6:14] == b"HEAPCCDR" or start[4:8] == b"ftyp"


def read(path: Path, stated: KnownCamera) -> tuple[Mosaic, isp.Camera]:
    """Reads the raw image of a camera file, and its calibration values unless they are stated."""
    if _is_guessed(path):
        raise InputError(
            "does not name its camera: LibRaw would guess the size, pattern and levels from the number of bytes"
        )
    metadata = dng.read_metadata(path) if path.suffix.lower() == ".dng" else dng.Metadata()
    # With another white level or pattern, levels that are fractions of the camera's would be wrong.
    if metadata.camera is not None and stated.figures.keys().isdisjoint(("white_level", "pattern")):
        own = KnownCamera.of(metadata.camera).figures
        stated = dataclasses.replace(stated, figures={**own, **stated.figures})
    with rawpy.RawPy() as raw:
        raw.open_file(str(path))
        check_declared(2 * raw.sizes.raw_height * raw.sizes.raw_width, path.stat().st_size)
        raw.unpack()
        return _mosaic_and_camera(path, raw, metadata, stated)


def shape(path: Path) -> tuple[int, int]:
    """Returns the shape of the raw image of a camera file, from its header."""
    with rawpy.RawPy() as raw:
        raw.open_file(str(path))
        return raw.sizes.height // 2 * 2, raw.sizes.width // 2 * 2


def camera_to_srgb(xyz_to_camera: Float[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Computes the matrix from white-balanced camera RGB to linear sRGB as dcraw does (`cam_xyz_coeff`).

    `xyz_to_camera` converts CIE XYZ to camera RGB, such as rawpy's `rgb_xyz_matrix` or DNG's ColorMatrix. Its product
    with the matrix from sRGB to XYZ converts sRGB to camera RGB. The product's rows are divided by their sums, which
    maps white-balanced white to the white of sRGB, and it is inverted. The rows of the result sum to one.
    """
    srgb_to_camera = xyz_to_camera @ SRGB_TO_XYZ
    return np.linalg.inv(srgb_to_camera / srgb_to_camera.sum(axis=1, keepdims=True))


def _is_guessed(path: Path) -> bool:
    """Returns whether LibRaw recognizes a file only by its size, from a table of sizes of files without a header."""
    if is_container(path):
        return False
    content, known = path.read_bytes(), []
    for end in (b"", b"\0"):
        with contextlib.suppress(rawpy.LibRawError), rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(content + end))
            known.append(end)
    return known == [b""]


class _Sensor(NamedTuple):
    """The color filter array of the visible area, None for pixels of three values, and LibRaw's index of each site."""

    pattern: str | None
    colors: Shaped[np.ndarray, "rows cols"]


def _mosaic_and_camera(
    path: Path, raw: rawpy.RawPy, metadata: dng.Metadata, stated: KnownCamera
) -> tuple[Mosaic, isp.Camera]:
    sensor = _sensor(raw, metadata)
    pattern = _chosen_pattern(path, sensor.pattern, stated)
    colors = isp.cfa.tile(pattern) if sensor.pattern is None else sensor.colors
    origin = (raw.sizes.top_margin, raw.sizes.left_margin)
    white = _white_levels(raw.white_level, raw.camera_white_level_per_channel)
    given = stated.figures.get("white_level")
    if given is not None:
        white = np.full(4, given)
    black = np.array(raw.black_level_per_channel, float)
    used = white[colors]
    if np.float32(used.min()) <= 0:
        raise InputError(f"the white level must be greater than 0, got {used.ravel().tolist()}")
    mosaic = _visible_samples(raw, sensor, pattern)
    mosaic = mosaic / np.asarray(isp.cfa.tiled(used.astype(np.float32), *mosaic.shape))
    np.minimum(mosaic, 1, out=mosaic)
    if metadata.gain_maps:
        levels = isp.cfa.tiled((black / white)[colors].astype(np.float32), *mosaic.shape)
        _correct_shading(mosaic, np.asarray(levels), metadata, origin)
    if stated.camera is not None and stated.camera.pattern == pattern:
        return mosaic, stated.camera

    figures: dict[str, Any] = dict(stated.figures) | {"pattern": pattern}
    if "black_level" not in figures:
        if isp.cfa.is_bayer(pattern) and colors.shape == (2, 2) and sensor.pattern is not None:
            tile = np.roll(black[colors], np.subtract(metadata.active_origin or origin, origin), (0, 1))
            figures["black_level"] = (tile / used).ravel()
        else:
            figures["black_level"] = _by_color(black / white, pattern, metadata)
    if pattern != isp.cfa.MONO:
        figures.setdefault("white_balance", _gains(raw.camera_whitebalance, raw.daylight_whitebalance))
        if "color_matrix" not in figures:
            figures["color_matrix"] = _color_matrix(raw)
    try:
        return mosaic, isp.Camera(**figures)
    except ValueError as error:
        raise InputError(f"with the pattern {pattern}, {error}") from None


def _sensor(raw: rawpy.RawPy, metadata: dng.Metadata) -> _Sensor:
    """Determines the kind of a sensor, whose colors must be red, green and blue."""
    margins = (raw.sizes.top_margin, raw.sizes.left_margin)
    if metadata.pattern is not None:
        start = metadata.active_origin or (0, 0)
        tile = np.roll(isp.cfa.tile(metadata.pattern), np.subtract(start, margins), (0, 1))
        return _Sensor(dng.named(tile), tile)
    if raw.raw_type == rawpy.RawType.Stack:
        if raw.num_colors != 3:
            raise InputError(f"demosaiced pixels must have three values, got {raw.num_colors}")
        return _Sensor(None, isp.cfa.tile(_SAMPLED))
    if raw.num_colors == 1:
        return _Sensor(isp.cfa.MONO, np.zeros((1, 1), int))
    # raw_pattern starts at the corner of the full area. raw_colors_visible starts at the corner of the visible area,
    # but ends too early for odd sizes.
    tile, letters = raw.raw_pattern, raw.color_desc.decode()
    if tile is None or tile.shape not in ((2, 2), (6, 6)) or tile.max() > 3 or letters != "RGBG":
        found = "no tile" if tile is None else f"indices {tile.ravel().tolist()} in its tile"
        raise InputError(f"the sensor's colors must be red, green and blue, got the colors {letters}, {found}")
    tile = np.roll(tile, np.negative(margins), axis=(0, 1)).astype(int)
    if 3 not in tile and tile.shape == (2, 2):
        # Both greens have index 1. As in LibRaw, the last one becomes the second green.
        tile.ravel()[np.flatnonzero(tile == 1)[-1:]] = 3
    return _Sensor(dng.named(np.where(tile == 3, 1, tile)), tile)


def _chosen_pattern(path: Path, stored: str | None, stated: KnownCamera) -> str:
    """Returns the color filter array with which to read a file."""
    given = stated.figures.get("pattern")
    if stored is None:
        if not isp.cfa.is_bayer(given or _SAMPLED):
            raise InputError(f"for a demosaiced file, the camera's pattern must be Bayer, got {given}")
        return given or _SAMPLED
    if given is None or given == stored:
        return stored
    # A stated pattern takes precedence, since phones declare Bayer patterns for their quad Bayer sensors.
    if not stated.states_pattern or isp.cfa.MONO in (stored, given):
        raise InputError(f"the camera must have the sensor's pattern {stored}, got {given}")
    warn(f"{path}: read with the pattern {given} of the camera's JSON file; the file states {stored}")
    return given


def _visible_samples(raw: rawpy.RawPy, sensor: _Sensor, pattern: str) -> Shaped[np.ndarray, "rows cols"]:
    """Returns the samples of the visible area, cropped to even size; a demosaiced file is re-mosaiced."""
    visible = raw.raw_image_visible
    height, width = (size // 2 * 2 for size in visible.shape[:2])
    visible = visible[:height, :width]
    if sensor.pattern is not None:
        return visible
    channels = np.tile(isp.cfa.tile(pattern), (height // 2, width // 2))
    return np.take_along_axis(visible, channels[..., None], -1)[..., 0]


def _white_levels(common: int, by_channel: Sequence[int] | None) -> Shaped[np.ndarray, "4"]:
    """Returns the white level of each color index, from LibRaw's `white_level` and its `linear_max`, 0 if unknown."""
    stored = np.array(by_channel or (0, 0, 0, 0))
    return np.where((stored > 0) & (stored < common), stored, common)


def _correct_shading(
    mosaic: Mosaic, black: Float32[np.ndarray, "rows cols"], metadata: dng.Metadata, origin: tuple[int, int]
) -> None:
    top, left = np.maximum(np.subtract(metadata.active_origin or origin, origin), 0)
    light = mosaic - black
    for gain_map in metadata.gain_maps:
        gain_map.apply(light[top:, left:])
    np.clip(light + black, 0, 1, out=mosaic)


def _by_color(black: Float64[np.ndarray, "4"], pattern: str, metadata: dng.Metadata) -> list[float]:
    """Returns the black levels of a sensor that has one per color."""
    # LibRaw assigns the levels of unknown color filter arrays to the wrong colors.
    if metadata.pattern is not None:
        black = np.full(4, black.mean())
    if isp.cfa.is_bayer(pattern):
        return [float(black[channel]) for channel in isp.cfa.tile(pattern).ravel()]
    return [float(black[0])] if pattern == isp.cfa.MONO else [float(each) for each in black[:3]]


def _gains(as_shot: Sequence[float], daylight: Sequence[float]) -> tuple[float, float, float]:
    """Returns the as-shot gains of red, green and blue (if unknown, those for daylight), relative to the mean green."""
    gains = as_shot if min(as_shot[:3]) > 0 else daylight
    red, green, blue, second_green = gains
    green = (green + (second_green if second_green > 0 else green)) / 2
    return red / green, 1.0, blue / green


def _color_matrix(raw: rawpy.RawPy) -> Shaped[np.ndarray, "3 3"]:
    """Returns the matrix from camera RGB to linear sRGB, from the file or from LibRaw's table of cameras."""
    stored = raw.color_matrix[:, :3]
    if stored.any():
        return stored
    table = raw.rgb_xyz_matrix[:3]
    if not table.any():
        raise InputError(
            "neither the file nor LibRaw has a color matrix for this camera: give one in a JSON file (`camera`); if it "
            f"is unknown, start with {{{NEUTRAL_MATRIX}}}"
        )
    return camera_to_srgb(table)
