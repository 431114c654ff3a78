"""Plain files of samples: PGM, the gray format of Netpbm, and NPY, NumPy's format."""

import math
import re
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from r2l_jax.data.files.decoding import reading
from r2l_jax.runtime.errors import InputError

ARRAY_SUFFIXES = (".npy", ".pgm")

# A header: the magic number, width, height and largest value, separated by white space and comments. A single
# white-space character ends it.
_BLANK = rb"(?:\s|#[^\n\r]*[\n\r])+"
_PGM = re.compile(rb"P5%b(\d{1,9})%b(\d{1,9})%b(\d{1,5})\s" % (_BLANK, _BLANK, _BLANK))
# A longer header consists of endless comments.
_LONGEST_HEADER = 2**16

_TYPES = ("u1", "u2", "f2", "f4", "f8")


def read_pgm(path: Path) -> tuple[Shaped[np.ndarray, "rows cols"], int]:
    """Reads a binary PGM (P5) of one picture.

    Returns:
        The samples, in 8 or 16 bits, and the value of white that the file states.

    Raises:
        InputError: the file cannot be read, is not such a PGM, is not as long as it declares, or has a sample above
            white.
    """
    with reading(path, "binary PGM"), path.open("rb") as file:
        header = _PGM.match(file.read(_LONGEST_HEADER))
        if header is None:
            raise ValueError("no header of P5, width, height and largest value")
        width, height, white = map(int, header.groups())
        if not 1 <= white <= 65535:
            raise ValueError(f"the largest value must be from 1 to 65535, got {white}")
        dtype = np.dtype(np.uint8 if white < 256 else ">u2")
        samples = _samples(path, header.end(), (height, width), dtype)
        if samples.size and samples.max() > white:
            raise InputError(f"holds the value {samples.max()}, above the largest of its header, {white}")
        return samples, white


def read_npy(path: Path) -> Shaped[np.ndarray, "..."]:
    """Reads an array of 8 or 16 bits or floating point; pickled objects are refused.

    Raises:
        InputError: the file cannot be read, is not an NPY file, is not as long as it declares, or holds values of other
            types.
    """
    with reading(path, "NPY"), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version[0]}.{version[1]} is not supported")
        shape, by_columns, dtype = readers[version](file)
        if dtype.str[1:] not in _TYPES:
            raise InputError(f"expected samples of 8 or 16 bits or floating point, got {dtype!s:.40}")
        samples = _samples(path, file.tell(), shape[::-1] if by_columns else shape, dtype)
        return np.ascontiguousarray(samples.T) if by_columns else samples


def _samples(path: Path, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    """Reads the samples after a header, in the machine's byte order, if the file is as long as it declares."""
    declared, found = math.prod(shape) * dtype.itemsize, path.stat().st_size - start
    if min(shape, default=0) < 0 or declared != found:
        raise ValueError(f"it declares {declared} bytes of samples of shape {shape}, but has {found}")
    return np.fromfile(path, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
