"""Pictures and masks on disk: JPEG, PNG and TIFF."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import tifffile
from jaxtyping import UInt, UInt8
from PIL import ExifTags, Image, ImageOps

from r2l_jax.runtime.errors import InputError, one_line

Content = TypeVar("Content")

# Pillow's names of the modes that it converts to 8-bit RGB without loss.
_LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(read: Callable[[Path], Content], path: Path) -> Content:
    """Returns `read(path)`.

    Raises:
        ValueError: the file is damaged: decoders raise OSError, SyntaxError, zlib.error and many others.
    """
    try:
        return read(path)
    except Exception as error:
        raise ValueError(f"truncated, corrupt or no {path.suffix[1:].upper()} ({error})") from error


def png_bits(path: Path) -> int:
    """Returns the number of bits per channel of a PNG, from its header."""
    with path.open("rb") as file:
        return file.read(25)[24]


def read_picture(path: Path) -> tuple[UInt[np.ndarray, "rows cols 3"], bool]:
    """Reads a picture upright.

    Returns:
        The samples in uint8 or, of a 16-bit gray PNG, uint16; and whether the picture had to be turned to be upright.

    Raises:
        InputError: the file cannot be read, or has more bits than pillow keeps.
    """
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and image.mode != "I;16" and png_bits(path) == 16:
                raise InputError("a 16-bit PNG must be gray: pillow cuts 16-bit colors to 8 bits; save it with 8")
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
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # Decoders raise OSError, SyntaxError, struct.error and many others.
        raise InputError(f"{path}: truncated, corrupt or no picture ({one_line(error)})") from None


def read_mask(path: Path) -> UInt8[np.ndarray, "rows cols"]:
    """Reads a mask: 1 where any channel of the file other than alpha is greater than 0, else 0.

    Raises:
        InputError: the file cannot be read, or is not a picture.
    """
    try:
        values = decode(tifffile.imread if path.suffix.lower() in (".tif", ".tiff") else _read_with_pillow, path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if values.ndim == 3 and values.shape[-1] <= 4:
        colors = values.shape[-1] - (values.shape[-1] in (2, 4))
        values = values[..., :colors].max(-1)
    if values.ndim != 2:
        raise InputError(f"{path} must be a picture of at most four channels, got shape {values.shape}")
    return (values > 0).astype(np.uint8)


def _read_with_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
