"""DNG metadata that LibRaw does not report: active area, color filter array, gain maps, and a camera of `dng_writer`.

Tags and opcodes as in Adobe's Digital Negative Specification (1.7.1.0, 2023).
"""

import dataclasses
import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float32, Float64, Int

import isp
from r2l_jax.data.files.decoding import check_declared, check_finite
from r2l_jax.data.files.tiff import check_page, decode_page
from r2l_jax.errors import InputError, one_line

# Begins the DNGPrivateData that hold a camera as JSON, with levels as fractions of white.
CAMERA_MARK = b"r2l_jax\0"

# A DNG with more images than this is damaged.
_MOST_IMAGES = 64
_GAIN_MAP = 9
# Maps of real cameras have about 17x13 points.
_MOST_POINTS = 2**20


@dataclasses.dataclass(frozen=True)
class GainMap:
    """Holds a gain map, an opcode that corrects lens shading.

    It applies to the sites in `area` (top, left, bottom and right, from the corner of the active area) that are `pitch`
    rows and columns apart. `origin` is the place of the first point and `spacing` the distance between points, both
    vertical and horizontal, as fractions of the active area.
    """

    area: tuple[int, int, int, int]
    pitch: tuple[int, int]
    origin: tuple[float, float]
    spacing: tuple[float, float]
    gains: Float32[np.ndarray, "rows cols"]

    def apply(self, light: Float32[np.ndarray, "rows cols"]) -> None:
        """Multiplies the light above black of an active area by the gains, linear between points, in place."""
        top, left, bottom, right = self.area
        rows = np.arange(top, min(bottom, light.shape[0]), self.pitch[0])
        cols = np.arange(left, min(right, light.shape[1]), self.pitch[1])
        # The position of a site is its center.
        by_row = self._weights((rows + 0.5) / light.shape[0], 0) @ self.gains
        light[np.ix_(rows, cols)] *= by_row @ self._weights((cols + 0.5) / light.shape[1], 1).T

    def _weights(self, places: Float64[np.ndarray, " n"], axis: int) -> Float32[np.ndarray, "n points"]:
        """Returns the weights of the points at each place; a map of one point has no spacing."""
        points = np.arange(self.gains.shape[axis])
        index = np.clip((places - self.origin[axis]) / (self.spacing[axis] or 1.0), 0, points[-1])
        return np.maximum(1 - abs(index[:, None] - points), 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Holds the metadata of a DNG's main image.

    Attributes:
        active_origin: the corner (row, column) of the active area, where the tiles of CFAPattern and BlackLevel start.
            LibRaw moves the start of the visible area to an even row and column, but not the tile of BlackLevel. None
            if LibRaw's black levels are correct: without an active area, or with masked areas, where LibRaw measures
            them.
        pattern: the color filter array, if its tile is not one of the 2x2 and 6x6 tiles that LibRaw supports.
        gain_maps: the gain maps of OpcodeList2, in their order.
        camera: the whole camera, if `dng_writer` has written the file.
    """

    active_origin: tuple[int, int] | None = None
    pattern: str | None = None
    gain_maps: tuple[GainMap, ...] = ()
    camera: isp.Camera | None = None


def read_metadata(path: Path) -> Metadata:
    """Reads the metadata of the main image, which is the first that is not a preview.

    Checks that all images are in the file, because LibRaw allocates all the memory that their tiles declare.
    """
    metadata = None
    with tifffile.TiffFile(path) as tiff:
        # Most images of a DNG are in subdirectories of the first one.
        pages = (page for ifd in tiff.pages for page in (ifd, *(ifd.pages or ())))
        for page in itertools.islice(pages, _MOST_IMAGES):
            if not isinstance(page, tifffile.TiffPage) or page.subfiletype & 1:
                continue  # a preview
            if 0 in page.shaped and not page.dataoffsets:
                continue
            sizes = check_page(page)
            is_float = page.sampleformat == tifffile.SAMPLEFORMAT.IEEEFP
            tag = page.tags.get("TileByteCounts")
            if is_float and tag is not None and tag.dtype == tifffile.DATATYPE.SHORT and len(sizes) > 1:
                raise InputError("its tile sizes must have 32 bits, got 16, which LibRaw misreads")
            check_declared(page.nbytes, sum(sizes))
            if metadata is None and page.photometric in (tifffile.PHOTOMETRIC.CFA, tifffile.PHOTOMETRIC.LINEAR_RAW):
                metadata = _metadata(page)
                if is_float:
                    check_finite(decode_page(page))  # LibRaw reads NaN as 0.
    return metadata or Metadata()


def _metadata(page: tifffile.TiffPage) -> Metadata:
    active = None
    if "ActiveArea" in page.tags and "MaskedAreas" not in page.tags:
        top, left, *_ = map(int, page.tags["ActiveArea"].value)
        active = (top, left)
    opcodes = page.tags.get("OpcodeList2")
    maps = () if opcodes is None else tuple(_gain_maps(bytes(opcodes.value)))
    return Metadata(active, _pattern(page), maps, _camera(page))


def _camera(page: tifffile.TiffPage) -> isp.Camera | None:
    tag = page.tags.get("DNGPrivateData")
    if tag is None or not isinstance(tag.value, bytes) or not tag.value.startswith(CAMERA_MARK):
        return None
    try:
        return isp.Camera(**json.loads(tag.value.removeprefix(CAMERA_MARK)))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"the camera in its DNGPrivateData is damaged ({one_line(error):.200})") from None


def _pattern(page: tifffile.TiffPage) -> str | None:
    """Returns the color filter array of an image; returns None if LibRaw knows its kind."""
    size, colors = (page.tags.get(name) for name in ("CFARepeatPatternDim", "CFAPattern"))
    if size is None or colors is None:
        return None
    rows, cols = map(int, size.value)
    if (rows, cols) in ((2, 2), (6, 6)):
        return None
    letters = bytes(colors.value)
    if not set(letters) <= {0, 1, 2}:
        raise InputError(f"the color filter array must consist of red, green and blue, got {letters[:16]!r}")
    return named(np.reshape(list(letters), (rows, cols)))


def named(tile: Int[np.ndarray, "rows cols"]) -> str:
    """Returns the name of a color filter array."""
    try:
        return isp.cfa.canonical("/".join("".join("RGB"[channel] for channel in row) for row in tile))
    except ValueError as error:
        raise InputError(str(error)) from None


def _gain_maps(opcodes: bytes) -> Iterator[GainMap]:
    try:
        (count,) = struct.unpack_from(">I", opcodes)
        place = 4
        for _ in range(count):
            kind, _, _, size = struct.unpack_from(">4I", opcodes, place)
            place += 16 + size
            if kind == _GAIN_MAP:
                yield _gain_map(opcodes[place - size : place])
    except (struct.error, ValueError) as error:
        raise InputError(f"its OpcodeList2 is damaged ({error})") from None


def _gain_map(opcode: bytes) -> GainMap:
    top, left, bottom, right, _, _, row_pitch, col_pitch, points_v, points_h = struct.unpack_from(">10I", opcode)
    spacing_v, spacing_h, origin_v, origin_h = struct.unpack_from(">4d", opcode, 40)
    (planes,) = struct.unpack_from(">I", opcode, 72)
    points = points_v * points_h * planes
    if not 0 < points <= _MOST_POINTS or not row_pitch or not col_pitch or len(opcode) < 76 + 4 * points:
        raise ValueError(f"a gain map of {points_v}x{points_h} points and {planes} planes")
    gains = np.frombuffer(opcode, ">f4", points, 76).reshape(points_v, points_h, planes)[..., 0].astype(np.float32)
    if (
        not np.isfinite([spacing_v, spacing_h, origin_v, origin_h]).all()
        or not (np.isfinite(gains) & (gains > 0)).all()
    ):
        raise ValueError("a gain map whose values are not positive and finite")
    return GainMap(
        (top, left, bottom, right), (row_pitch, col_pitch), (origin_v, origin_h), (spacing_v, spacing_h), gains
    )
