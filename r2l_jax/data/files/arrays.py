"""Plain files of samples: PGM, the gray format of Netpbm, and NPY, NumPy's format."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

# The magic number, width, height and largest value, separated by white space and comments. A single white-space
# character ends the header.
_BLANK = rb"(?:\s|#[^\n\r]*[\n\r])+"
_PGM = re.compile(rb"P5%b(\d{1,9})%b(\d{1,9})%b(\d{1,5})\s" % (_BLANK, _BLANK, _BLANK))


def read_pgm(path: Path) -> tuple[Shaped[np.ndarray, "rows cols"], int]:
    """Reads the 8-bit or 16-bit samples of a binary PGM (P5) of one picture, and its white value."""
    with path.open("rb") as file:
        header = _PGM.match(file.read(2**16))
    if header is None:
        raise ValueError("the header must be P5, width, height and largest value")
    width, height, white = map(int, header.groups())
    if not 1 <= white <= 65535:
        raise ValueError(f"the largest value must be from 1 to 65535, got {white}")
    # Read as bytes first, because an odd byte may follow at the end.
    content = np.fromfile(path, np.uint8, offset=header.end())
    return _native(content.view(np.uint8 if white < 256 else ">u2").reshape(height, width)), white


def read_npy(path: Path) -> tuple[Shaped[np.ndarray, "..."], None]:
    """Reads an array, which states no white value; rejects pickled objects."""
    with path.open("rb") as file:
        samples = np.load(file, allow_pickle=False)
        if file.read(1):
            raise ValueError("extra bytes follow the samples")
    return _native(samples), None


def _native(samples: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Returns an array in rows and in the byte order of this machine."""
    return np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))
