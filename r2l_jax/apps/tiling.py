"""Computes a large frame tile by tile."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32

import isp
from isp.metering import Part

# The side of a tile, and the margin at each border that is not kept: neighbors beyond this distance have little weight
# in a network's output for a site.
SIDE, MARGIN = 1024, 128

Mosaic = Float32[np.ndarray, "rows cols"]


def spans(length: int, side: int, margin: int) -> list[tuple[slice, slice]]:
    """Divides an axis into overlapping tiles, and returns the sites of each tile with those that are kept of it.

    Each site of the axis is kept once. Tiles have `side` sites, more than twice the margin; the `margin` sites at both
    ends of a tile are not kept, except at the ends of the axis.
    """
    if length <= side:
        return [(slice(0, length), slice(0, length))]
    starts = [*range(0, length - side, side - 2 * margin), length - side]
    ends = [*(start + side - margin for start in starts[:-1]), length]
    middles = map(slice, [0, *ends[:-1]], ends)
    return [(slice(start, start + side), middle) for start, middle in zip(starts, middles, strict=True)]


def predict_frame(
    predict: Callable[[Any], np.ndarray],
    raw: Mosaic,
    pattern: str,
    multiple: int,
    side: int = SIDE,
    margin: int = MARGIN,
    frame: np.ndarray | None = None,
) -> np.ndarray:
    """Computes the mask `(H, W)` or image `(H, W, 3)` of a frame, tile by tile if it is large (see `spans`).

    Tiles begin at whole periods of the color filter array and at multiples of `multiple`, as the network takes them,
    so that a site has the same probability as in the whole frame, except for the influence of sites beyond the margin.
    A frame whose side is not such a multiple is padded with its last rows or columns, and the mask is cropped back.
    Each tile is an `isp.metering.Part` with a `frame` to meter, if it is given.
    """
    periods = isp.cfa.tile(pattern).shape
    grid = int(np.lcm.reduce([multiple, *periods]))
    filled = raw
    for axis, period in enumerate(periods):
        filled = filled.take(_filled(raw.shape[axis], grid, period), axis)
    # Rounded up to the grid; a margin is the least distance.
    margin = -(-margin // grid) * grid
    side = max(-(-side // grid) * grid, 2 * margin + grid)
    mask = np.empty(0)
    for rows, kept_rows in spans(filled.shape[0], side, margin):
        for columns, kept_columns in spans(filled.shape[1], side, margin):
            tile = filled[rows, columns]
            found = predict(tile if frame is None else Part(tile, frame))
            if not mask.size:
                mask = np.empty((*filled.shape, *found.shape[2:]), found.dtype)
            mask[kept_rows, kept_columns] = found[_within(kept_rows, rows), _within(kept_columns, columns)]
    return mask[: raw.shape[0], : raw.shape[1]]


def _within(sites: slice, tile: slice) -> slice:
    return slice(sites.start - tile.start, sites.stop - tile.start)


def _filled(length: int, grid: int, period: int) -> np.ndarray:
    """Returns the indices along an axis, filled up to the grid by repeating the last whole period."""
    indices = np.arange(-(-length // grid) * grid)
    beyond = np.maximum(indices - length, -1) // period + 1
    return indices - beyond * period
