"""The inside of `isp.demosaic.menon2007`: Menon, Andriani & Calvagno (2007), multiplied out to a few filters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import bayer
from isp._engine import stencil


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def demosaic(
    raw: Float[Array, "*batch height width"], pattern: str, refine: bool
) -> Float[Array, "*batch height width 3"]:
    """Demosaics a mosaic by filters of one plane D: colour less green at red and blue sites, zero at green ones.

    A filter of D that reaches neighbours fills green sites and leaves zeros at the others, or the other way round: no
    step asks where it stands, and red and blue need not be told apart before the end. With the means h(D) of the two
    neighbours in the row and v(D) of the two in the column, the method's interpolations are

        at green sites: colour of the row = raw + h(D), colour of the column = raw + v(D);
        at red and blue sites: green = raw - D, third colour = raw + o(D).

    o(D) = h(v(D) - h(D)) at sites decided along the row, -v(v(D) - h(D)) at others, which multiplies out to the mean of
    the four diagonal neighbours less the mean of D, [1 2 1] / 4 over every second site along the decided direction.
    Refinement averages D with the means beside it along that direction, which makes [1 4 1] / 6 of every second site,
    and o(D) with the means beside it, which is (o(D) + 2 o(refined D)) / 3.
    """
    return _forward(raw, pattern, refine)[0]


def _forward(raw, pattern, refine):
    height, width = raw.shape[-2:]
    colored, red_rows = _tile(pattern)

    def changes(padded):
        return _changes(padded, 0, 1), _changes(padded, 1, 0)

    def decide(padded, horizontal_changes, vertical_changes):
        across_rows = _shifts(horizontal_changes, 2, height, width)
        across_cols = _shifts(vertical_changes, 2, height, width)
        horizontal = _total(lambda i, j: across_cols(j, i)) >= _total(across_rows)
        sites = _shifts(padded, 4, height, width)
        difference = _difference(sites(0, 0), _along(sites, 1, horizontal), _along(sites, 2, horizontal))
        return horizontal, _by_site(colored, difference, 0)

    def smooth(padded, horizontal):
        sites = _shifts(padded, 2, height, width)
        along = _along(sites, 2, horizontal)
        return (4 * sites(0, 0) + along) / 6, _opposite(sites, along)

    def combine(raw, padded, horizontal, unrefined=None):
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


def _backward(pattern, refine, horizontal, gradient):
    """The filters in reverse order, each transposed.

    A symmetric filter over mirrored borders is its own transpose if the outermost rows and columns count half: the
    mirror shows every other twice. So the gradient is divided by these weights, filtered, and multiplied by them. But
    what went along a site's direction has to go back by it, to wherever it came from.
    """
    height, width = horizontal.shape[-2:]
    colored, red_rows = _tile(pattern)
    row_weights, col_weights = (np.ones(size, gradient.dtype) for size in (height, width))
    row_weights[[0, -1]] = col_weights[[0, -1]] = 0.5
    row_weights = row_weights[:, None]

    def split(gradient):
        red, green, blue = (gradient[..., color] / row_weights / col_weights for color in range(3))
        return _by_site(red_rows, red, blue), green, _by_site(red_rows, blue, red)

    def combine(of_row, green, of_col, directions):
        row, col = _shifts(of_row, 2, height, width), _shifts(of_col, 2, height, width)
        direction = _shifts(directions, 2, height, width)
        opposite = _opposite(col, _along_transposed(col, 2, direction))
        difference = (row(0, -1) + row(0, 1) + col(-1, 0) + col(1, 0)) / 2 - green
        return row(0, 0) + green + col(0, 0), difference + (2 * opposite / 3 if refine else opposite), opposite

    def smooth(padded, directions, unrefined):
        sites, direction = _shifts(padded, 2, height, width), _shifts(directions, 2, height, width)
        return (4 * sites(0, 0) + _along_transposed(sites, 2, direction)) / 6 + unrefined / 3

    def differentiate(raw, padded, directions):
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


demosaic.defvjp(_forward, _backward)


def _tile(pattern):
    """Which sites of the tile are red or blue, (2, 2), and which of its rows have red, (2, 1)."""
    colors = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    return colors != 1, (colors == 0).any(1, keepdims=True)


def _by_site(tile, x, y):
    """The one where the tile is true at the site, the other elsewhere; in pairs of rows, for which one mask does."""
    rows, cols = x.shape[-2:]
    mask = np.tile(tile, cols // tile.shape[1])
    x_pairs, y_pairs = (jnp.broadcast_to(z, x.shape).reshape(*x.shape[:-2], rows // 2, 2, cols) for z in (x, y))
    return jnp.where(mask, x_pairs, y_pairs).reshape(x.shape)


def _mirror(plane, margin):
    return stencil.pad(plane, margin, margin, "mirror")


def _shifts(padded, margin, height, width):
    """The plane inside the margin as a function of the offset at which it is read."""
    return lambda y, x: padded[..., margin + y : margin + y + height, margin + x : margin + x + width]


def _along(sites, reach, horizontal):
    """The sum of the two sites at a distance from each, in its own direction."""
    return jnp.where(horizontal, sites(0, -reach) + sites(0, reach), sites(-reach, 0) + sites(reach, 0))


def _along_transposed(sites, reach, horizontal):
    """The transpose of `_along`: the sum of those sites at a distance from each that have it in their own direction."""
    in_row = (jnp.where(horizontal(0, x), sites(0, x), 0) for x in (-reach, reach))
    in_col = (jnp.where(horizontal(y, 0), 0, sites(y, 0)) for y in (-reach, reach))
    return sum(in_row) + sum(in_col)


def _difference(raw, near, far):
    """Colour less green, which is interpolated from the sums of the two sites at distance 1, `near`, and 2, `far`."""
    return raw - (near / 2 + (raw / 2 - far / 4))


def _opposite(sites, along):
    """o(D) in `demosaic`, from D and its sums of the two sites at distance 2 along the direction."""
    diagonal = sites(-1, -1) + sites(-1, 1) + sites(1, -1) + sites(1, 1)
    return (diagonal - along) / 4 - sites(0, 0) / 2


def _changes(padded, down, right):
    """How much D changes from each site to the second next, |D(site) - D(second next)|, and zeros around the image.

    Args:
        padded: the mosaic, with a margin of 4.
        down: 1 if the next site is the one below, else 0.
        right: 1 if it is the one to the right, else 0.

    Returns:
        The changes, with a margin of 2: before the image along the direction, on both sides across.
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


def _total(changes):
    """The paper's weighted sum of the changes around each site, which are read by offset across and along."""
    here = changes(0, -2) + changes(0, 0)
    beside = changes(-1, -1) + changes(1, -1)
    beyond = changes(-2, -2) + changes(-2, 0) + changes(2, -2) + changes(2, 0)
    return 3 * here + beside + beyond
