"""Menon, Andriani & Calvagno (2007) for `isp.demosaic.menon2007`, reduced to a few filters.

All filters read D: color minus green at red and blue sites, zero at green ones. A filter of D that reads neighbors in a
row or column is zero at red and blue sites; one that reads every second site is zero at green ones. So each site needs
only some of the formulas below, and they are computed on planes that hold one site of every tile. Red and blue are
treated alike until the end.

With h(D) the mean of the two neighbors in the row, and v(D) the mean of the two in the column, the interpolations are

    at green sites: color of the row = raw + h(D), color of the column = raw + v(D);
    at red and blue sites: green = raw - D, third color = raw + o(D).

o(D) = h(v(D) - h(D)) at sites decided along the row, and -v(v(D) - h(D)) at the others. Expanded, o(D) is the mean of
the four diagonal neighbors minus the mean of D over every second site along the decided direction, weighted by
[1 2 1] / 4.

Refinement averages D with its means along the decided direction, which gives [1 4 1] / 6 over every second site. It
does the same to o(D), which gives (o(D) + 2 o(refined D)) / 3.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from isp._kernels import padding, stencil
from isp._kernels.xla import unfused, unfused_with, with_gradient

# How many rows or columns away a site can influence the result.
REACH = 8

# A mosaic or a plane as a function of the offset (rows down, columns right) at which it is read.
Shifts = Callable[[int, int], Array]

# The channels of the tile as nested tuples, which can be hashed.
Colors = tuple[tuple[int, ...], ...]

# Row and column of a site in the tile; and for each site a plane `(batch, H / 2, W / 2)` of its values in all tiles.
Site = tuple[int, int]
Planes = Mapping[Site, Array]


def demosaic(
    raw: Float[Array, "*batch height width"], tile: np.ndarray, refine: bool
) -> Float[Array, "*batch height width 3"]:
    """Demosaics a mosaic with the channels of a Bayer tile; see `isp.demosaic.menon2007`."""
    colors = tuple(map(tuple, tile.tolist()))
    return _demosaic(raw.reshape(-1, *raw.shape[-2:]), colors, refine).reshape(*raw.shape, 3)


def _forward(raw: Array, colors: Colors, refine: bool) -> tuple[Array, Array]:
    """Returns the image, and whether each red or blue site was decided along its row.

    Planes of intermediate results have a margin: the tiles beyond the border that later filters read. Filtering a
    mirrored mosaic gives mirrored results there. Only the decisions differ, so they are mirrored afterwards.
    """
    size = raw.shape[1] // 2, raw.shape[2] // 2
    colored, red_rows = _tile(colors)
    sites = [site for site in np.ndindex(2, 2) if colored[site]]

    def interpolate(mosaic: padding.Padded) -> tuple[Planes, Planes]:
        def difference(read: Shifts) -> Array:
            near, far = (read(0, -reach) + read(0, reach) for reach in (1, 2))
            return _difference(read(0, 0), near, far)

        around = {site: _around_mosaic(mosaic.plane, site, size, margin=2) for site in sites}
        in_row = {site: difference(read) for site, read in around.items()}
        return in_row, {site: difference(_turned(read)) for site, read in around.items()}

    def change(in_row: Planes, in_col: Planes) -> tuple[Planes, Planes]:
        row_changes = {site: _changes(in_row[site], 0, 1) for site in sites}
        return row_changes, {site: _changes(in_col[site], 1, 0) for site in sites}

    def decide(row_changes: Planes, col_changes: Planes) -> Planes:
        horizontal = {}
        for site in sites:
            in_row, in_col = (_around(changes, site, size) for changes in (row_changes, col_changes))
            horizontal[site] = _total(_turned(in_col)) >= _total(in_row)
        return horizontal

    def choose(in_row: Planes, in_col: Planes, horizontal: Planes) -> Planes:
        return {site: jnp.where(horizontal[site], in_row[site], in_col[site]) for site in sites}

    def smooth(unrefined: Planes, horizontal: Planes) -> Planes:
        refined = {}
        for site in sites:
            values, direction = (_around(planes, site, size, margin=1) for planes in (unrefined, horizontal))
            refined[site] = (4 * values(0, 0) + _along(values, 2, direction(0, 0))) / 6
        return refined

    def combine(mosaic: Array, unrefined: Planes, refined: Planes, horizontal: Planes) -> Array:
        def opposite(differences: Planes, site: Site) -> Array:
            values, direction = (_around(planes, site, size) for planes in (differences, horizontal))
            return _opposite(values, _along(values, 2, direction(0, 0)))

        def channels(site: Site) -> Array:
            center = _around_mosaic(mosaic, site, size)(0, 0)
            values = _around(refined, site, size)
            if colored[site]:
                third = opposite(refined, site)
                if refine:
                    third = (opposite(unrefined, site) + 2 * third) / 3
                of_row, green, of_col = center, center - values(0, 0), center + third
            else:
                of_row = center + (values(0, -1) + values(0, 1)) / 2
                green = center
                of_col = center + (values(-1, 0) + values(1, 0)) / 2
            return jnp.stack([of_row, green, of_col] if red_rows[site[0], 0] else [of_col, green, of_row], -1)

        return stencil.woven([[channels((y, x)) for x in range(2)] for y in range(2)])

    # Six sites are read; eight are copied as one block.
    in_row, in_col = unfused(interpolate)(_mirror(raw, 8))
    decided = unfused(decide)(*unfused(change)(in_row, in_col))
    horizontal = unfused_with(_with_mirrored_tiles, 2)(decided)
    unrefined = unfused(choose)(in_row, in_col, horizontal)
    refined = unfused(smooth)(unrefined, horizontal) if refine else unrefined
    image = unfused(combine)(raw, unrefined, refined, horizontal)
    nowhere = jnp.zeros_like(decided[sites[0]])
    return image, stencil.woven([[decided.get((y, x), nowhere) for x in range(2)] for y in range(2)])


def _backward(colors: Colors, refine: bool, horizontal: Array, gradient: Array) -> tuple[Array]:
    """Applies the transposed filters in reverse order."""
    # A symmetric filter over mirrored borders is its own transpose if the outermost rows and columns count half, as the
    # mirror shows all others twice: the gradient is divided by these weights, filtered, and multiplied by them. A
    # filter along decided directions is not symmetric, see `_along_transposed`.
    height, width = horizontal.shape[-2:]
    colored, red_rows = _tile(colors)
    row_weights, col_weights = (np.ones(size, gradient.dtype) for size in (height, width))
    row_weights[[0, -1]] = col_weights[[0, -1]] = 0.5
    row_weights = row_weights[:, None]

    def split(gradient: Array) -> tuple[Array, Array, Array]:
        red, green, blue = (gradient[..., color] / row_weights / col_weights for color in range(3))
        return _by_site(red_rows, red, blue), green, _by_site(red_rows, blue, red)

    def combine(
        of_row: padding.Padded, green: Array, of_col: padding.Padded, directions: padding.Padded
    ) -> tuple[Array, Array, Array]:
        row, col = _shifts(of_row, 2, height, width), _shifts(of_col, 2, height, width)
        direction = _shifts(directions, 2, height, width)
        opposite = _opposite(col, _along_transposed(col, 2, direction))
        difference = (row(0, -1) + row(0, 1) + col(-1, 0) + col(1, 0)) / 2 - green
        return row(0, 0) + green + col(0, 0), difference + (2 * opposite / 3 if refine else opposite), opposite

    def smooth(padded: padding.Padded, directions: padding.Padded, unrefined: Array) -> Array:
        sites, direction = _shifts(padded, 2, height, width), _shifts(directions, 2, height, width)
        return (4 * sites(0, 0) + _along_transposed(sites, 2, direction)) / 6 + unrefined / 3

    def differentiate(raw: Array, padded: padding.Padded, directions: padding.Padded) -> Array:
        sites, direction = _shifts(padded, 2, height, width), _shifts(directions, 2, height, width)
        near, far = (_along_transposed(sites, reach, direction) for reach in (1, 2))
        return (raw + _difference(sites(0, 0), near, far)) * row_weights * col_weights

    directions = _mirror(horizontal, 2)
    of_row, green, of_col = unfused(split)(gradient)
    raw, difference, opposite = unfused(combine)(_mirror(of_row, 2), green, _mirror(of_col, 2), directions)
    if refine:
        difference = unfused(smooth)(_mirror(difference, 2), directions, opposite)
    difference = _by_site(colored, difference, 0)
    return (unfused(differentiate)(raw, _mirror(difference, 2), directions),)


_demosaic = with_gradient(lambda *args: _forward(*args)[0], _backward, static_argnums=(1, 2), forward=_forward)


def _tile(colors: Colors) -> tuple[Bool[np.ndarray, "2 2"], Bool[np.ndarray, "2 1"]]:
    """Returns masks of the tile's red or blue sites, and of its rows with red."""
    tile = np.array(colors)
    return tile != 1, (tile == 0).any(1, keepdims=True)


