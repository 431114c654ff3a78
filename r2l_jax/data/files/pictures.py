"""Pictures and masks on disk: JPEG, PNG and TIFF."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import ExifTags, Image, ImageOps

from r2l_jax.data.files.decoding import check_declared, reading
from r2l_jax.data.files.tiff import TIFF_SUFFIXES, read_tiff
from r2l_jax.runtime.errors import InputError

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
            if check_png(path) == 16 and image.mode != "I;16":
                raise InputError("a 16-bit PNG must be gray: pillow truncates 16-bit colors; save it with 8 bits")
        else:
            check_declared(image.width * image.height * len(image.getbands()), path.stat().st_size)
        if image.mode not in (*_LOSSLESS_MODES, "I;16"):
            raise InputError(f"expected 8 bits per channel, or 16-bit gray, got a picture of mode {image.mode}")
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image = ImageOps.exif_transpose(image)
        if image.mode == "I;16":
            # Pillow's conversion to RGB would clip at 255.
            return np.repeat(np.asarray(image)[..., None], 3, -1), turned
        if image.mode == "P":
            # Pillow warns if a palette with several transparent colors does not become RGBA first.
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB")), turned


def read_mask(path: Path, several: bool = False) -> UInt8[np.ndarray, "rows cols"]:
    """Reads a mask: 1 where any channel of the file other than alpha is greater than 0, else 0.

    Raises an InputError if objects have different values or colors, such as classes, unless `several` are one object.
    """
    with reading(path):
        values = read_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else read_png(path)[0]
        if values.ndim == 2:
            values = values[..., None]
        elif values.ndim == 3 and values.shape[-1] <= 4:
            values = values[..., : values.shape[-1] - (values.shape[-1] in (2, 4))]
        else:
            raise InputError(f"a mask must be a picture with at most four channels, got shape {values.shape}")
        mask = np.asarray((values > 0).any(-1))
        objects = values[mask]
        if not several and (objects[1:] != objects[:-1]).any():
            found = [tuple(each) if len(each) > 1 else each[0] for each in np.unique(objects, axis=0).tolist()]
            said = ", ".join([*map(str, found[:5]), *["..."] * (len(found) > 5)])
            raise InputError(f"a mask must have one value besides 0, such as 1 or 255, for one class, found {said}")
        return mask.astype(np.uint8)


def read_png(path: Path) -> tuple[np.ndarray, str]:
    """Reads a PNG: its samples, and pillow's name of their mode."""
    check_png(path)
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image), image.mode


def check_png(path: Path) -> int:
    """Checks that a PNG holds all declared rows, before memory is allocated for them; returns its bits per channel.

    If the last rows are missing in an otherwise complete file, Pillow returns them black.
    """
    content = path.read_bytes()
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR":
        raise ValueError("its header is missing")
    width, height, bits, color, interlaced = struct.unpack_from(">IIBB2xB", content, 16)
    # Each row starts with a byte that names its filter.
    needed = 0
    for left, top, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            needed += rows * (1 + -(-columns * _CHANNELS[color] * bits // 8))
    check_declared(needed, len(content))
    held = len(zlib.decompressobj().decompress(b"".join(_image_data(content)), needed or 1))
    if held < needed:
        raise ValueError(f"it declares {height} rows of {width} pixels and holds {held * height // needed}")
    return bits


def _image_data(content: bytes) -> Iterator[bytes]:
    place, kind = 8, b""
    while place + 8 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        place += length + 12
