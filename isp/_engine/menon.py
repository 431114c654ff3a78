"""Menon, Andriani & Calvagno (2007) for `isp.demosaic.menon2007`, multiplied out to a few filters.

All filters read D: color minus green at red and blue sites, zero at green ones. A filter of D that reads neighbors in a
row or column is zero at red and blue sites; one that reads every second site is zero at green ones. So each site needs
only some of the formulas below, and they are computed on planes that hold one site of every tile. Red and blue are not
told apart until the end.

With h(D) the mean of the two neighbors in the row, and v(D) the mean of the two in the column, the interpolations are

    at green sites: color of the row = raw + h(D), color of the column = raw + v(D);
    at red and blue sites: green = raw - D, third color = raw + o(D).

o(D) = h(v(D) - h(D)) at sites decided along the row, and -v(v(D) - h(D)) at the others. Multiplied out, it is the mean
of the four diagonal neighbors minus the mean of D over every second site along the decided direction, weighted by
[1 2 1] / 4.

Refinement averages D with its means along the decided direction, which gives [1 4 1] / 6 over every second site. It
does the same to o(D), which gives (o(D) + 2 o(refined D)) / 3.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from isp import cfa
from isp._engine import stencil
from isp._engine.derivatives import with_gradient
from isp._engine.formulation import is_plain

# A mosaic or a plane as a function of the offset (rows down, columns right) at which it is read.
Shifts = Callable[[int, int], Array]

# Row and column of a site in the tile; and for each site a plane `(batch, H / 2, W / 2)` of its values in all tiles.
Site = tuple[int, int]
Planes = Mapping[Site, Array]


def demosaic(
    raw: Float[Array, "*batch height width"], pattern: str, refine: bool
) -> Float[Array, "*batch height width 3"]:
    """Demosaics a mosaic; see `isp.demosaic.menon2007`."""
    return _demosaic(raw.reshape(-1, *raw.shape[-2:]), pattern, refine).reshape(*raw.shape, 3)


def _interpolate(raw: Array, pattern: str, refine: bool) -> Array:
    return _forward(raw, pattern, refine)[0]


def _forward(raw: Array, pattern: str, refine: bool) -> tuple[Array, Array]:
    """Returns the image, and whether each red or blue site was decided along its row."""
    height, width = raw.shape[1] // 2, raw.shape[2] // 2
    colored, red_rows = _tile(pattern)
    sites = [site for site in np.ndindex(2, 2) if colored[site]]

    def split(raw: Array) -> Planes:
        return _with_mirrored_tiles({site: raw[:, site[0] :: 2, site[1] :: 2] for site in np.ndindex(2, 2)}, 2)

    def changes(padded: Planes) -> tuple[Planes, Planes]:
        in_row, in_col = ({site: _changes(padded, site, *step) for site in sites} for step in ((0, 1), (1, 0)))
        return in_row, in_col

    def decide(padded: Planes, in_row: Planes, in_col: Planes) -> tuple[Planes, Planes]:
        horizontal, difference = {}, {}
        for site in sites:
            row_changes, col_changes = (_around(of_site, 1, site, height, width) for of_site in (in_row, in_col))
            horizontal[site] = _total(lambda i, j, read=col_changes: read(j, i)) >= _total(row_changes)
            values = _around(padded, 2, site, height, width)
            near, far = (_along(values, reach, horizontal[site]) for reach in (1, 2))
            difference[site] = _difference(values(0, 0), near, far)
        return horizontal, difference

    def smooth(padded: Planes, horizontal: Planes) -> tuple[Planes, Planes]:
        refined, opposite = {}, {}
        for site in sites:
            values = _around(padded, 1, site, height, width)
            along = _along(values, 2, horizontal[site])
            refined[site], opposite[site] = (4 * values(0, 0) + along) / 6, _opposite(values, along)
        return refined, opposite

    def combine(padded_raw: Planes, padded: Planes, horizontal: Planes, unrefined: Planes) -> Array:
        def channels(site: Site) -> Array:
            own = _around(padded_raw, 2, site, height, width)(0, 0)
            values = _around(padded, 1, site, height, width)
            if colored[site]:
                opposite = _opposite(values, _along(values, 2, horizontal[site]))
                if unrefined:
                    opposite = (unrefined[site] + 2 * opposite) / 3
                of_row, green, of_col = own, own - values(0, 0), own + opposite
            else:
                of_row = own + (values(0, -1) + values(0, 1)) / 2
                green = own
                of_col = own + (values(-1, 0) + values(1, 0)) / 2
            return jnp.stack([of_row, green, of_col] if red_rows[site[0], 0] else [of_col, green, of_row], -1)

        return stencil.woven([[channels((y, x)) for x in range(2)] for y in range(2)])

    padded_raw = stencil.apart(split)(raw)
    horizontal, difference = stencil.apart(decide)(padded_raw, *stencil.apart(changes)(padded_raw))
    mirror = stencil.apart(functools.partial(_with_mirrored_tiles, margin=1))
    padded, unrefined = mirror(difference), {}
    if refine:
        refined, unrefined = stencil.apart(smooth)(padded, horizontal)
        padded = mirror(refined)
    image = stencil.apart(combine)(padded_raw, padded, horizontal, unrefined)
    nowhere = jnp.zeros_like(horizontal[sites[0]])
    return image, stencil.woven([[horizontal.get((y, x), nowhere) for x in range(2)] for y in range(2)])


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


def _with_mirrored_tiles(planes: Planes, margin: int) -> Planes:
    """Does to the planes of a mosaic what `_mirror` does to the mosaic; the margin is a number of tiles."""

    def padded(plane: Array, site: Site) -> Array:
        _, height, width = plane.shape
        # The tiles that the mirrored sites lie in.
        rows, cols = (
            np.pad(np.arange(2 * tiles), 2 * margin, "reflect")[offset::2] // 2
            for tiles, offset in zip((height, width), site, strict=True)
        )
        if is_plain() or jax.default_backend() != "cpu":
            return _widened(_widened(plane, rows, margin, 1), cols, margin, 2)
        # On CPUs, each of these two concatenations would write the whole plane.
        left, right = _strips(plane, cols, margin, 2)
        top, bottom = (_widened(strip, cols, margin, 2) for strip in _strips(plane, rows, margin, 1))
        whole = jnp.pad(plane, ((0, 0), (margin, margin), (margin, margin)))
        for strip, row, col in (
            (left, margin, 0),
            (right, margin, margin + width),
            (top, 0, 0),
            (bottom, margin + height, 0),
        ):
            whole = jax.lax.dynamic_update_slice(whole, strip, (0, row, col))
        return whole

    return {site: padded(plane, site) for site, plane in planes.items()}


def _strips(plane: Array, source: np.ndarray, margin: int, axis: int) -> list[Array]:
    """Collects the first and the last tiles of a padded axis, whose places in the plane are those in `source`."""
    return [
        jnp.concatenate([jax.lax.slice_in_dim(plane, tile, tile + 1, axis=axis) for tile in tiles], axis)
        for tiles in (source[:margin], source[-margin:])
    ]


def _widened(plane: Array, source: np.ndarray, margin: int, axis: int) -> Array:
    """Puts these strips before and after the plane."""
    first, last = _strips(plane, source, margin, axis)
    return jnp.concatenate([first, plane, last], axis)


def _around(planes: Planes, margin: int, site: Site, height: int, width: int) -> Shifts:
    """Returns the mosaic around a site of each tile as a function of the offset at which it is read.

    Args:
        planes: The planes of the sites that are read.
        margin: The number of tiles that they have before the result's first row and column.
        site: The site.
        height: The number of tiles in a column of the result.
        width: The number of tiles in a row of the result.
    """

    def read(down: int, right: int) -> Array:
        (top, y), (left, x) = divmod(site[0] + down, 2), divmod(site[1] + right, 2)
        return planes[y, x][:, margin + top : margin + top + height, margin + left : margin + left + width]

    return read


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


def _changes(padded: Planes, site: Site, down: int, right: int) -> Array:
    """Computes the change of D from a site to the second next, |D(site) - D(second next)|; zero beyond the image.

    Args:
        padded: The mosaic, with a margin of 2 tiles.
        site: The site.
        down: 1 if the next site is the one below, else 0.
        right: 1 if the next site is the one to the right, else 0.

    Returns:
        The changes. They have a margin of 1 tile: along the direction before the image, and across it on both sides.
    """
    height, width = (side - 4 for side in padded[site].shape[1:])
    row_margins, col_margins = (1, right), (1, down)
    read = _around(padded, 1, site, height + sum(row_margins), width + sum(col_margins))
    sites = [read(k * down, k * right) for k in range(-2, 5)]
    first, second = (_difference(sites[k], sites[k - 1] + sites[k + 1], sites[k - 2] + sites[k + 2]) for k in (2, 4))
    inside = (
        np.pad(np.ones(height, first.dtype), row_margins)[:, None],
        np.pad(np.ones(width, first.dtype), col_margins),
    )
    return jnp.abs(first - second) * inside[0] * inside[1]


def _total(changes: Shifts) -> Array:
    """Computes the paper's weighted sum of the changes around each site; `changes` takes offsets across and along."""
    here = changes(0, -2) + changes(0, 0)
    beside = changes(-1, -1) + changes(1, -1)
    beyond = changes(-2, -2) + changes(-2, 0) + changes(2, -2) + changes(2, 0)
    return 3 * here + beside + beyond
