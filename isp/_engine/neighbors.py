"""Medians and extremes of the nearest sites of the same color, for any periodic color filter array."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from isp._engine import stencil
from isp._engine.derivatives import with_gradient
from isp._engine.median import sort_arrays

# The middle is that of at least this many neighbors. With more, a line of one site's width would be taken for a row of
# defects; with fewer, two defects side by side would vouch for each other.
_FOR_MIDDLES = 4

# The extremes are those of at least this many neighbors: among the four nearest green sites of a Bayer mosaic, none is
# in the row or the column of the site in their middle.
_FOR_EXTREMES = 8

# Places of a site's neighbors relative to the site, in rows and columns.
Offsets = tuple[tuple[int, int], ...]

# The tile as nested tuples, which can be hashed.
Tile = tuple[tuple[int, ...], ...]

# Returns the places of the two wanted values among a number of values in ascending order.
Ranks = Callable[[int], tuple[int, int]]


def middles(raw: Array, tile: np.ndarray) -> tuple[Array, Array]:
    """Computes, for each site of mosaics `(..., H, W)`, the two values in the middle of its neighbors' values.

    The neighbors are the 4 nearest sites of the same color and all others that are as near as the farthest of them.
    Half the sum of the two values is their median; the two are the same for an odd number of neighbors. The neighbors
    beyond the border are sites of the same color farther inside.

    Neighbors that tie for a value share its gradient evenly. Forward mode does not work.
    """
    low, high = _pairs(_as_tuples(tile), _FOR_MIDDLES, _in_the_middle, raw)
    return low, high


def extremes(raw: Array, tile: np.ndarray) -> tuple[Array, Array]:
    """Computes, as `middles` does, the least and the greatest value of the 8 or more nearest neighbors."""
    least, greatest = _pairs(_as_tuples(tile), _FOR_EXTREMES, _at_the_ends, raw)
    return least, greatest


def _in_the_middle(count: int) -> tuple[int, int]:
    return (count - 1) // 2, count // 2


def _at_the_ends(count: int) -> tuple[int, int]:
    return 0, count - 1


def _as_tuples(tile: np.ndarray) -> Tile:
    return tuple(map(tuple, tile.tolist()))


@functools.cache
def neighborhoods(tile: Tile, fewest: int) -> dict[Offsets, np.ndarray]:
    """Lists the sets of neighbors that occur, and for each the sites of the tile that have it, as a mask.

    A site's neighbors are the `fewest` nearest sites of its color, and all others as near as the farthest of them.
    """
    colors = np.array(tile)
    rows, cols = colors.shape
    reach = 2 * max(rows, cols)
    places = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    squared = (places**2).sum(1)
    found: dict[Offsets, np.ndarray] = {}
    for y, x in np.ndindex(rows, cols):
        same = (colors[(y + places[:, 0]) % rows, (x + places[:, 1]) % cols] == colors[y, x]) & (squared > 0)
        farthest = np.sort(squared[same])[fewest - 1]
        offsets = tuple((int(row), int(col)) for row, col in places[same & (squared <= farthest)])
        found.setdefault(offsets, np.zeros((rows, cols), bool))[y, x] = True
    return found


def _reach(tile: Tile, fewest: int) -> int:
    return max(abs(step) for offsets in neighborhoods(tile, fewest) for place in offsets for step in place)


def _ranked(tile: Tile, fewest: int, ranks: Ranks, raw: Array) -> tuple[Array, Array]:
    planes = raw.reshape(-1, *raw.shape[-2:])
    values = stencil.apart(functools.partial(_sorted, tile, fewest, ranks))(_padded(tile, fewest, planes))
    low, high = (plane.reshape(raw.shape) for plane in values)
    return low, high


def _forward(
    tile: Tile, fewest: int, ranks: Ranks, raw: Array
) -> tuple[tuple[Array, Array], tuple[Array, tuple[Array, Array]]]:
    values = _pairs(tile, fewest, ranks, raw)
    return values, (raw, values)


def _backward(
    tile: Tile,
    fewest: int,
    ranks: Ranks,
    residuals: tuple[Array, tuple[Array, Array]],
    gradients: tuple[Array, Array],
) -> tuple[Array]:
    """Compares with the values again; the derivatives of the sorting network would keep each comparison."""
    shape, reach = residuals[0].shape, _reach(tile, fewest)
    planes, values, gradients = jax.tree.map(lambda plane: plane.reshape(-1, *shape[-2:]), (*residuals, gradients))

    def divide(padded: Array, values: tuple[Array, ...], gradients: tuple[Array, ...]) -> tuple[Array, ...]:
        """Divides a site's gradients by the numbers of neighbors that equal its values."""
        counts = [jnp.ones_like(gradient) for gradient in gradients]
        for offsets, mask in _masks(tile, fewest, padded.shape[-1] - 2 * reach).items():
            around = _shifted(padded, offsets, reach)
            for i, value in enumerate(values):
                ties = stencil.total((neighbor == value).astype(value.dtype) for neighbor in around)
                counts[i] = _select(mask, ties, counts[i])
        return tuple(gradient / count for gradient, count in zip(gradients, counts, strict=True))

    def collect(padded: Array, values: tuple[Array, ...], shares: tuple[Array, ...]) -> Array:
        """Gathers, for each padded site, the shares of the sites that it is a neighbor of."""
        height, width = padded.shape[-2:]
        collected = jnp.zeros_like(padded)
        for offsets, mask in _masks_beyond(tile, fewest, height, width).items():
            for y, x in offsets:
                seen_by = (..., slice(reach - y, reach - y + height), slice(reach - x, reach - x + width))
                shared = (
                    jnp.where(padded == value[seen_by], share[seen_by], 0)
                    for value, share in zip(values, shares, strict=True)
                )
                collected += jnp.where(mask[seen_by], stencil.total(shared), 0)
        return collected

    padded = _padded(tile, fewest, planes)
    shares = stencil.apart(divide)(padded, values, gradients)
    # The sites that see a padded site lie up to `reach` away, and the padding already reaches that far.
    around = functools.partial(stencil.pad, rows=2 * reach, cols=2 * reach, border="zero")
    collected = stencil.apart(collect)(padded, tuple(map(around, values)), tuple(map(around, shares)))
    return (_unpadded(tile, fewest, collected, planes).reshape(shape),)


