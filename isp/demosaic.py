"""Demosaicing: one colour a site to three colours a pixel.

The sites of a mosaic repeat in 2x2 tiles, so a linear method is one stencil whose weights depend on the site of the
tile: `bilinear` and `malvar2004` are such weights. `menon2007` decides a direction at each red and blue site, and is
linear after that. Reverse-mode derivatives are written out, so forward mode does not work.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import bayer, stencil

_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4

# As out, in, row, col. Over planes that are zero where a site sees another colour, each kernel averages the nearest
# sites of its colour, whichever of the 2x2 tile's sites it stands on.
BILINEAR_KERNEL = np.zeros((3, 3, 3, 3), np.float32)
BILINEAR_KERNEL[[0, 1, 2], [0, 1, 2]] = _RED_BLUE, _GREEN, _RED_BLUE

# Malvar, He & Cutler (2004), figure 2: green at a red or blue site; a colour at a green site that has it to the left
# and right; red at a blue site and blue at a red one.
# fmt: off
_GREEN_AT_OTHERS = np.array([
    [ 0,  0, -1,  0,  0],
    [ 0,  0,  2,  0,  0],
    [-1,  2,  4,  2, -1],
    [ 0,  0,  2,  0,  0],
    [ 0,  0, -1,  0,  0],
]) / 8
_BESIDE = np.array([
    [ 0,  0,  1,  0,  0],
    [ 0, -2,  0, -2,  0],
    [-2,  8, 10,  8, -2],
    [ 0, -2,  0, -2,  0],
    [ 0,  0,  1,  0,  0],
]) / 16
_OPPOSITE = np.array([
    [ 0,  0, -3,  0,  0],
    [ 0,  4,  0,  4,  0],
    [-3,  0, 12,  0, -3],
    [ 0,  4,  0,  4,  0],
    [ 0,  0, -3,  0,  0],
]) / 16
# fmt: on

# Pixels that a large image is processed at a time: few enough for the planes of a method to stay in the cache.
_STRIP = 2**18


@jax.jit
def interpolate(
    planes: Float[Array, "*batch height width 3"], kernel: Float[Array, "3 3 3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Fills the planes that `bayer.spread` made, by a 3x3 correlation over mirrored borders.

    Args:
        planes: mosaic values, zero where a site sees another colour.
        kernel: weights as out, in, row, col; `BILINEAR_KERNEL` interpolates each colour from its own sites, a learnt
            one may mix colours.
    """
    return stencil.correlate_channels(planes, kernel, "mirror")


