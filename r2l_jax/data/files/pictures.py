"""Pictures and masks on disk: JPEG, PNG and TIFF."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import ExifTags, Image, ImageOps

from r2l_jax.data.files.decoding import check_declared, reading
from r2l_jax.data.files.tiff import read_tiff
from r2l_jax.runtime.errors import InputError

# Pillow's names of the modes that it converts to 8-bit RGB without loss.
_LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
TIFF_SUFFIXES = (".tif", ".tiff")

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The first column and row, and the steps between columns and rows, of the seven passes of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 2**18


def read_picture(path: Path) -> tuple[UInt[np.ndarray, "rows cols 3"], bool]:
    """Reads a picture upright.

    Returns:
        The samples in uint8 or, of a 16-bit gray PNG, uint16; and whether the picture had to be turned to be upright.

    Raises:
        InputError: the file cannot be read, or has more bits than pillow keeps.
    """
    with reading(path, "picture"), Image.open(path, formats=("JPEG", "PNG")) as image:
        if image.format == "PNG":
            if check_png(path) == 16 and image.mode != "I;16":
                raise InputError("a 16-bit PNG must be gray: pillow cuts 16-bit colors to 8 bits; save it with 8")
        else:
            check_declared(image.width * image.height * len(image.getbands()), path.stat().st_size)
        if image.mode not in (*_LOSSLESS_MODES, "I;16"):
            raise InputError(f"expected 8 bits per channel, or 16-bit gray, got a picture of mode {image.mode}")
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image = ImageOps.exif_transpose(image)
        if image.mode == "I;16":
            # Pillow's own conversion to RGB would clip at 255.
            return np.repeat(np.asarray(image)[..., None], 3, -1), turned
        if image.mode == "P":
            # Pillow warns if a palette with several transparent colors does not become RGBA first.
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB")), turned


def read_mask(path: Path) -> UInt8[np.ndarray, "rows cols"]:
    """Reads a mask: 1 where any channel of the file other than alpha is greater than 0, else 0.

    Raises:
        InputError: the file cannot be read, or is not a picture.
    """
    values = read_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else read_png(path)[0]
    if values.ndim == 3 and values.shape[-1] <= 4:
        colors = values.shape[-1] - (values.shape[-1] in (2, 4))
        values = values[..., :colors].max(-1)
    if values.ndim != 2:
        raise InputError(f"{path} must be a picture of at most four channels, got shape {values.shape}")
    return (values > 0).astype(np.uint8)


def read_png(path: Path) -> tuple[np.ndarray, str, int]:
    """Reads a PNG.

    Returns:
        The samples, pillow's name of their mode, and the number of bits per channel.

    Raises:
        InputError: the file cannot be read, is damaged, or lacks rows that it declares.
    """
    with reading(path, "PNG"):
        bits = check_png(path)
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image), image.mode, bits


class _Header(NamedTuple):
    width: int
    height: int
    bits: int
    color: int
    interlaced: bool

    @property
    def raw_bytes(self) -> int:
        """The bytes of all rows before compression: each starts with a byte that names its filter."""
        passes = _PASSES if self.interlaced else ((0, 0, 1, 1),)
        total = 0
        for left, top, step_x, step_y in passes:
            columns, rows = -(-(self.width - left) // step_x), -(-(self.height - top) // step_y)
            if columns > 0 and rows > 0:
                total += rows * (1 + -(-columns * _CHANNELS[self.color] * self.bits // 8))
        return total


def check_png(path: Path) -> int:
    """Checks that a PNG holds all rows that it declares, before memory is taken for them; returns its bits per channel.

    If the last rows are missing in an otherwise complete file, Pillow shows them black.

    Raises:
        ValueError: the file is not a PNG, or rows are missing.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _read_header(file)
        check_declared(header.raw_bytes, size)
        held = _count(file, header.raw_bytes)
    if held < header.raw_bytes:
        rows = held * header.height // header.raw_bytes
        raise ValueError(f"it declares {header.height} rows of {header.width} and holds {rows}")
    return header.bits


def _read_header(file: BinaryIO) -> _Header:
    start = file.read(33)
    if len(start) < 33 or start[:8] != _SIGNATURE or start[12:16] != b"IHDR":
        raise ValueError("its header is missing")
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", start[16:29])
    if not width or not height or width > 2**31 or height > 2**31:
        raise ValueError(f"an impossible size, {height}x{width}")
    if color not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise ValueError(f"an unknown kind of samples: color type {color} of {bits} bits")
    return _Header(width, height, bits, color, bool(interlaced))


def _count(file: BinaryIO, enough: int) -> int:
    """Unpacks the samples in small pieces, and counts their bytes up to `enough`."""
    unpacked, held = zlib.decompressobj(), 0
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IEND":
            break
        if kind != b"IDAT":
            file.seek(length + 4, 1)
            continue
        while length > 0 and (data := file.read(min(length, _PIECE))):
            length -= len(data)
            while data and held < enough and not unpacked.eof:
                held += len(unpacked.decompress(data, _PIECE))
                data = unpacked.unconsumed_tail
            if held >= enough or unpacked.eof:
                return min(held, enough)
        file.seek(4, 1)
    # An incomplete stream may still hold decompressed bytes back.
    return min(held + len(unpacked.flush()), enough)