def _by_site(tile: Bool[np.ndarray, "2 _"], x: Array, y: ArrayLike) -> Array:
    """Selects x where the tile is true, else y, in pairs of rows, so one mask of two rows serves the whole plane."""
    rows, cols = x.shape[-2:]
    mask = np.tile(tile, cols // tile.shape[1])
    x_pairs, y_pairs = (jnp.broadcast_to(z, x.shape).reshape(*x.shape[:-2], rows // 2, 2, cols) for z in (x, y))
    return jnp.where(mask, x_pairs, y_pairs).reshape(x.shape)


def _mirror(plane: Array, margin: int) -> padding.Padded:
    return padding.pad(plane, margin, margin, "mirror")


def _with_mirrored_tiles(margin: int, planes: Planes) -> Planes:
    """Mirrors the planes of a mosaic as `_mirror` mirrors the mosaic; the margin is a number of tiles."""

    def padded(plane: Array, site: Site) -> Array:
        for axis in (0, 1):
            tiles = plane.shape[1 + axis]
            # The tiles that the mirrored sites lie in.
            source = np.pad(np.arange(2 * tiles), 2 * margin, "reflect")[site[axis] :: 2] // 2
            before, after = (
                [jax.lax.slice_in_dim(plane, tile, tile + 1, axis=1 + axis) for tile in mirrored]
                for mirrored in (source[:margin], source[-margin:])
            )
            plane = jnp.concatenate([*before, plane, *after], 1 + axis)
        return plane

    return {site: padded(plane, site) for site, plane in planes.items()}


def _around(planes: Planes, site: Site, size: tuple[int, int], margin: int = 0) -> Shifts:
    """Returns the mosaic around a site of each tile, and in a margin, as a function of the offset to read at."""
    height, width = (tiles + 2 * margin for tiles in size)

    def read(down: int, right: int) -> Array:
        (top, y), (left, x) = divmod(site[0] + down, 2), divmod(site[1] + right, 2)
        plane = planes[y, x]
        top, left = top + (plane.shape[1] - height) // 2, left + (plane.shape[2] - width) // 2
        return padding.window(plane, (top, left), (height, width))

    return read


def _around_mosaic(mosaic: Array, site: Site, size: tuple[int, int], margin: int = 0) -> Shifts:
    """Reads a mosaic, with or without a margin, as `_around` reads its planes."""
    height, width = (tiles + 2 * margin for tiles in size)
    first_row, first_col = mosaic.shape[1] // 2 - height, mosaic.shape[2] // 2 - width

    def read(down: int, right: int) -> Array:
        place = first_row + site[0] + down, first_col + site[1] + right
        return padding.window(mosaic, place, (height, width), (2, 2))

    return read


def _turned(shifts: Shifts) -> Shifts:
    return lambda down, right: shifts(right, down)


def _shifts(padded: padding.Padded, margin: int, height: int, width: int) -> Shifts:
    """Returns the plane inside the margin as a function of the offset at which it is read."""
    plane = padded.plane
    return lambda y, x: padding.window(plane, (margin + y, margin + x), (height, width))


def _along(sites: Shifts, reach: int, horizontal: Array) -> Array:
    """Sums the two sites at distance `reach` from each site, along that site's direction."""
    return jnp.where(horizontal, sites(0, -reach) + sites(0, reach), sites(-reach, 0) + sites(reach, 0))


def _along_transposed(sites: Shifts, reach: int, horizontal: Shifts) -> Array:
    """Applies the transpose of `_along`: sums the sites at distance `reach` whose direction leads here."""
    in_row = (jnp.where(horizontal(0, x), sites(0, x), 0) for x in (-reach, reach))
    in_col = (jnp.where(horizontal(y, 0), 0, sites(y, 0)) for y in (-reach, reach))
    return stencil.total(in_row) + stencil.total(in_col)


def _difference(raw: Array, near: Array, far: Array) -> Array:
    """Computes color minus green, which is interpolated from the sums of the two sites at distances 1 and 2."""
    return raw - (near / 2 + (raw / 2 - far / 4))


def _opposite(sites: Shifts, along: Array) -> Array:
    """Computes o(D) from D and `along`, its sums of the two sites at distance 2 along the decided directions."""
    diagonal = sites(-1, -1) + sites(-1, 1) + sites(1, -1) + sites(1, 1)
    return (diagonal - along) / 4 - sites(0, 0) / 2


def _changes(differences: Array, down: int, right: int) -> Array:
    """Computes |D(tile) - D(tile + (down, right))| for the tiles of the image, and zeros in a margin of one tile."""
    size = differences.shape[1] - 4, differences.shape[2] - 4
    here, there = (padding.window(differences, place, size) for place in ((2, 2), (2 + down, 2 + right)))
    return jnp.pad(jnp.abs(here - there), [(0, 0), (1, 1), (1, 1)])


def _total(changes: Shifts) -> Array:
    """Computes the paper's weighted sum of the changes around each site; `changes` takes offsets across and along."""
    here = changes(0, -2) + changes(0, 0)
    beside = changes(-1, -1) + changes(1, -1)
    beyond = changes(-2, -2) + changes(-2, 0) + changes(2, -2) + changes(2, 0)
    return 3 * here + beside + beyond
