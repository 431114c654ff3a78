"""Reads TIFF files, and rejects those that lack samples they declare."""

import contextlib
import itertools
import logging
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float32

from r2l_jax.data.files.decoding import Stored, opened, reading
from r2l_jax.errors import InputError

# Whether this thread decodes a page.
_thread = threading.local()


def _filter_log(record: logging.LogRecord) -> bool:
    """Rejects a strip or tile that unpacks to too few samples; drops errors of damaged files, which are raised as well.

    tifffile completes such a strip with zeros since version 2026.11.12, and says so in its log only.
    """
    truncated = re.search(r"truncated (strip|tile) .*\((.*)\)", record.getMessage())
    if truncated and getattr(_thread, "decodes", False):
        raise ValueError(f"corrupted {truncated[1]} ({truncated[2]})")
    return record.levelno >= logging.CRITICAL


logging.getLogger("tifffile").setLevel(logging.ERROR)
logging.getLogger("tifffile").addFilter(_filter_log)

TIFF_SUFFIXES = (".tif", ".tiff")

# By default, tifffile writes an image (H, W, 3) as H pages of W x 3.
_MOST_PAGES = 2**12

# Compressed strips or tiles may be padded, so they may hold this many bytes more than their picture.
_MOST_OVERHEAD = 2**20


def read_tiff(path: Path) -> np.ndarray:
    """Reads the first picture of a TIFF file, see `open_tiff`."""
    with opened(path, open_tiff) as stored:
        return stored.read()


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[Stored]:
    """Opens the first picture of a TIFF file, and any other pages of its size, as one array.

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

        def decode() -> np.ndarray:
            arrays = [decode_page(page) for page in same]
            return np.stack(arrays) if len(arrays) > 1 else arrays[0]

        yield Stored((len(same),) * (len(same) > 1) + first.shape, sum(page.nbytes for page in same), decode)


def check_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> list[int]:
    """Checks that all strips or tiles of a page are in the file; returns their bytes in the file.

    tifffile fills in zeros for missing ones.
    """
    if not isinstance(page, tifffile.TiffPage):
        raise ValueError(f"page {page.index} is damaged")
    if 0 in page.shaped:
        raise ValueError(f"an empty picture of shape {page.shape}")
    kind, expected = "tile" if page.is_tiled else "strip", math.prod(page.chunked)
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))[:expected]
    if len(places) < expected:
        raise ValueError(f"it declares {expected} {kind}s and holds {len(places)}")
    for index, (offset, count) in enumerate(places):
        if offset <= 0 or count <= 0 or offset + count > page.parent.filehandle.size:
            raise ValueError(f"{kind} {index} of {expected} lies outside of the file")
    held, needed = sum(count for _, count in places), page.size * int(page.bitspersample) // 8
    if page.compression == tifffile.COMPRESSION.NONE:
        if held < needed:
            raise ValueError(f"its {kind}s hold {held} of the {needed} bytes declared")
    elif held > needed + _MOST_OVERHEAD:
        # They would be unpacked whole before they are cut to the size declared.
        raise ValueError(f"its {kind}s hold {held} bytes, compressed, of {needed} bytes declared")
    return [count for _, count in places]


def decode_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> np.ndarray:
    """Decodes the samples of a page.

    Raises:
        ValueError: If a compressed strip or tile holds fewer samples than its part of the picture.
    """
    _thread.decodes = True
    try:
        # In the calling thread, because several files are already read at once.
        return page.asarray(maxworkers=1)
    finally:
        _thread.decodes = False


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
