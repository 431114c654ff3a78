"""Plain files of samples: PGM, the gray format of Netpbm, and NPY, NumPy's format."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from r2l_jax.data.files.decoding import Stored

# The magic number, width, height and largest value, separated by white space and comments. A single white-space
# character ends the header.
_BLANK = rb"(?:\s|#[^\n\r]*[\n\r])+"
_PGM = re.compile(rb"P5%b(\d{1,9})%b(\d{1,9})%b(\d{1,5})\s" % (_BLANK, _BLANK, _BLANK))


@contextlib.contextmanager
def open_pgm(path: Path) -> Iterator[Stored]:
    """Opens the 8-bit or 16-bit samples of a binary PGM (P5) of one picture, which states its white value."""
    with path.open("rb") as file:
        header = _PGM.match(file.read(2**16))
    if header is None:
        raise ValueError("the header must be P5, width, height and largest value")
    width, height, white = map(int, header.groups())
    if not 1 <= white <= 65535:
        raise ValueError(f"the largest value must be from 1 to 65535, got {white}")
    kind = np.dtype(np.uint8 if white < 256 else ">u2")

    def decode() -> Shaped[np.ndarray, "rows cols"]:
        # Read as bytes first, because an odd byte may follow at the end.
        return _native(np.fromfile(path, np.uint8, offset=header.end()).view(kind).reshape(height, width))

    yield Stored((height, width), width * height * kind.itemsize, decode, white)


@contextlib.contextmanager
def open_npy(path: Path) -> Iterator[Stored]:
    """Opens an array, which states no white value; rejects pickled objects."""
    samples = np.load(path, mmap_mode="r", allow_pickle=False)
    if path.stat().st_size != samples.offset + samples.nbytes:
        raise ValueError("extra bytes follow the samples")
    yield Stored(samples.shape, samples.nbytes, lambda: _native(samples))


def _native(samples: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Copies an array in rows and in the byte order of this machine."""
    return np.array(samples, samples.dtype.newbyteorder("="), order="C")
