"""Pictures and masks on disk: JPEG, PNG and TIFF."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt, UInt8
from PIL import ExifTags, Image, ImageOps

from r2l_jax.cli.commands import command
from r2l_jax.data.files.decoding import Stored, check_declared, opened, reading
from r2l_jax.data.files.tiff import TIFF_SUFFIXES, open_tiff
from r2l_jax.errors import InputError

# Pillow's names of the modes that it converts to 8-bit RGB without loss.
_LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The color types of PNG, and the number of channels of each.
_GRAY, _CHANNELS = 0, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The chunks that hold samples, of the picture and of an animation's frames, and the chunk that ends a file.
_FRAMES = (b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND")
# The first column and row, and the steps between columns and rows, of the seven passes of an interlaced PNG.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def from_pictures() -> str:
    """Explains how to convert pictures to raw files, at the end of an error message."""
    return f"{command('unprocess')} converts JPEG and PNG pictures to raw files"


def read_picture(path: Path) -> tuple[UInt[np.ndarray, "rows cols 3"], bool]:
    """Reads a JPEG or PNG upright, in uint8 (uint16 for a 16-bit gray PNG); also returns whether it was rotated."""
    with reading(path), _open_picture(path) as image:
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


def _open_picture(path: Path) -> Image.Image:
    with path.open("rb") as file:
        is_png = file.read(len(_SIGNATURE)) == _SIGNATURE
    if not is_png:
        image = Image.open(path, formats=("JPEG",))
        check_declared(image.width * image.height * len(image.getbands()), path.stat().st_size)
        return image
    header = _Header.of(path)
    check_declared(header.size, path.stat().st_size)
    if header.bits == 16 and header.color != _GRAY:
        raise InputError("a 16-bit PNG must be gray: pillow truncates 16-bit colors; save it with 8 bits")
    return header.image(path)


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
    with opened(path, open_tiff if path.suffix.lower() in TIFF_SUFFIXES else open_png) as stored:
        *_, channels = shape = (*stored.shape, 1)[: max(len(stored.shape), 3)]
        if len(shape) > 3 or channels > 4:
            raise InputError(f"a mask must be a picture with at most four channels, got shape {stored.shape}")
        values = stored.read().reshape(shape)
    values = values.astype(np.uint8) if values.dtype == bool else values
    return values[..., : channels - (channels in (2, 4))]


@contextlib.contextmanager
def open_png(path: Path) -> Iterator[Stored]:
    """Opens the samples of a PNG as they are stored: `(H, W)` for gray or a palette, otherwise `(H, W, channels)`."""
    header = _Header.of(path)
    few = header.color == _GRAY and 1 < header.bits < 8

    def decode() -> np.ndarray:
        samples = np.asarray(header.image(path))
        # Pillow stretches samples of 2 and 4 bits to the range of 8 bits.
        return samples // (255 // (2**header.bits - 1)) if few else samples

    shape = (header.height, header.width, _CHANNELS[header.color])
    yield Stored(shape[: 2 + (shape[-1] > 1)], header.size, decode, 2**header.bits - 1 if few else None)


@contextlib.contextmanager
def open_gray_png(path: Path) -> Iterator[Stored]:
    """Opens a PNG of a raw image, one channel of 2 to 16 bits."""
    header = _Header.of(path)
    if header.color != _GRAY or header.bits == 1:
        found = {0: "one bit", 2: "RGB", 3: "a palette", 4: "gray with alpha", 6: "RGB with alpha"}[header.color]
        raise InputError(f"expected one channel with 8 or 16 bits of raw data, got a PNG of {found}; {from_pictures()}")
    with open_png(path) as stored:
        yield stored


class _Header(NamedTuple):
    """The header of a PNG; `color` is the type of its samples."""

    width: int
    height: int
    bits: int
    color: int
    interlaced: int

    @classmethod
    def of(cls, path: Path) -> "_Header":
        with path.open("rb") as file:
            start = file.read(29)
        if start[:8] != _SIGNATURE or start[12:16] != b"IHDR":
            raise ValueError("its header is missing")
        return cls(*struct.unpack_from(">IIBB2xB", start, 16))

    @property
    def size(self) -> int:
        """The bytes of all samples."""
        return self.width * self.height * _CHANNELS[self.color] * self.bits // 8

    def image(self, path: Path) -> Image.Image:
        """Opens the picture with pillow, which would return missing rows black, and inflates as much as there is.

        So the rows are inflated here, as many as the header declares, and handed on without compression.
        """
        chunks = list(_chunks(path.read_bytes()))
        others = b"".join(content for kind, content in chunks if kind not in _FRAMES)
        file, left = io.BytesIO(_SIGNATURE + others), self._needed
        file.seek(0, io.SEEK_END)
        inflate, store = zlib.decompressobj(), zlib.compressobj(0)
        for kind, content in chunks:
            if kind == b"IDAT" and left:
                rows = inflate.decompress(content[8:-4], left)
                left -= len(rows)
                _write_chunk(file, kind, store.compress(rows))
        if left or not self._needed:
            held = self.height * (self._needed - left) // max(self._needed, 1)
            raise ValueError(f"it declares {self.height} rows of {self.width} pixels and holds {held}")
        _write_chunk(file, b"IDAT", store.flush())
        _write_chunk(file, b"IEND", b"")
        file.seek(0)
        return Image.open(file, formats=("PNG",))

    @property
    def _needed(self) -> int:
        """The bytes of all rows, each of which starts with a byte that names its filter."""
        needed = 0
        for left, top, step_x, step_y in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - left) // step_x), -(-(self.height - top) // step_y)
            if columns > 0 and rows > 0:
                needed += rows * (1 + -(-columns * _CHANNELS[self.color] * self.bits // 8))
        return needed


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind of each chunk of a PNG, and all of its bytes."""
    place, kind = len(_SIGNATURE), b""
    while place + 8 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, content[place : place + length + 12]
        place += length + 12


def _write_chunk(file: io.BytesIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
