"""Pictures and masks on disk: JPEG, PNG and TIFF."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt, UInt8
from PIL import ExifTags, Image, ImageOps

from r2l_jax.data.files.decoding import check_declared, reading
from r2l_jax.data.files.tiff import TIFF_SUFFIXES, read_tiff
from r2l_jax.errors import InputError

# Pillow's names of the modes that it converts to 8-bit RGB without loss.
_LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# The number of channels of each color type of PNG.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The first column and row, and the steps between columns and rows, of the seven passes of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_picture(path: Path) -> tuple[UInt[np.ndarray, "rows cols 3"], bool]:
    """Reads a JPEG or PNG upright, in uint8 (uint16 for a 16-bit gray PNG); also returns whether it was rotated."""
    with reading(path), Image.open(path, formats=("JPEG", "PNG")) as image:
        if image.format == "PNG":
            if png_bits(path) == 16 and image.mode != "I;16":
                raise InputError("a 16-bit PNG must be gray: pillow truncates 16-bit colors; save it with 8 bits")
        else:
            check_declared(image.width * image.height * len(image.getbands()), path.stat().st_size)
        if image.mode not in (*_LOSSLESS_MODES, "I;16"):
            raise InputError(f"expected 8 bits per channel, or 16-bit gray, got a picture of mode {image.mode}")
        if image.format == "PNG":
            _check_rows(path, np.asarray(image))
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image = ImageOps.exif_transpose(image)
        if image.mode == "I;16":
            # Pillow's conversion to RGB would clip at 255.
            return np.repeat(np.asarray(image)[..., None], 3, -1), turned
        if image.mode == "P":
            # Pillow warns if a palette with several transparent colors does not become RGBA first.
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB")), turned


def read_mask(path: Path, indices: bool = False) -> UInt8[np.ndarray, "rows cols"]:
    """Reads a mask: 1 where any channel of the file other than alpha is greater than 0, else 0.

    With `indices`, it returns the values of the only channel: the index of each pixel's class, or 255 where pixels are
    ignored. `masks.check_masks` has checked that these are indices of classes.
    """
    with reading(path):
        values = _mask_samples(path)
        if not indices:
            return np.asarray((values > 0).any(-1), np.uint8)
        if values.shape[-1] > 1 or not (values == values.astype(np.uint8)).all():
            found = f"got {values.shape[-1]} of {values.dtype}"
            raise InputError(f"a mask of several classes must have one channel with values from 0 to 255, {found}")
        return values[..., 0].astype(np.uint8)


def mask_values(path: Path) -> list[tuple[Any, int]]:
    """Returns the values of a mask in increasing order, and the number of pixels of each; a color is a list."""
    with reading(path):
        values = _mask_samples(path)
        flat = values.reshape(-1, values.shape[-1])
        # Sorting runs of equal pixels is a hundred times faster than sorting pixels.
        starts = np.flatnonzero(np.append(True, (flat[1:] != flat[:-1]).any(-1)))
        found, kinds = np.unique(flat[starts], axis=0, return_inverse=True)
        pixels = np.bincount(kinds.ravel(), np.diff(np.append(starts, len(flat)))).astype(int).tolist()
        return list(zip((found[:, 0] if found.shape[1] == 1 else found).tolist(), pixels, strict=True))


def _mask_samples(path: Path) -> Shaped[np.ndarray, "rows cols channels"]:
    """Reads the channels of a mask, without alpha."""
    if path.suffix.lower() in TIFF_SUFFIXES:
        values = read_tiff(path)
    else:
        values, mode = read_png(path)
        if mode == "L":
            # Pillow stretches samples of 2 and 4 bits, which the header declares, to the range of 8 bits.
            values = values // (255 // (2 ** png_bits(path) - 1))
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.ndim == 2:
        return values[..., None]
    if values.ndim == 3 and values.shape[-1] <= 4:
        return values[..., : values.shape[-1] - (values.shape[-1] in (2, 4))]
    raise InputError(f"a mask must be a picture with at most four channels, got shape {values.shape}")


def read_png(path: Path) -> tuple[np.ndarray, str]:
    """Reads a PNG: its samples, and pillow's name of their mode."""
    png_bits(path)
    with Image.open(path, formats=("PNG",)) as image:
        values, mode = np.asarray(image), image.mode
    _check_rows(path, values)
    return values, mode


def png_bits(path: Path) -> int:
    """Returns the bits per channel of a PNG, after checking that its bytes can hold the size that it declares."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise ValueError("its header is missing")
    width, height, bits, color = struct.unpack_from(">IIBB", header, 16)
    check_declared(width * height * _CHANNELS[color] * bits // 8, path.stat().st_size)
    return bits


def _check_rows(path: Path, values: np.ndarray) -> None:
    """Raises a ValueError if a PNG with a black row lacks samples: Pillow returns missing rows black."""
    if values.reshape(len(values), -1).any(1).all():
        return
    content = path.read_bytes()
    width, height, bits, color, interlaced = struct.unpack_from(">IIBB2xB", content, 16)
    # Each row starts with a byte that names its filter.
    needed = 0
    for left, top, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            needed += rows * (1 + -(-columns * _CHANNELS[color] * bits // 8))
    held = len(zlib.decompressobj().decompress(b"".join(_image_data(content)), needed or 1))
    if held < needed:
        raise ValueError(f"it declares {height} rows of {width} pixels and holds {held * height // needed}")


def _image_data(content: bytes) -> Iterator[bytes]:
    place, kind = 8, b""
    while place + 8 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        place += length + 12
