"""Writes raw images as DNG files that hold their camera.

Tags as in Adobe's Digital Negative Specification (1.6.0.0, 2021), in forms that LibRaw and rawspeed read as well.
"""

import dataclasses
import json
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Float64, UInt16

import isp
from r2l_jax.data.files.dng import CAMERA_MARK
from r2l_jax.data.files.libraw import SRGB_TO_XYZ
from r2l_jax.errors import InputError
from r2l_jax.results.files import replacing

_XTRANS = isp.cfa.tile("GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG")
# LibRaw reads no smaller images.
_LEAST = 22
# The highest denominator of a fraction, whose numerator has 32 bits.
_DENOMINATOR = 2**16


def white_of_bits(bits: int) -> int:
    """Returns a white level of 12 to 16 bits in which samples of this many bits keep their values."""
    highest = 2**bits - 1
    return highest * max(4095 // highest, 1)


def write(path: Path, samples: UInt16[np.ndarray, "rows cols"], camera: isp.Camera, white: int = 65535) -> None:
    """Writes a raw image as an uncompressed DNG, from which `read_raw` returns `samples / white` and an equal camera.

    Other programs get the colors for D65, with the gray that the camera's gains and matrix turn into gray of sRGB, and
    levels as whole numbers, because LibRaw and rawspeed cut fractions. They stretch the range above black to [0, 1].

    Args:
        path: the file, which appears complete or not at all.
        samples: the digital numbers.
        camera: the camera, whose `white_level` replaces `white` if it has one.
        white: the digital number of a saturated site.

    Raises:
        InputError: a sample exceeds the white level, or DNG cannot hold the size or the camera, see `tags`.
    """
    extratags, white = tags(camera, white), int(camera.white_level or white)
    rows, cols = samples.shape
    if min(rows, cols) < _LEAST or rows % 2 or cols % 2:
        raise InputError(f"{path}: a DNG must have an even height and width of at least {_LEAST}, got {rows}x{cols}")
    if (highest := samples.max()) > white:
        raise InputError(f"{path}: samples must be at most the white level, {white}, got {highest}")
    is_mono = camera.pattern == isp.cfa.MONO
    layout = {"photometric": "minisblack" if is_mono else "cfa", "byteorder": "<", "subfiletype": 0, "metadata": None}
    with replacing(path) as part:
        tifffile.imwrite(part, samples, software="r2l_jax", extratags=extratags, **layout)
        if is_mono:
            # tifffile itself writes only linear raw images of three channels.
            with tifffile.TiffFile(part, mode="r+") as tiff:
                tiff.pages.first.tags["PhotometricInterpretation"].overwrite(tifffile.PHOTOMETRIC.LINEAR_RAW)


def tags(camera: isp.Camera, white: int = 65535) -> list[tuple[int, str, int, Any, bool]]:
    """Returns the tags of a camera's DNG files, as tifffile takes them.

    Raises:
        InputError: the color filter array is neither Bayer nor X-Trans, a level does not fit into 16 bits, or no
            positive camera RGB is gray.
    """
    level, pattern = camera.white_level or white, camera.pattern
    if level != int(level) or level > 65535:
        raise InputError(f"the white level of a DNG must be a whole number up to 65535, got {level:g}")
    if min(camera.black_level) < 0:
        raise InputError(f"the black level of a DNG must not be negative, got {[*camera.black_level]}")
    about = json.dumps({name: value for name, value in dataclasses.asdict(camera).items() if value is not None})
    private, model = CAMERA_MARK + about.encode(), f"camera {zlib.crc32(about.encode()):08x}"
    tile = isp.cfa.tile(pattern)
    black = np.round(np.multiply(camera.black_level, level)).astype(int)
    black = black.reshape(2, 2) if isp.cfa.is_bayer(pattern) else black[tile]
    # Of a larger tile, rawspeed takes only the first 2x2 levels.
    black = black[:1, :1] if (black == black[0, 0]).all() else black
    found: list[tuple[int, str, int, Any]] = [
        (271, "s", 0, "r2l_jax"),  # Make
        (272, "s", 0, model),  # Model
        (274, "H", 1, 1),  # Orientation
        (50706, "B", 4, (1, 6, 0, 0)),  # DNGVersion
        (50707, "B", 4, (1, 1, 0, 0)),  # DNGBackwardVersion
        (50708, "s", 0, f"r2l_jax {model}"),  # UniqueCameraModel
        (50713, "H", 2, black.shape),  # BlackLevelRepeatDim
        (50714, "I", black.size, tuple(black.ravel().tolist())),  # BlackLevel
        (50717, "I", 1, int(level)),  # WhiteLevel
        (50740, "B", len(private), private),  # DNGPrivateData
    ]
    if pattern != isp.cfa.MONO:
        phases = [np.roll(_XTRANS, (row, col), (0, 1)) for row in range(6) for col in range(6)]
        if not isp.cfa.is_bayer(pattern) and not any(np.array_equal(tile, phase) for phase in phases):
            known = "Bayer, X-Trans and monochrome sensors, because LibRaw and rawspeed misread others"
            raise InputError(f"DNG files are written for {known}, got the pattern {pattern}")
        from_xyz, gray = _colors(camera)
        found += [
            (33421, "H", 2, tile.shape),  # CFARepeatPatternDim
            (33422, "B", tile.size, tuple(tile.ravel().tolist())),  # CFAPattern
            (50721, "2i", 9, _fractions(from_xyz.ravel())),  # ColorMatrix1
            (50728, "2I", 3, _fractions(gray)),  # AsShotNeutral
            (50778, "H", 1, 21),  # CalibrationIlluminant1: D65
        ]
    if camera.full_well is not None and camera.read_noise is not None:
        # The variance of light x, which is 0 at the black level and 1 at the white level, is scale x + offset.
        profile = (1 / camera.full_well, (camera.read_noise / camera.full_well) ** 2)
        found.append((51041, "d", 2, profile))  # NoiseProfile
    return [(*tag, True) for tag in found]


def _colors(camera: isp.Camera) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
    """Computes the matrix from XYZ to camera RGB, and the camera RGB of gray and of D65, whose highest value is 1."""
    from_srgb, gray = np.zeros((3, 3)), np.zeros(3)
    to_srgb = np.array(camera.color_matrix) * np.array(camera.white_balance)
    if np.linalg.cond(to_srgb) < 1 / np.finfo(float).eps:
        from_srgb = np.linalg.inv(to_srgb)
        gray = from_srgb.sum(1)
    if gray.max() <= 0 or gray.min() * _DENOMINATOR < gray.max() or abs(from_srgb).max() > 1000 * gray.max():
        reason = "must turn positive red, green and blue into gray"
        raise InputError(f"for a DNG, the white balance and color matrix {reason}, got gray of {gray.tolist()}")
    return from_srgb / gray.max() @ np.linalg.inv(SRGB_TO_XYZ), gray / gray.max()


def _fractions(values: Float64[np.ndarray, " n"]) -> tuple[int, ...]:
    """Returns numerators and denominators in turn."""
    fractions = [Fraction(value).limit_denominator(_DENOMINATOR) for value in values.tolist()]
    return tuple(number for each in fractions for number in (each.numerator, each.denominator))
