"""Finds defective sites by comparison with the median of their neighbors, which a few defects do not affect."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from r2l_jax.calibration.frames import Map, Mask

KINDS = ("hot", "dead", "flickering")

# Medians are taken over `_SIDE` sites in each direction, `_STEP` sites apart. Clusters of defects up to twice as wide
# as the step do not affect the median.
_SIDE, _STEP = 5, 2
# The side of the blocks in which the spread of good sites is measured.
_BLOCK = 64
# The median of absolute deviations of a normal distribution, relative to its standard deviation.
_MAD = 0.6745
# Sites that deviate by less than this many estimated standard deviations are good.
_GOOD = 5
# The number of windows sorted at once.
_AT_ONCE = 2**17
# The highest power of a row or column in the smooth surface of light and lens.
_DEGREE = 4


@dataclasses.dataclass(frozen=True)
class Defects:
    """Holds the defective sites of a sensor, in the order of rows and columns.

    `sites` are rows and columns `(N, 2)`, `kinds` are elements of `KINDS`, and `figures` are deviations in standard
    deviations of good sites.
    """

    sites: Int[np.ndarray, "sites 2"]
    kinds: Sequence[str]
    figures: Float[np.ndarray, " sites"]

    def count(self, kind: str) -> int:
        """Counts the defects of a kind."""
        return sum(each == kind for each in self.kinds)


def deviations(values: Map, least: float) -> Map:
    """Computes each site's deviation from its neighborhood's median, in standard deviations of good sites.

    `values` has one value for each site of one place in the tile, such as its mean in the dark; `least` is a lower
    bound on the standard deviation, such as the rounding error.
    """
    # Once the slope is removed, a neighborhood at the border is also representative of the sites at its edge.
    values = values - _surface(values)
    deviation = values - _local_median(values)
    for block in _blocks(values.shape):
        deviation[block] /= np.float32(_spread(deviation[block], least))
    return deviation


def noise_deviations(variance: Map, expected: Map, degrees: int, rounding: float) -> Map:
    """Computes how far each site's noise exceeds the expected noise, in standard deviations.

    The ratio of a measured variance to the true one has a chi-squared distribution, whose cube root is nearly normal
    (Wilson and Hilferty, "The Distribution of Chi-Square", PNAS 1931). `expected` need only be right up to a factor.
    The variance of `rounding` is added to both, so that without noise, one step does not count as a deviation.
    """
    tiny = np.finfo(np.float32).tiny
    root = np.cbrt((variance + np.float32(rounding)) / np.maximum(expected + np.float32(rounding), tiny))
    middle = np.float32(np.median(root))
    # Rounding may make most variances equal, so the spread is at least the distribution's.
    least = float(middle) * np.sqrt(2 / (9 * degrees))
    return (root - middle) / np.float32(_spread(root, max(least, tiny)))


def classified(dark: Map, flat: Map, noise: Map, threshold: float) -> Defects:
    """Finds the sites whose dark mean, light response or noise deviates by more than the threshold.

    They are "flickering" if their noise deviates, else "hot" if they are too bright, else "dead".
    """
    is_flickering, is_hot, is_low = noise > threshold, dark > threshold, dark < -threshold
    by_dark = is_hot | is_low
    is_bad = is_flickering | by_dark | (abs(flat) > threshold)
    figures = np.where(is_flickering, noise, np.where(by_dark, dark, flat))[is_bad].astype(float)
    kinds = np.where(is_flickering[is_bad], "flickering", np.where(figures > 0, "hot", "dead")).tolist()
    sites = np.argwhere(is_bad)
    return Defects(sites, kinds, figures)


def mask(defects: Defects, shape: tuple[int, ...]) -> Mask:
    """Makes a map that is true at the defects."""
    is_bad = np.zeros(shape, bool)
    is_bad[tuple(defects.sites.T)] = True
    return is_bad


def smooth_surface(values: Map, good: Mask) -> Map:
    """Fits a polynomial of the fourth degree in rows and columns to the good sites of a map (least squares)."""
    rows, cols = (
        np.vander(np.linspace(-1, 1, size) if size > 1 else np.zeros(1), 2 * _DEGREE + 1, increasing=True)
        for size in values.shape
    )
    i, j = np.array([(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]).T
    # All sums of the normal equations are sums over the rows, for each column, of products of powers.
    sums = rows.T @ good @ cols
    of_values = rows.T @ np.where(good, values, 0) @ cols
    normal = sums[i[:, None] + i, j[:, None] + j]
    coefficients = np.zeros((_DEGREE + 1, _DEGREE + 1))
    coefficients[i, j] = np.linalg.lstsq(normal, of_values[i, j], rcond=None)[0]
    rows, cols = rows[:, : _DEGREE + 1], cols[:, : _DEGREE + 1]
    return (rows @ coefficients @ cols.T).astype(np.float32)


def _surface(values: Map) -> Map:
    """Fits a smooth surface to all sites, and then again to the sites that are close to the first fit."""
    rest = values - smooth_surface(values, np.ones(values.shape, bool))
    rest = abs(rest - np.median(rest))
    return smooth_surface(values, rest <= _GOOD * np.median(rest) / _MAD)


def _local_median(values: Map) -> Map:
    """Computes the median of each site's neighborhood; at the border, of the nearest whole neighborhood."""
    # In small planes, neighborhoods consist of adjacent sites.
    steps = [_STEP if size > _STEP * (_SIDE - 1) else 1 for size in values.shape]
    reaches = [min(step * (_SIDE // 2), (size - 1) // 2) for step, size in zip(steps, values.shape, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(values, [2 * reach + 1 for reach in reaches])
    windows = windows[..., :: steps[0], :: steps[1]]
    medians = np.empty(windows.shape[:2], values.dtype)
    rows = max(1, _AT_ONCE // windows.shape[1])
    for start in range(0, len(windows), rows):
        part = windows[start : start + rows].reshape(-1, windows.shape[2] * windows.shape[3])
        middle = part.shape[1] // 2
        medians[start : start + rows] = np.partition(part, middle, 1)[:, middle].reshape(-1, windows.shape[1])
    beyond = [
        (reach, size - reach - whole) for reach, size, whole in zip(reaches, values.shape, medians.shape, strict=True)
    ]
    return np.pad(medians, beyond, "edge")


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    edges = [np.linspace(0, size, max(1, size // _BLOCK) + 1).astype(int) for size in shape]
    rows, cols = ([slice(*pair) for pair in itertools.pairwise(edge)] for edge in edges)
    return [(row, col) for row in rows for col in cols]


def _spread(values: Num[np.ndarray, "..."], least: float) -> float:
    """Estimates the standard deviation of the good values from the median of absolute deviations."""
    # With rounded values, the median of absolute deviations alone would be coarse.
    deviation = values - np.median(values)
    spread = max(float(np.median(abs(deviation))) / _MAD, least)
    return max(float(deviation[abs(deviation) < _GOOD * spread].std()), least)
