"""TIFF files: their samples, read only if the file holds all that it declares."""

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

# tifffile also logs damaged files, and one line about each is enough.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

# By default, tifffile writes an image (H, W, 3) as H pages of W x 3.
_MOST_PAGES = 2**12

_UNCOMPRESSED = 1

# The methods of compression, by TIFF's numbers, whose output can be bounded while it is made: each takes the bytes of a
# strip and a limit, and returns at most that many decoded bytes.
_INFLATE: dict[int, Callable[[bytes, int], bytes]] = {
    **dict.fromkeys((8, 32946, 50013), lambda data, limit: zlib.decompressobj().decompress(data, limit)),
    34925: lambda data, limit: lzma.LZMADecompressor(memlimit=2**28).decompress(data, limit),
}


def read_tiff(path: Path) -> np.ndarray:
    """Reads the first picture of a TIFF file, and other pages of its size, if there are any, as one array.

    Descriptions by other programs, such as the axes of a hyperstack, are ignored.

    Returns:
        The samples as they are stored: `(H, W)`, `(H, W, channels)`, `(channels, H, W)` or `(pages, ...)`.

    Raises:
        InputError: the file cannot be read, is damaged, lacks a part of the samples that it declares, or is compressed
            by a method of the extra `microscopy`.
    """
    with reading(path, "TIFF"), tifffile.TiffFile(path) as tiff:
        pages = _pages(tiff)
        for page in pages:
            check_page(page)
        check_declared(sum(page.nbytes for page in pages), tiff.filehandle.size)
        try:
            # In the calling thread, because several files are already read at once.
            arrays = [page.asarray(maxworkers=1) for page in pages]
        except (ImportError, ValueError) as error:
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            method = tifffile.COMPRESSION(pages[0].compression).name
            raise InputError(f'{method} compression needs imagecodecs: pip install "r2l_jax[microscopy]"') from None
        return np.stack(arrays) if len(arrays) > 1 else arrays[0]


def _pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Returns the first page, and the others of its shape and type."""
    pages = []
    for count, page in enumerate(tiff.pages):
        if count == _MOST_PAGES:
            raise ValueError(f"it has more than {_MOST_PAGES} pages")
        if not isinstance(page, tifffile.TiffPage):
            break
        if not pages or (page.shape, page.dtype) == (pages[0].shape, pages[0].dtype):
            pages.append(page)
    if not pages:
        raise ValueError("it has no page")
    return pages


def check_page(page: tifffile.TiffPage) -> None:
    """Checks that all samples that a page declares are in the file.

    Where strips or tiles are missing or empty, tifffile fills in zeros; it does not bound their unpacked size.

    Raises:
        ValueError: samples are missing, strips unpack to more than the page declares, or the samples' type is unknown.
    """
    if page.dtype is None or not isinstance(page.bitspersample, int):
        raise ValueError(f"samples of {page.bitspersample} bits in format {page.sampleformat} are not supported")
    kind = "tile" if page.is_tiled else "strip"
    counts = check_chunks(page)
    inflate, file = _INFLATE.get(page.compression), page.parent.filehandle
    for index, count in enumerate(counts):
        needed, most = _chunk_bytes(page, index)
        if page.compression == _UNCOMPRESSED:
            held = count
        elif inflate is None:
            continue  # PackBits shrinks little, and the others know the size of their output.
        else:
            file.seek(page.dataoffsets[index])
            held = len(inflate(file.read(count), most + 1))
            if held > most:
                raise ValueError(f"{kind} {index} of {len(counts)} unpacks to more than the {most} bytes declared")
        if held < needed:
            raise ValueError(f"{kind} {index} of {len(counts)} holds {held} of the {needed} bytes declared")


def check_chunks(page: tifffile.TiffPage) -> list[int]:
    """Checks the places and sizes that the strips or tiles of a page declare; returns the bytes of each in the file.

    Raises:
        ValueError: one of them is missing, empty, not in the file, or too short for its samples.
    """
    if 0 in page.shaped:
        raise ValueError(f"an empty picture of shape {page.shape}")
    kind = "tile" if page.is_tiled else "strip"
    expected = math.prod(page.chunked)
    offsets, counts = page.dataoffsets, page.databytecounts
    if min(len(offsets), len(counts)) < expected:
        raise ValueError(f"it declares {expected} {kind}s and has {min(len(offsets), len(counts))}")
    for index, (offset, count) in enumerate(zip(offsets[:expected], counts[:expected], strict=True)):
        if offset <= 0 or count <= 0 or offset + count > page.parent.filehandle.size:
            raise ValueError(f"{kind} {index} of {expected} is not in the file")
        if isinstance(page.bitspersample, int):
            check_declared(_chunk_bytes(page, index)[1], count)
    return list(counts[:expected])


def _chunk_bytes(page: tifffile.TiffPage, index: int) -> tuple[int, int]:
    """Returns the least and the most bytes of an unpacked strip or tile: the last strip may be padded or not."""
    samples = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.CONTIG else 1
    bits = int(page.bitspersample)
    if page.is_tiled:
        full = page.tiledepth * page.tilelength * -(-page.tilewidth * samples * bits // 8)
        return full, full
    row = -(-page.imagewidth * samples * bits // 8)
    strips = -(-page.imagelength // page.rowsperstrip)
    rows = min(page.rowsperstrip, page.imagelength - index % strips * page.rowsperstrip)
    return rows * row, page.rowsperstrip * row


def read_stored(path: Path, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Reads samples of 16 bits and of a known shape, which are value / 65535.

    Args:
        path: the TIFF file.
        shape: `(H, W)` of a mosaic, or `(H, W, 3)` of an image, whose channels may come first in the file.

    Returns:
        The samples of this shape, in [0, 1].

    Raises:
        InputError: the file cannot be read, or has the wrong shape or type.
    """
    values = read_tiff(path)
    if len(shape) == 3 and values.shape == (shape[2], *shape[:2]):
        values = np.moveaxis(values, 0, -1)
    if values.shape != shape or values.dtype != np.uint16:
        channels = "three channels" if len(shape) == 3 else "one channel"
        raise InputError(
            f"{path} must be {shape[0]}x{shape[1]} with {channels} of 16 bits, got {values.dtype} of shape "
            f"{values.shape}"
        )
    return values.astype(np.float32) / 65535
