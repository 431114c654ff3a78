"""Menon, Andriani & Calvagno (2007) for `isp.demosaic.menon2007`, multiplied out to a few filters.

All filters read one plane D: color minus green at red and blue sites, zero at green ones. A filter of D that reads
neighbors in one row or column fills the green sites and leaves zeros at the others; one that reads every second site
does the opposite. So no step needs to know which site it is at, and red and blue are not told apart until the end.

With h(D) the mean of the two neighbors in the row, and v(D) the mean of the two in the column, the interpolations are

    at green sites: color of the row = raw + h(D), color of the column = raw + v(D);
    at red and blue sites: green = raw - D, third color = raw + o(D).

o(D) = h(v(D) - h(D)) at sites decided along the row, and -v(v(D) - h(D)) at the others. Multiplied out, it is the mean
of the four diagonal neighbors minus the mean of D over every second site along the decided direction, weighted by
[1 2 1] / 4.

Refinement averages D with its means along the decided direction, which gives [1 4 1] / 6 over every second site. It
does the same to o(D), which gives (o(D) + 2 o(refined D)) / 3.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from isp import cfa
from isp._engine import stencil
from isp._engine.derivatives import with_gradient

# A plane as a function of the offset (rows down, columns right) at which it is read.
Shifts = Callable[[int, int], Array]


def demosaic(
    raw: Float[Array, "*batch height width"], pattern: str, refine: bool
) -> Float[Array, "*batch height width 3"]:
    """Demosaics a mosaic; see `isp.demosaic.menon2007`."""
    return _demosaic(raw, pattern, refine)


def _interpolate(raw: Array, pattern: str, refine: bool) -> Array:
    return _forward(raw, pattern, refine)[0]


def _forward(raw: Array, pattern: str, refine: bool) -> tuple[Array, Array]:
    """Returns the image, and whether each site was decided along its row."""
    height, width = raw.shape[-2:]
    colored, red_rows = _tile(pattern)

    def changes(padded: Array) -> tuple[Array, Array]:
        return _changes(padded, 0, 1), _changes(padded, 1, 0)

    def decide(padded: Array, horizontal_changes: Array, vertical_changes: Array) -> tuple[Array, Array]:
        across_rows = _shifts(horizontal_changes, 2, height, width)
        across_cols = _shifts(vertical_changes, 2, height, width)
        horizontal = _total(lambda i, j: across_cols(j, i)) >= _total(across_rows)
        sites = _shifts(padded, 4, height, width)
        difference = _difference(sites(0, 0), _along(sites, 1, horizontal), _along(sites, 2, horizontal))
        return horizontal, _by_site(colored, difference, 0)

    def smooth(padded: Array, horizontal: Array) -> tuple[Array, Array]:
        sites = _shifts(padded, 2, height, width)
        along = _along(sites, 2, horizontal)
        return (4 * sites(0, 0) + along) / 6, _opposite(sites, along)

    def combine(raw: Array, padded: Array, horizontal: Array, unrefined: Array | None = None) -> Array:
        sites = _shifts(padded, 2, height, width)
        opposite = _opposite(sites, _along(sites, 2, horizontal))
        if unrefined is not None:
            opposite = (unrefined + 2 * opposite) / 3
        of_row = raw + (sites(0, -1) + sites(0, 1)) / 2
        of_col = raw + (sites(-1, 0) + sites(1, 0)) / 2 + opposite
        red, blue = _by_site(red_rows, of_row, of_col), _by_site(red_rows, of_col, of_row)
        return jnp.stack([red, raw - sites(0, 0), blue], -1)

    padded = _mirror(raw, 4)
    horizontal, difference = stencil.apart(decide)(padded, *stencil.apart(changes)(padded))
    unrefined = ()
    if refine:
        difference, *unrefined = stencil.apart(smooth)(_mirror(difference, 2), horizontal)
    return stencil.apart(combine)(raw, _mirror(difference, 2), horizontal, *unrefined), horizontal


def _backward(pattern: str, refine: bool, horizontal: Array, gradient: Array) -> tuple[Array]:
    """Applies the transposed filters in reverse order.

    A symmetric filter over mirrored borders is its own transpose if the outermost rows and columns count half, because
    the mirror shows all others twice. So the gradient is divided by these weights, filtered, and multiplied by them. A
    filter along decided directions is not symmetric: `_along_transposed` sends each value back to the sites that it
    came from.
    """
    height, width = horizontal.shape[-2:]
    colored, red_rows = _tile(pattern)
    row_weights, col_weights = (np.ones(size, gradient.dtype) for size in (height, width))
    row_weights[[0, -1]] = col_weights[[0, -1]] = 0.5
    row_weights = row_weights[:, None]

    def split(gradient: Array) -> tuple[Array, Array, Array]:
        red, green, blue = (gradient[..., color] / row_weights / col_weights for color in range(3))
        return _by_site(red_rows, red, blue), green, _by_site(red_rows, blue, red)

    def combine(of_row: Array, green: Array, of_col: Array, directions: Array) -> tuple[Array, Array, Array]:
        row, col = _shifts(of_row, 2, height, width), _shifts(of_col, 2, height, width)
        direction = _shifts(directions, 2, height, width)
        opposite = _opposite(col, _along_transposed(col, 2, direction))
        difference = (row(0, -1) + row(0, 1) + col(-1, 0) + col(1, 0)) / 2 - green
        return row(0, 0) + green + col(0, 0), difference + (2 * opposite / 3 if refine else opposite), opposite

    def smooth(padded: Array, directions: Array, unrefined: Array) -> Array:
        sites, direction = _shifts(padded, 2, height, width), _shifts(directions, 2, height, width)
        return (4 * sites(0, 0) + _along_transposed(sites, 2, direction)) / 6 + unrefined / 3

    def differentiate(raw: Array, padded: Array, directions: Array) -> Array:
        sites, direction = _shifts(padded, 2, height, width), _shifts(directions, 2, height, width)
        near, far = (_along_transposed(sites, reach, direction) for reach in (1, 2))
        return (raw + _difference(sites(0, 0), near, far)) * row_weights * col_weights

    directions = _mirror(horizontal, 2)
    of_row, green, of_col = stencil.apart(split)(gradient)
    raw, difference, opposite = stencil.apart(combine)(_mirror(of_row, 2), green, _mirror(of_col, 2), directions)
    if refine:
        difference = stencil.apart(smooth)(_mirror(difference, 2), directions, opposite)
    difference = _by_site(colored, difference, 0)
    return (stencil.apart(differentiate)(raw, _mirror(difference, 2), directions),)


_demosaic = with_gradient(_interpolate, _forward, _backward, static_argnums=(1, 2))


def _tile(pattern: str) -> tuple[Bool[np.ndarray, "2 2"], Bool[np.ndarray, "2 1"]]:
    """Tells which sites of the tile are red or blue, and which of its rows have red."""
    colors = cfa.tile(pattern)
    return colors != 1, (colors == 0).any(1, keepdims=True)


def _by_site(tile: Bool[np.ndarray, "2 _"], x: Array, y: ArrayLike) -> Array:
    """Takes x at the sites where the tile is true, and y elsewhere.

    Rows are taken in pairs, so that one mask of two rows serves the whole plane.
    """
    rows, cols = x.shape[-2:]
    mask = np.tile(tile, cols // tile.shape[1])
    x_pairs, y_pairs = (jnp.broadcast_to(z, x.shape).reshape(*x.shape[:-2], rows // 2, 2, cols) for z in (x, y))
    return jnp.where(mask, x_pairs, y_pairs).reshape(x.shape)


def _mirror(plane: Array, margin: int) -> Array:
    return stencil.pad(plane, margin, margin, "mirror")


def _shifts(padded: Array, margin: int, height: int, width: int) -> Shifts:
    """Returns the plane inside the margin as a function of the offset at which it is read."""
    return lambda y, x: padded[..., margin + y : margin + y + height, margin + x : margin + x + width]


def _along(sites: Shifts, reach: int, horizontal: Array) -> Array:
    """Sums the two sites at a distance `reach` from each site, along the direction of that site."""
    return jnp.where(horizontal, sites(0, -reach) + sites(0, reach), sites(-reach, 0) + sites(reach, 0))


def _along_transposed(sites: Shifts, reach: int, horizontal: Shifts) -> Array:
    """Applies the transpose of `_along`: sums the sites at a distance `reach` whose own direction leads here."""
    in_row = (jnp.where(horizontal(0, x), sites(0, x), 0) for x in (-reach, reach))
    in_col = (jnp.where(horizontal(y, 0), 0, sites(y, 0)) for y in (-reach, reach))
    return stencil.total(in_row) + stencil.total(in_col)


def _difference(raw: Array, near: Array, far: Array) -> Array:
    """Computes color minus green.

    Green is interpolated from `near` and `far`, the sums of the two sites at distances 1 and 2 along a direction.
    """
    return raw - (near / 2 + (raw / 2 - far / 4))


def _opposite(sites: Shifts, along: Array) -> Array:
    """Computes o(D) from D and `along`, its sums of the two sites at distance 2 along the decided directions."""
    diagonal = sites(-1, -1) + sites(-1, 1) + sites(1, -1) + sites(1, 1)
    return (diagonal - along) / 4 - sites(0, 0) / 2


def _changes(padded: Array, down: int, right: int) -> Array:
    """Computes the change of D from each site to the second next, |D(site) - D(second next)|; zero beyond the image.

    Args:
        padded: The mosaic, with a margin of 4.
        down: 1 if the next site is the one below, else 0.
        right: 1 if the next site is the one to the right, else 0.

    Returns:
        The changes. Along the direction they have a margin of 2 before the image, and across it of 2 on both sides.
    """
    height, width = padded.shape[-2] - 8, padded.shape[-1] - 8
    row_margins, col_margins = (2, 2 * right), (2, 2 * down)
    read = _shifts(padded, 2, height + sum(row_margins), width + sum(col_margins))
    sites = [read(k * down, k * right) for k in range(-2, 5)]
    first, second = (_difference(sites[k], sites[k - 1] + sites[k + 1], sites[k - 2] + sites[k + 2]) for k in (2, 4))
    inside = (
        np.pad(np.ones(height, padded.dtype), row_margins)[:, None],
        np.pad(np.ones(width, padded.dtype), col_margins),
    )
    return jnp.abs(first - second) * inside[0] * inside[1]


def _total(changes: Shifts) -> Array:
    """Computes the paper's weighted sum of the changes around each site; `changes` takes offsets across and along."""
    here = changes(0, -2) + changes(0, 0)
    beside = changes(-1, -1) + changes(1, -1)
    beyond = changes(-2, -2) + changes(-2, 0) + changes(2, -2) + changes(2, 0)
    return 3 * here + beside + beyond
