"""Frames, read one at a time; their mean and variance at each site; and the places in the color tile."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Num

from r2l_jax.errors import InputError

Map = Float32[np.ndarray, "rows cols"]
Mask = Bool[np.ndarray, "rows cols"]
Tile = Int[np.ndarray, "height width"]


@dataclasses.dataclass(frozen=True)
class Frames:
    """Names frames, for errors, and reads a frame by its index: a raw image `(H, W)` in [0, 1]."""

    names: Sequence[str]
    read: Callable[[int], Map]

    def __len__(self) -> int:
        return len(self.names)

    def of(self, shape: tuple[int, ...] | None = None, indices: Sequence[int] | None = None) -> Iterator[Map]:
        """Reads the frames at these indices, or all; raises an InputError if their shapes differ or are not `shape`."""
        for index in range(len(self)) if indices is None else indices:
            frame = self.read(index)
            shape = shape or frame.shape
            if frame.shape != shape:
                size, other = (f"{rows}x{cols}" for rows, cols in (shape, frame.shape))
                raise InputError(f"all frames must be {size} like the first, got {other} for {self.names[index]}")
            yield frame


class Moments:
    """Accumulates `count` frames: their `mean` and the sum of `squares` of deviations, site by site (Welford)."""

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
        """The unbiased variance of each site over at least two frames."""
        return self.squares / np.float32(self.count - 1)


class Place(NamedTuple):
    """A place in the tile of colors: its channel (0 is red), its sites in a map, and the digital number of white."""

    row: int
    column: int
    channel: int
    sites: tuple[slice, slice]
    number: float | None

    @property
    def step(self) -> float:
        """The distance between two values, 0 if they are continuous."""
        return 0.0 if self.number is None else 1 / self.number


def places(tile: Tile, *frames: Map) -> list[Place]:
    """Lists the places in a tile, row by row, with the digital numbers of some frames there."""
    found = []
    for row, column in np.ndindex(*tile.shape):
        sites = slice(row, None, tile.shape[0]), slice(column, None, tile.shape[1])
        number = digital_numbers(np.concatenate([frame[sites].ravel() for frame in frames]))
        found.append(Place(row, column, int(tile[row, column]), sites, number))
    return found


def mean_of(values: Map, good: Mask) -> float:
    """Computes the mean over the good sites, or 0 if there are none."""
    return float(values[good].mean(dtype=float)) if good.any() else 0.0


def digital_numbers(values: Num[np.ndarray, "..."]) -> float | None:
    """Finds the digital number of the white level, from the steps between values; None if they are continuous.

    Files hold whole numbers: values of 12 bits lie on 4095 steps from 0 to 1. Numbers of 12 bits in the upper bits of
    16 are found as well, and numbers that were scaled and rounded to 16 bits.
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


# The largest number in a 16-bit file.
_MOST_NUMBERS = 65535
# The mean deviation from whole numbers after rounding to 16 bits; continuous values have 0.25.
_MOST_ROUNDING = 0.1
