"""Frames that are read one at a time, and their mean and variance at each site."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Num

from r2l_jax.runtime.errors import InputError

Map = Float32[np.ndarray, "rows cols"]


@dataclasses.dataclass(frozen=True)
class Frames:
    """Names frames and reads them.

    Attributes:
        names: the names of the frames, for errors.
        read: reads the frame of an index, a mosaic `(H, W)` in [0, 1].
    """

    names: Sequence[str]
    read: Callable[[int], Map]

    def __len__(self) -> int:
        return len(self.names)

    def of(self, shape: tuple[int, ...] | None = None, indices: Sequence[int] | None = None) -> Iterator[Map]:
        """Reads frames.

        Args:
            shape: the size that they must have; None is that of the first one.
            indices: which frames; None is all.

        Raises:
            InputError: a frame has another size.
        """
        for index in range(len(self)) if indices is None else indices:
            frame = self.read(index)
            shape = shape or frame.shape
            if frame.shape != shape:
                sizes = (f"{rows}x{cols}" for rows, cols in (shape, frame.shape))
                raise InputError(
                    "all frames must be {0}, as the first one, got {1} of {name}".format(*sizes, name=self.names[index])
                )
            yield frame


class Moments:
    """Accumulates the mean of frames and their squared deviations from it, site by site (Welford's algorithm).

    Attributes:
        count: the number of frames so far.
        mean: their mean `(H, W)`.
        squares: the sum of the squared deviations from the mean `(H, W)`.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.count = 0
        self.mean, self.squares = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def add(self, frame: Map) -> None:
        """Adds a frame."""
        self.count += 1
        deviation = frame - self.mean
        self.mean += deviation / np.float32(self.count)
        deviation *= frame - self.mean
        self.squares += deviation

    @property
    def variance(self) -> Map:
        """The unbiased variance of each site over the frames, of which there must be at least two."""
        return self.squares / np.float32(self.count - 1)


def phases(tile: Num[np.ndarray, "height width"]) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """Yields each place in a tile, and the slices that take its sites from a map."""
    height, width = tile.shape
    for row, col in np.ndindex(height, width):
        yield (row, col), (slice(row, None, height), slice(col, None, width))


def digital_numbers(values: Num[np.ndarray, "..."]) -> float | None:
    """Finds the digital number of the white level, from the steps between values.

    Files hold whole numbers, of which values are fractions: 4095 steps from 0 to 1 are those of 12 bits. Also found are
    numbers of 12 bits in the upper bits of 16, and those that were scaled and rounded to 16 bits.

    Args:
        values: values of many sites.

    Returns:
        The number of steps from 0 to 1, or None if the values are continuous.
    """
    levels = np.unique(values).astype(np.float64)
    if len(levels) < 2:
        return None
    coarse = 1 / np.diff(levels).min()
    if coarse > 1.01 * _MOST_NUMBERS:
        return None
    whole = np.arange(np.floor(0.99 * coarse), np.ceil(1.01 * coarse) + 1)
    shifted = _MOST_NUMBERS / 2.0 ** np.arange(16)
    candidates = np.concatenate([whole, shifted[abs(shifted / coarse - 1) < 0.01]])
    candidates = candidates[candidates >= 1]
    sample = levels[np.linspace(0, len(levels) - 1, min(len(levels), 512)).astype(int)]
    numbers = np.outer(candidates, sample)
    errors = abs(numbers - np.round(numbers)).mean(1)
    best = int(errors.argmin())
    return float(candidates[best]) if errors[best] < _MOST_ROUNDING else None


# The greatest number in a file of 16 bits.
_MOST_NUMBERS = 65535
# The mean deviation from whole numbers that rounding to 16 bits leaves; that of continuous values is 0.25.
_MOST_ROUNDING = 0.1
