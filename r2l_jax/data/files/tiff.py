"""Reads TIFF files, and rejects those that lack samples they declare."""

import itertools
import logging
import lzma
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float32

from r2l_jax.data.files.decoding import check_declared, reading
from r2l_jax.runtime.errors import InputError

# tifffile also logs damaged files, which the error already reports.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

TIFF_SUFFIXES = (".tif", ".tiff")

# By default, tifffile writes an image (H, W, 3) as H pages of W x 3.
_MOST_PAGES = 2**12

# The compression methods, by TIFF number, whose output can be bounded during decoding: each takes the bytes of a strip
# and a limit, and returns at most that many decoded bytes.
_INFLATE: dict[int, Callable[[bytes, int], bytes]] = {
    **dict.fromkeys((8, 32946, 50013), lambda data, limit: zlib.decompressobj().decompress(data, limit)),
    34925: lambda data, limit: lzma.LZMADecompressor(memlimit=2**28).decompress(data, limit),
}


def read_tiff(path: Path) -> np.ndarray:
    """Reads the first picture of a TIFF file, and any other pages of its size, as one array.

    The samples are as stored: `(H, W)`, `(H, W, channels)`, `(channels, H, W)` or `(pages, ...)`. Other programs'
    descriptions, such as the axes of a hyperstack, are ignored.
    """
    with tifffile.TiffFile(path) as tiff:
        pages = list(itertools.islice(tiff.pages, _MOST_PAGES + 1))
        if len(pages) > _MOST_PAGES:
            raise ValueError(f"it has more than {_MOST_PAGES} pages")
        first = pages[0]
        same = [page for page in pages if (page.shape, page.dtype) == (first.shape, first.dtype)]
        for page in same:
            check_page(page)
        check_declared(sum(page.nbytes for page in same), tiff.filehandle.size)
        # Decoded in the calling thread, because several files are already read at once.
        arrays = [page.asarray(maxworkers=1) for page in same]
        return np.stack(arrays) if len(arrays) > 1 else arrays[0]


def check_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> list[int]:
    """Checks that the file holds all samples of a page; returns the bytes of each strip or tile in the file.

    tifffile fills in zeros for missing or empty strips or tiles, and does not bound their unpacked size.
    """
    if not isinstance(page, tifffile.TiffPage):
        raise ValueError(f"page {page.index} is damaged")
    if 0 in page.shaped:
        raise ValueError(f"an empty picture of shape {page.shape}")
    kind, file, expected = "tile" if page.is_tiled else "strip", page.parent.filehandle, math.prod(page.chunked)
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))[:expected]
    if len(places) < expected:
        raise ValueError(f"it declares {expected} {kind}s and holds {len(places)}")
    inflate = _INFLATE.get(page.compression)
    for index, (offset, count) in enumerate(places):
        if offset <= 0 or count <= 0 or offset + count > file.size:
            raise ValueError(f"{kind} {index} of {expected} lies outside of the file")
        needed, most = _chunk_bytes(page, index)
        check_declared(most, count)
        held = needed  # PackBits shrinks little, and the others know the size of their output.
        if page.compression == tifffile.COMPRESSION.NONE:
            held = min(count, most)
        elif inflate is not None:
            file.seek(offset)
            held = len(inflate(file.read(count), most + 1))
        if not needed <= held <= most:
            raise ValueError(f"{kind} {index} of {expected} holds {held} of the {needed} bytes declared")
    return [count for _, count in places]


def _chunk_bytes(page: tifffile.TiffPage, index: int) -> tuple[int, int]:
    """Returns the minimum and maximum bytes of an unpacked strip or tile, since the last strip may be padded or not."""
    samples = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.CONTIG else 1
    bits = int(page.bitspersample)
    if page.is_tiled:
        full = page.tiledepth * page.tilelength * -(-page.tilewidth * samples * bits // 8)
        return full, full
    row = -(-page.imagewidth * samples * bits // 8)
    strips = -(-page.imagelength // page.rowsperstrip)
    rows = min(page.rowsperstrip, page.imagelength - index % strips * page.rowsperstrip)
    return rows * row, page.rowsperstrip * row


def read_stored(path: Path, shape: tuple[int, ...] | None) -> Float32[np.ndarray, "..."]:
    """Reads the 16-bit samples, value / 65535, of a raw image `(H, W)` or an image `(H, W, 3)`.

    The channels of an image may come first in the file. A raw image may have any size if `shape` is None.
    """
    with reading(path):
        values = read_tiff(path)
        shape = values.shape[:2] if shape is None else shape
        if len(shape) == 3 and values.shape == (shape[2], *shape[:2]):
            values = np.moveaxis(values, 0, -1)
        if values.shape != shape or values.dtype != np.uint16:
            channels = "three channels" if len(shape) == 3 else "one channel"
            raise InputError(
                f"must be {shape[0]}x{shape[1]} with {channels} of 16 bits, got {values.dtype} of shape {values.shape}"
            )
        return values.astype(np.float32) / 65535