_pairs = with_gradient(_ranked, _forward, _backward, static_argnums=(0, 1, 2))


def _sorted(tile: Tile, fewest: int, ranks: Ranks, padded: Array) -> tuple[Array, ...]:
    """Computes the wanted values of each site's neighbors, by a network of comparisons."""
    reach = _reach(tile, fewest)
    chosen: tuple[Array, ...] = ()
    for offsets, mask in _masks(tile, fewest, padded.shape[-1] - 2 * reach).items():
        ranked = sort_arrays(_shifted(padded, offsets, reach))
        values = tuple(ranked[rank] for rank in ranks(len(ranked)))
        chosen = tuple(_select(mask, value, other) for value, other in zip(values, chosen or values, strict=True))
    return chosen


def _shifted(padded: Array, offsets: Offsets, reach: int) -> list[Array]:
    height, width = (side - 2 * reach for side in padded.shape[-2:])
    return [padded[..., reach + y : reach + y + height, reach + x : reach + x + width] for y, x in offsets]


def _masks(tile: Tile, fewest: int, width: int) -> dict[Offsets, Bool[np.ndarray, "rows width"]]:
    """Lays out the masks of the neighborhoods along whole rows."""
    found = neighborhoods(tile, fewest)
    return {offsets: mask[:, np.arange(width) % mask.shape[1]] for offsets, mask in found.items()}


def _masks_beyond(tile: Tile, fewest: int, height: int, width: int) -> dict[Offsets, Bool[np.ndarray, "rows cols"]]:
    """Lays out the masks for a padded plane and as much padding around it again; beyond the mosaic they are false."""
    reach = _reach(tile, fewest)
    inside = np.ix_(np.arange(height - 2 * reach) % len(tile), np.arange(width - 2 * reach) % len(tile[0]))
    return {offsets: np.pad(mask[inside], 2 * reach) for offsets, mask in neighborhoods(tile, fewest).items()}


def _select(mask: np.ndarray, chosen: Array, other: Array) -> Array:
    """Takes `chosen` at the sites of a mask, which repeats from one tile of rows to the next."""
    rows, (batch, height, width) = len(mask), chosen.shape
    by_tiles = (batch, height // rows, rows, width)
    return jnp.where(mask, chosen.reshape(by_tiles), other.reshape(by_tiles)).reshape(chosen.shape)


def _padded(tile: Tile, fewest: int, planes: Array) -> Array:
    return stencil.apart(functools.partial(_extended, tile, fewest))(planes)


def _unpadded(tile: Tile, fewest: int, padded: Array, planes: Array) -> Array:
    """Applies the transpose of `_padded`, which adds the values beyond the border to the sites that they repeat."""
    transpose = jax.linear_transpose(functools.partial(_extended, tile, fewest), planes)
    return stencil.apart(lambda padded: transpose(padded)[0])(padded)


def _extended(tile: Tile, fewest: int, planes: Array) -> Array:
    reach = _reach(tile, fewest)
    for axis, period in ((-2, len(tile)), (-1, len(tile[0]))):
        before, after = _beyond(planes.shape[axis], period, reach)
        parts = [jnp.take(planes, before, axis, mode="clip"), planes, jnp.take(planes, after, axis, mode="clip")]
        planes = jnp.concatenate(parts, axis)
    return planes


def _beyond(side: int, period: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the rows that stand for those before and after a mosaic, a whole number of tiles farther inside.

    If the mosaic is large enough, they are so far inside that no site is twice a neighbor of another, as in a mirrored
    mosaic. Otherwise one defect could outvote the other neighbors of a site at the border.
    """
    tiles = min(2 * reach // period + 1, (side - 1) // period)
    shift = tiles * period
    before = np.arange(-reach, 0) + shift
    before = np.where(before < 0, before % period, before)
    return before, (side - 1 - before)[::-1]