@functools.partial(jax.jit, static_argnames="pattern")
def bilinear(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Bilinear demosaicing of a mosaic `(..., H, W)`; each missing colour is the mean of its nearest sites.

    The outermost pixels follow colour-demosaicing's `demosaicing_CFA_Bayer_bilinear`, which repeats the border of the
    zero-filled planes; `interpolate` mirrors it instead. Not clipped.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    _check(raw, pattern)
    kernels = _bilinear_kernels(pattern).astype(raw.dtype)
    return _by_strips(lambda raw: _repeat_border(stencil.correlate_mosaic(raw, kernels, "zero"), pattern), raw, 2)


@functools.partial(jax.jit, static_argnames="pattern")
def malvar2004(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Gradient-corrected linear demosaicing of a mosaic `(..., H, W)`: Malvar, He & Cutler (ICASSP 2004).

    Bilinear interpolation, corrected by the Laplacian of the colour that the site itself sees. The border is that of
    colour-demosaicing's `demosaicing_CFA_Bayer_Malvar2004`: beyond it the outermost sites are repeated, and taken for
    the colour that the pattern has there. Not clipped; edges overshoot.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    _check(raw, pattern)
    kernels = _malvar_kernels(pattern).astype(raw.dtype)
    return _by_strips(lambda raw: stencil.correlate_mosaic(raw, kernels, "symmetric"), raw, 2)


@functools.partial(jax.jit, static_argnames=("pattern", "refine"))
def menon2007(
    raw: Shaped[Array, "..."], pattern: str = "RGGB", refine: bool = True
) -> Float[Array, "*batch height width 3"]:
    """Directional demosaicing of a mosaic `(..., H, W)`: Menon, Andriani & Calvagno (IEEE TIP 16(1), 2007), "DDFAPD".

    Green is interpolated along the row and along the column of each red and blue site; the direction is kept in which
    the difference of colour and green changes less around the site, the row if they tie. Red and blue follow from these
    differences. Decisions, borders and results are those of colour-demosaicing's `demosaicing_CFA_Bayer_Menon2007`,
    but for rounding; its chain of masked interpolations is multiplied out to a few filters, see `_menon`. Not clipped.

    The gradient is that of the interpolations: the decisions are piecewise constant.

    Args:
        raw: the mosaic.
        pattern: the colours of the 2x2 tile.
        refine: whether to smooth the differences along the directions in the end, the paper's refining step.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    _check(raw, pattern)
    return _by_strips(lambda raw: _menon(raw, pattern, refine), raw, 8)


def _check(raw, pattern):
    bayer.check_mosaic(raw)
    bayer.check_pattern(pattern)


def _by_strips(function, raw, reach):
    """Applies a function of mosaics; on the CPU, to a large image one strip of rows after the other.

    Half of the time that a large image takes is the first touch of fresh memory; a strip's intermediate results use the
    same memory again, and stay in the cache. The result is the same: of each strip, an image with a border of its own,
    the rows that this border can reach are cut off.

    Args:
        function: from mosaics `(H, W)` to images `(H, W, 3)`.
        raw: mosaics `(..., H, W)`.
        reach: how many rows away a site can matter; even, so that strips start with a whole tile.
    """
    *batch, height, width = raw.shape
    rows = max((n for n in range(2, height + 1, 2) if height % n == 0 and n * width <= _STRIP), default=height)
    # Of thin strips, all that a height of few divisors may leave, most would be cut off.
    if jax.default_backend() != "cpu" or not 4 * reach <= rows < height:
        return function(raw)
    images = raw.reshape(-1, height, width)
    size = min(rows + 2 * reach, height)

    def strip(place):
        image, row = place
        start = jnp.clip(row - reach, 0, height - size)
        rgb = function(jax.lax.dynamic_slice(images, (image, start, 0), (1, size, width))[0])
        return jax.lax.dynamic_slice_in_dim(rgb, row - start, rows)

    places = tuple(axis.ravel() for axis in np.mgrid[: len(images), :height:rows])
    return jax.lax.map(strip, places).reshape(*batch, height, width, 3)


def _repeat_border(rgb, pattern):
    """Turns bilinear interpolation with zeros beyond the border into that of planes that repeat their border.

    In an outermost row, the one beyond is the row itself: its red or blue counts half once more, as the outer rows of
    their kernel are half the middle one, and a green site, its own neighbour now, a quarter. So in columns.
    """
    height, width = rgb.shape[-3:-1]
    # The first pair of rows, one that stands for all in the middle, the last.
    lines, pairs = min(height, 6), np.arange(height // 2)[:, None, None]
    sites = np.tile(np.eye(3)[np.reshape(bayer.PATTERNS[pattern], (2, 2))], (lines // 2, width // 2, 1))
    in_row = np.isin(np.arange(lines), (0, lines - 1))[:, None, None] * sites.any(1, keepdims=True)
    in_col = np.isin(np.arange(width), (0, width - 1))[:, None] * sites.any(0, keepdims=True)
    gain = (1 + in_row / 2) * (1 + in_col / 2)
    gain[..., 1] = 1 + sites[..., 1] * (in_row / 4 + in_col / 4)[..., 1]
    gain = gain.reshape(-1, 2, 3 * width).astype(rgb.dtype)
    gain = jnp.where(pairs == 0, gain[0], jnp.where(pairs == height // 2 - 1, gain[-1], gain[len(gain) // 2]))
    return (rgb.reshape(*rgb.shape[:-3], *gain.shape) * gain).reshape(rgb.shape)


def _bilinear_kernels(pattern):
    """As out, row, col, and the site of the tile: `BILINEAR_KERNEL` where it meets a site of its colour."""
    colors = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    kernels = np.zeros((3, 3, 3, 2, 2))
    for i, j, y, x in np.ndindex(3, 3, 2, 2):
        color = colors[(y + i - 1) % 2, (x + j - 1) % 2]
        kernels[color, i, j, y, x] = BILINEAR_KERNEL[color, color, i, j]
    return kernels


def _malvar_kernels(pattern):
    """As out, row, col, and the site of the tile."""
    colors = np.reshape(bayer.PATTERNS[pattern], (2, 2))
    kernels = np.zeros((3, 5, 5, 2, 2))
    for out, y, x in np.ndindex(3, 2, 2):
        if out == colors[y, x]:
            kernels[out, 2, 2, y, x] = 1
        elif out == 1:
            kernels[out, :, :, y, x] = _GREEN_AT_OTHERS
        elif colors[y, x] != 1:
            kernels[out, :, :, y, x] = _OPPOSITE
        else:
            kernels[out, :, :, y, x] = _BESIDE if out in colors[y] else _BESIDE.T
    return kernels


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _menon(raw, pattern, refine):
    """Menon's method as filters of one plane D: colour less green at red and blue sites, zero at green ones.

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
    return _menon_forward(raw, pattern, refine)[0]


def _menon_forward(raw, pattern, refine):
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


def _menon_backward(pattern, refine, horizontal, gradient):
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


_menon.defvjp(_menon_forward, _menon_backward)


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
    """Pads by mirroring about the outermost pixels, which keeps the pattern going."""
    margins = [(0, 0)] * (plane.ndim - 2) + [(margin, margin)] * 2
    return stencil.apart(lambda plane: jnp.pad(plane, margins, "reflect"))(plane)


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
    """o(D) in `_menon`, from D and its sums of the two sites at distance 2 along the direction."""
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
