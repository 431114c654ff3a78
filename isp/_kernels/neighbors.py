"""Statistics of the nearest sites of the same color, for any periodic color filter array."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from isp._kernels import padding, stencil, xla
from isp._kernels.median import sort_arrays
from isp._kernels.xla import is_plain, with_gradient

# Offsets of a site's neighbors from the site, in rows and columns.
Offsets = tuple[tuple[int, int], ...]

# The tile as nested tuples, which can be hashed.
Tile = tuple[tuple[int, ...], ...]


class Statistic(NamedTuple):
    """Defines a statistic of a site's value and two of its neighbors' values, chosen by rank."""

    fewest: int  # The smallest number of neighbors, see `neighborhoods`.
    ranks: Callable[[int], tuple[int, int]]
    combine: Callable[[Array, Array, Array], Array]


def median(raw: Array, tile: np.ndarray) -> Array:
    """Computes the median of each site's 4 nearest neighbors of its color; those that tie share its gradient."""
    return _statistic(_as_tuples(tile), _MEDIAN, raw)


def with_finite(raw: Array, tile: np.ndarray) -> Array:
    """Replaces NaN and infinite sites by the `median` of their finite neighbors; by 0 if most are not finite."""
    return _with_finite(_as_tuples(tile), raw)


def _unless_finite(tile: Tile, raw: Array) -> Array:
    return _filled(tile, raw) if is_plain() else jax.lax.cond(_is_finite(raw), lambda: raw, lambda: _filled(tile, raw))


def _backward_unless_finite(tile: Tile, residuals: tuple[Array], gradient: Array) -> tuple[Array]:
    """Computes the gradient by branching again; JAX would keep the intermediate results of both sides."""
    (raw,) = residuals

    def of_filled() -> Array:
        return jax.vjp(functools.partial(_filled, tile), raw)[1](gradient)[0]

    return (jax.lax.cond(_is_finite(raw), lambda: gradient, of_filled),)


_with_finite = with_gradient(_unless_finite, _backward_unless_finite, static_argnums=(0,))


def _filled(tile: Tile, raw: Array) -> Array:
    # With the other sites set to the greatest number, `_LOWER` finds the lower middle value of the finite ones; with
    # the least number, `_UPPER` finds the upper one.
    is_finite, most = jnp.isfinite(raw), jnp.finfo(raw.dtype).max
    low = _statistic(tile, _LOWER, jnp.where(is_finite, raw, most))
    high = _statistic(tile, _UPPER, jnp.where(is_finite, raw, -most))
    return jnp.where(is_finite, raw, jnp.where(low < most, (low + high) / 2, 0))


@jax.custom_batching.custom_vmap
def _is_finite(raw: Array) -> Array:
    """Returns whether all values are finite, under `vmap` in the whole batch, so that a branch stays a branch."""
    return jnp.isfinite(raw).all()


@_is_finite.def_vmap
def _(_size: int, _batched: list[bool], raw: Array) -> tuple[Array, bool]:
    return _is_finite(raw), False


def excess(raw: Array, tile: np.ndarray) -> Array:
    """Computes how far each site lies beyond the range of its 8 nearest neighbors of its color; negative inside it."""
    return _statistic(_as_tuples(tile), _EXCESS, raw)


