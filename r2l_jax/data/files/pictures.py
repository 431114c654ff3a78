"""Pictures and masks on disk: JPEG, PNG and TIFF."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import ExifTags, Image, ImageOps

from r2l_jax.data.files.decoding import check_declared, reading
from r2l_jax.data.files.png import check_png
from r2l_jax.data.files.tiff import read_tiff
from r2l_jax.runtime.errors import InputError

# Pillow's names of the modes that it converts to 8-bit RGB without loss.
_LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
TIFF_SUFFIXES = (".tif", ".tiff")


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
