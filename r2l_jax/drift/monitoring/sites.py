"""Defective sites, found without dark frames: their mean over many scenes differs from their neighbors'."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

import isp

# A site is defective beyond this many standard errors, if it also has lost half of its range.
_SIGNIFICANT = 8.0
_LOST = 0.5
# A site is hot, not part of a bright scene, if its neighbors are below white by at least this share of the range.
_BELOW = 0.1


class Defects(NamedTuple):
    """Holds maps of defective sites.

    Attributes:
        dead: sites that stay near the black level `(H, W)`.
        hot: sites that stay near the highest value `(H, W)`.
        deviation: the deviation of each site from its neighbors, in standard errors `(H, W)`.
    """

    dead: Bool[np.ndarray, "height width"]
    hot: Bool[np.ndarray, "height width"]
    deviation: Float[np.ndarray, "height width"]


def found(mosaics: Float[np.ndarray, "n height width"], camera: isp.Camera) -> Defects:
    """Finds the defective sites of a camera from raw images of different scenes."""
    mean = mosaics.mean(0, dtype=np.float64)
    tile, sides = isp.cfa.tile(camera.pattern).shape, mean.shape
    middle = np.median(_neighbors(mean, np.indices(sides).reshape(2, -1), tile), -1).reshape(sides)
    deviation = mean - middle
    # The deviation in each raw image from the mean of two neighbors, which is fast.
    left, right = (np.roll(mosaics, shift, 2) for shift in (tile[1], -tile[1]))
    error = (mosaics - (left + right) / 2).std(0) / np.sqrt(max(len(mosaics) - 1, 1))
    deviation = deviation / np.maximum(error, 1e-6)
    black = np.asarray(isp.cfa.black_levels(np.asarray(camera.black_level), camera.pattern, *sides))
    top = mosaics.max()
    dead = (deviation < -_SIGNIFICANT) & (mean - black < _LOST * (middle - black))
    hot = (deviation > _SIGNIFICANT) & (top - mean < _LOST * (top - middle)) & (top - middle > _BELOW * (top - black))
    return Defects(dead, hot, deviation)


def repaired(
    mosaics: Float[np.ndarray, "n height width"], defects: Defects, camera: isp.Camera
) -> Float[np.ndarray, "n height width"]:
    """Replaces defective sites with the median of the eight nearest sites at the same place of other tiles."""
    places = np.argwhere(defects.dead | defects.hot).T
    if not places.size:
        return mosaics
    result = mosaics.copy()
    tile = isp.cfa.tile(camera.pattern).shape
    result[:, places[0], places[1]] = np.median(_neighbors(mosaics, places, tile), -1)
    return result


def _neighbors(
    values: Float[np.ndarray, "*n height width"], places: Int[np.ndarray, "2 sites"], tile: tuple[int, int]
) -> Float[np.ndarray, "*n sites 8"]:
    """Reads the eight neighbors of sites one tile away; those beyond the border are read on the other side."""
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    planes = []
    for i, j in around:
        rows, columns = places[0] + i * tile[0], places[1] + j * tile[1]
        height, width = values.shape[-2:]
        rows = np.where((rows < 0) | (rows >= height), places[0] - i * tile[0], rows)
        columns = np.where((columns < 0) | (columns >= width), places[1] - j * tile[1], columns)
        planes.append(values[..., rows, columns])
    return np.stack(planes, -1)