# With more neighbors, a line one site wide would look like a row of defects; with fewer, two adjacent defects would
# hide each other.
_MEDIAN = Statistic(4, lambda count: ((count - 1) // 2, count // 2), lambda low, high, _: (low + high) / 2)

_LOWER = _MEDIAN._replace(combine=lambda low, high, _: low)
_UPPER = _MEDIAN._replace(combine=lambda low, high, _: high)

# In a Bayer mosaic, the 4 nearest green sites of a green site are all diagonal to it.
_EXCESS = Statistic(
    8, lambda count: (0, count - 1), lambda least, greatest, own: jnp.maximum(own - greatest, least - own)
)


def reach(tile: np.ndarray) -> int:
    """Returns the largest distance, in rows or columns, between a site and a neighbor of its neighbors."""
    return 2 * max(_reach(_as_tuples(tile), statistic.fewest) for statistic in (_MEDIAN, _EXCESS))


def _as_tuples(tile: np.ndarray) -> Tile:
    return tuple(map(tuple, tile.tolist()))


@functools.cache
def neighborhoods(tile: Tile, fewest: int) -> dict[Offsets, np.ndarray]:
    """Lists the distinct sets of neighbors, each with a mask of the sites of the tile that have it.

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


def _compute(tile: Tile, statistic: Statistic, raw: Array) -> Array:
    def compute(padded: Array, planes: Array) -> Array:
        first, second = _sorted(tile, statistic, padded)
        return statistic.combine(first, second, planes)

    planes = raw.reshape(-1, *raw.shape[-2:])
    return xla.unfused(compute)(_padded(tile, statistic.fewest, planes), planes).reshape(raw.shape)


def _backward(tile: Tile, statistic: Statistic, residuals: tuple[Array], gradient: Array) -> tuple[Array]:
    """Computes the gradient by comparing with the two values again; JAX would keep each comparison."""
    (raw,) = residuals
    fewest, reach = statistic.fewest, _reach(tile, statistic.fewest)
    planes = raw.reshape(-1, *raw.shape[-2:])

    def divide(padded: Array, values: tuple[Array, ...], planes: Array, gradient: Array) -> tuple[Array, ...]:
        *gradients, own = jax.vjp(statistic.combine, *values, planes)[1](gradient)
        counts = [jnp.ones_like(gradient) for gradient in gradients]
        for offsets, mask in _masks(tile, fewest, planes.shape[-1]).items():
            around = _shifted(padded, offsets, reach)
            for i, value in enumerate(values):
                ties = stencil.total((neighbor == value).astype(value.dtype) for neighbor in around)
                counts[i] = _select(mask, ties, counts[i])
        return (own, *(gradient / count for gradient, count in zip(gradients, counts, strict=True)))

    def collect(padded: Array, values: tuple[padding.Padded, ...], shares: tuple[padding.Padded, ...]) -> Array:
        """Gathers the shares that each padded site gets from the sites that it is a neighbor of."""
        height, width = padded.shape[-2:]
        collected = jnp.zeros_like(padded)
        for offsets, mask in _masks_beyond(tile, fewest, height, width).items():
            for y, x in offsets:
                seen_by = (..., slice(reach - y, reach - y + height), slice(reach - x, reach - x + width))
                shared = (
                    jnp.where(padded == value.plane[seen_by], share.plane[seen_by], 0)
                    for value, share in zip(values, shares, strict=True)
                )
                collected += jnp.where(mask[seen_by], stencil.total(shared), 0)
        return collected

    padded = _padded(tile, fewest, planes)
    values = xla.unfused_with(_sorted, tile, statistic)(padded)
    own, *shares = xla.unfused(divide)(padded, values, planes, gradient.reshape(planes.shape))
    # The sites that see a padded site lie up to `reach` away, and the padding already reaches that far.
    around = functools.partial(padding.pad, rows=2 * reach, cols=2 * reach, border="zero")
    collected = xla.unfused(collect)(padded, tuple(map(around, values)), tuple(map(around, shares)))
    return ((own + _unpadded(tile, fewest, collected, planes)).reshape(raw.shape),)


_statistic = with_gradient(_compute, _backward, static_argnums=(0, 1))


def _sorted(tile: Tile, statistic: Statistic, padded: Array) -> tuple[Array, ...]:
    """Computes the two values of each site's neighbors with a network of comparisons."""
    reach = _reach(tile, statistic.fewest)
    chosen: tuple[Array, ...] = ()
    for offsets, mask in _masks(tile, statistic.fewest, padded.shape[-1] - 2 * reach).items():
        ranked = sort_arrays(_shifted(padded, offsets, reach))
        values = tuple(ranked[rank] for rank in statistic.ranks(len(ranked)))
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
    """Lays out the masks for a padded plane, padded by the same margin again; they are false beyond the mosaic."""
    reach = _reach(tile, fewest)
    inside = np.ix_(np.arange(height - 2 * reach) % len(tile), np.arange(width - 2 * reach) % len(tile[0]))
    return {offsets: np.pad(mask[inside], 2 * reach) for offsets, mask in neighborhoods(tile, fewest).items()}


def _select(mask: np.ndarray, chosen: Array, other: Array) -> Array:
    """Selects `chosen` at the sites of a mask, which repeats from one tile of rows to the next."""
    rows, (batch, height, width) = len(mask), chosen.shape
    if height % rows:
        return jnp.where(np.tile(mask, (-(-height // rows), 1))[:height], chosen, other)
    by_tiles = (batch, height // rows, rows, width)
    return jnp.where(mask, chosen.reshape(by_tiles), other.reshape(by_tiles)).reshape(chosen.shape)


def _padded(tile: Tile, fewest: int, planes: Array) -> Array:
    return xla.unfused_with(_extended, tile, fewest)(planes)


def _unpadded(tile: Tile, fewest: int, padded: Array, planes: Array) -> Array:
    """Applies the transpose of `_padded`, which adds the values beyond the border to the sites that they repeat."""
    transpose = jax.linear_transpose(functools.partial(_extended, tile, fewest), planes)
    return xla.unfused(lambda padded: transpose(padded)[0])(padded)


def _extended(tile: Tile, fewest: int, planes: Array) -> Array:
    reach = _reach(tile, fewest)
    for axis, period in ((-2, len(tile)), (-1, len(tile[0]))):
        before, after = _beyond(planes.shape[axis], period, reach)
        planes = jnp.concatenate([_part(planes, before, axis), planes, _part(planes, after, axis)], axis)
    return planes


def _part(planes: Array, places: np.ndarray, axis: int) -> Array:
    """Takes rows or columns; as a slice if they are neighbors, since the gradient of other choices is slow."""
    if (np.diff(places) == 1).all():
        return jax.lax.slice_in_dim(planes, int(places[0]), int(places[-1]) + 1, axis=axis)
    return jnp.take(planes, places, axis, mode="clip")


def _beyond(side: int, period: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the rows, whole tiles farther inside, that stand in for the rows before and after a mosaic."""
    tiles = min(2 * reach // period + 1, (side - 1) // period)
    shift = tiles * period
    before = np.arange(-reach, 0) + shift
    before = np.where(before < 0, before % period, before)
    return before, (side - 1 - before)[::-1]
