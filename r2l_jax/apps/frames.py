"""Masks of frames of any size: large ones in overlapping tiles, without seams."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

import isp

# The side of a tile, and the margin at each border that is not kept: neighbors beyond this distance have little weight
# in a network's output for a site.
SIDE, MARGIN = 1024, 128

Mosaic = Float32[np.ndarray, "rows cols"]


class Span(NamedTuple):
    """A part of an axis.

    Attributes:
        start: where its tile begins.
        stop: where its tile ends.
        first: the first site that is kept.
        last: the end of the sites that are kept.
    """

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, side: int, margin: int) -> list[Span]:
    """Divides an axis into overlapping tiles, of which the middles cover each site once.

    Args:
        length: sites.
        side: of a tile, more than twice the margin.
        margin: sites at both ends of a tile that are not kept, except at the ends of the axis.
    """
    if length <= side:
        return [Span(0, length, 0, length)]
    step = side - 2 * margin
    starts = [*range(0, length - side, step), length - side]
    ends = [*(start + side - margin for start in starts[:-1]), length]
    return [Span(start, start + side, *kept) for start, *kept in zip(starts, [0, *ends[:-1]], ends, strict=True)]


def predict_frame(
    predict: Callable[[Mosaic], Mosaic],
    raw: Mosaic,
    pattern: str,
    multiple: int,
    side: int = SIDE,
    margin: int = MARGIN,
) -> Mosaic:
    """Computes the mask of a frame, tile by tile if it is larger than a tile.

    Tiles begin at whole tiles of the color filter array and at multiples of `multiple`, so that a site has the same
    probability as in the whole frame, except for the influence of sites beyond the margin. A frame whose side is not
    such a multiple is filled up with its last rows or columns, and the mask is cut again.

    Args:
        predict: computes the mask of a tile.
        raw: the frame.
        pattern: its color filter array.
        multiple: the network takes tiles whose sides are multiples of this.
        side: of a tile.
        margin: sites at each border of a tile that are not kept.

    Returns:
        The mask, of the frame's size.
    """
    periods = isp.cfa.tile(pattern).shape
    grid = int(np.lcm.reduce([multiple, *periods]))
    filled = raw
    for axis, period in enumerate(periods):
        filled = filled.take(_filled(raw.shape[axis], grid, period), axis)
    # Rounded up to the grid; a margin is the least distance.
    margin = -(-margin // grid) * grid
    side = max(-(-side // grid) * grid, 2 * margin + grid)
    mask = np.empty(filled.shape, np.float32)
    for rows in spans(filled.shape[0], side, margin):
        for columns in spans(filled.shape[1], side, margin):
            found = predict(filled[rows.start : rows.stop, columns.start : columns.stop])
            mask[rows.first : rows.last, columns.first : columns.last] = found[
                rows.first - rows.start : rows.last - rows.start,
                columns.first - columns.start : columns.last - columns.start,
            ]
    return mask[: raw.shape[0], : raw.shape[1]]


def _filled(length: int, grid: int, period: int) -> np.ndarray:
    """Returns the indices along an axis, filled up to the grid by the last period that is whole."""
    indices = np.arange(-(-length // grid) * grid)
    beyond = np.maximum(indices - length, -1) // period + 1
    return indices - beyond * period
