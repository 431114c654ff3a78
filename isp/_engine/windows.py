"""Filters over square windows that are not linear: median and bilateral."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from isp import color
from isp._engine import stencil
from isp.bayer import check_image

# A parameter: a figure that is known, or an array, which may be traced.
Scalar = Real[Array | np.ndarray, ""] | float | int


def window_size(name: str, sigma: Scalar, size: int | None, radius: Callable[[float], int]) -> int:
    """The side of a window: `size`, or 1 + 2 * radius(sigma), which takes a sigma whose value is known.

    Raises:
        ValueError: a sigma, called `name`, that is not positive, or traced without a `size`; an even `size`.
    """
    check_positive(name, sigma)
    if size is not None:
        check_size(size)
        return size
    if isinstance(sigma, jax.core.Tracer):
        raise ValueError(f"size must be given where {name} is traced: a shape cannot follow from its value")
    return 2 * radius(float(sigma)) + 1


def check_positive(name: str, value: Scalar) -> None:
    """Raises a ValueError unless the value, called `name`, is positive or traced, so that nobody can know."""
    if not isinstance(value, jax.core.Tracer) and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def check_size(size: int) -> None:
    """Raises a ValueError unless `size` can be the side of a window."""
    if not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"size must be an odd number of pixels, got {size!r}")


def _windows(padded: Array, size: int) -> list[Array]:
    """The pixels of every window, in reading order: shifted views of what `stencil.pad` made."""
    height, width = (side - (size - 1) for side in padded.shape[-2:])
    return [padded[..., i : i + height, j : j + width] for i, j in itertools.product(range(size), repeat=2)]


@functools.partial(jax.jit, static_argnames="size")
def median_denoising(
    rgb: Float[Array, "*batch height width 3"], size: int = 3
) -> Float[Array, "*batch height width 3"]:
    """Replaces the luma by its median over a square window; U and V stay.

    The luma is that of `scipy.ndimage.median_filter`: the border repeats its outermost pixels. The gradient goes to
    the pixel that is the median; pixels of a window that tie for it share the gradient evenly. Forward-mode
    derivatives do not work.

    Args:
        rgb: images.
        size: side of the window, odd. A network of comparisons for its pixels is compiled: 3 and 5 are fast.

    Raises:
        ValueError: an even `size`; no image.
    """
    check_size(size)
    return color.with_luma(rgb, _median(size, color.luma(rgb)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _median(size, plane):
    radius = size // 2
    network = _median_of_9 if size == 3 else functools.partial(_median_of_all, size)
    return stencil.apart(network)(stencil.pad(plane, radius, radius, "symmetric"))


def _median_forward(size, plane):
    median = _median(size, plane)
    return median, (plane, median)


def _median_backward(size, residuals, gradient):
    """Compares with the median again, where differentiated comparisons would keep each of their results."""
    plane, median = residuals

    def share(padded, median, gradient):
        """What each of the pixels that are the median of a window gets from it."""
        return gradient / sum((value == median).astype(gradient.dtype) for value in _windows(padded, size))

    def collect(plane, medians, shares):
        around = zip(_windows(medians, size), _windows(shares, size), strict=True)
        return sum(jnp.where(plane == median, share, 0) for median, share in around)

    pad = functools.partial(stencil.pad, rows=size // 2, cols=size // 2, border="symmetric")
    shares = stencil.apart(share)(pad(plane), median, gradient)
    # A window that reaches over the border sees some pixels again. Reflected, it is a window around a position beyond
    # the border that sees them inside: collecting from reflected windows counts them as often.
    return (stencil.apart(collect)(plane, pad(median), pad(shares)),)


_median.defvjp(_median_forward, _median_backward)


def _median_of_9(padded: Array) -> Array:
    """The medians of 3x3 windows, from columns that are sorted once for the three windows that share them.

    The median of nine is that of three: the greatest of the columns' minima, the median of their medians and the least
    of their maxima. A. W. Paeth, Median finding on a 3x3 grid, Graphics Gems (1990).
    """
    height, width = padded.shape[-2] - 2, padded.shape[-1] - 2
    columns = _sorted([padded[..., i : i + height, :] for i in range(3)])
    least, middle, greatest = ([ranked[..., j : j + width] for j in range(3)] for ranked in columns)
    candidates = functools.reduce(jnp.maximum, least), _sorted(middle)[1], functools.reduce(jnp.minimum, greatest)
    return _sorted(candidates)[1]


def _median_of_all(size: int, padded: Array) -> Array:
    return _sorted(_windows(padded, size))[size**2 // 2]


def _sorted(values: Sequence[Array]) -> list[Array]:
    """Sorts arrays elementwise. Exchanges that no result in use depends on are left out in compiling."""
    values = list(values)
    for i, j in _exchanges(len(values)):
        values[i], values[j] = jnp.minimum(values[i], values[j]), jnp.maximum(values[i], values[j])
    return values


def _exchanges(count: int) -> Iterator[tuple[int, int]]:
    """Batcher's sorting network: D. E. Knuth, The Art of Computer Programming 3, algorithm 5.2.2M."""
    top = 1 << (max(count - 1, 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            yield from ((i, i + d) for i in range(count - d) if i & p == r)
            q, r, d = q // 2, p, q - p
        p //= 2


def bilateral(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    sigma_spatial: Scalar = 0.6,
    sigma_color: Scalar | None = None,
    size: int | None = None,
    *,
    bins: int | None = None,
    centered: bool = False,
) -> Float[Array, "*batch height width 3"]:
    """Averages each pixel with those around it that are near in colour: the bilateral filter.

    C. Tomasi and R. Manduchi, Bilateral filtering for gray and color images, ICCV (1998). A pixel's weight is
    exp(-(spatial distance / sigma_spatial)^2 / 2) * exp(-(colour distance / sigma_color)^2 / 2).

    Follows `skimage.restoration.denoise_bilateral` with its defaults, also in what the paper does not say: colour
    distances are Euclidean, divided by 3 (and times max / (max - min) in images with negative values); beyond the
    border lies black, or the image's least value where that is negative; an image of one value stays as it is.
    scikit-image, in version 0.26 still, builds its table of spatial weights with `size + 1` entries a row and reads
    it as one of `size`. So the spatial weights do not peak at the pixel itself, but with a `size` of 5 two rows below
    and one column to the left of it: the image moves. `centered` is the filter of the paper.

    Forward-mode derivatives do not work.

    Args:
        rgb: images.
        sigma_spatial: standard deviation of distances in pixels, positive; it can be learned.
        sigma_color: standard deviation of colour distances, positive; each image's own, over pixels and channels, if
            it is not given. It can be learned.
        size: side of the window, odd; 3 standard deviations to each side and at least 5 if it is not given.
        bins: rounds colour distances down to as many steps as scikit-image does, 10000 if nothing is said there, for
            the same results. Without, they differ by some 1e-3 at most; the gradients are always those without.
        centered: whether spatial weights peak at the pixel itself.

    Raises:
        ValueError: a `sigma_spatial` that is traced without a `size`; a standard deviation that is not positive; an
            even `size`; fewer than 3 bins; no image.
    """
    size = bilateral_size(sigma_spatial, size)
    check_colors(sigma_color, bins)
    return _bilateral(rgb, sigma_spatial, sigma_color, size, bins, centered)


def check_colors(sigma_color: Scalar | None, bins: int | None) -> None:
    """Raises a ValueError unless `bilateral` takes these two arguments."""
    if sigma_color is not None:
        check_positive("sigma_color", sigma_color)
    if bins is not None and bins < 3:
        raise ValueError(f"bins must be at least 3, one a channel, got {bins}")


def bilateral_size(sigma_spatial: Scalar, size: int | None = None) -> int:
    """The side of the window of `bilateral`: as given, or scikit-image's.

    Raises:
        ValueError: as `bilateral`.
    """
    return window_size("sigma_spatial", sigma_spatial, size, lambda sigma: max(2, math.ceil(3 * sigma)))


@functools.partial(jax.jit, static_argnames=("size", "bins", "centered"))
def _bilateral(rgb, sigma_spatial, sigma_color, size, bins, centered):
    check_image(rgb)
    # The squares of small differences need more than the range of float16.
    dtype, rgb = rgb.dtype, rgb.astype(jnp.promote_types(rgb.dtype, jnp.float32))
    values = rgb.reshape(*rgb.shape[:-3], math.prod(rgb.shape[-3:]))
    low, high = (extreme(values, -1)[..., None, None] for extreme in (jnp.min, jnp.max))
    # An image of one value has no spread and no deviation; what replaces them is not seen in the result.
    constant = low == high
    if sigma_color is None:
        variance = jnp.var(values, -1)[..., None, None]
        # Where the variance underflows, distances do too, and nothing is left to tell colours apart by.
        constant |= variance < jnp.finfo(rgb.dtype).tiny
        sigma_color = jnp.sqrt(jnp.where(constant, 1, variance))
    black = jnp.minimum(low, 0)
    spread = jnp.where(constant, 1, high - black)
    color_rate = (high / spread / 3 / sigma_color) ** 2 / 2
    spatial_rate = jnp.asarray(sigma_spatial, rgb.dtype) ** -2 / 2
    # scikit-image divides integers to find a bin, so that bins are a little wider than what they stand for.
    rounding = None if bins is None else (spread / (bins // 3), spread * 3 / bins)
    planes = tuple(rgb[..., c] - black for c in range(3))
    means = _window_means(size, centered, planes, spatial_rate, color_rate, rounding)
    return jnp.stack([jnp.where(constant, rgb[..., c], mean + black) for c, mean in enumerate(means)], -1).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _window_means(size, centered, planes, spatial_rate, color_rate, rounding):
    """Means over windows, zero beyond the border, weighted by exp(-rate * distance^2) in space and in colour.

    With `rounding`, the width of a bin and what it stands for, colour distances are rounded down.
    """
    means, _ = _window_means_forward(size, centered, planes, spatial_rate, color_rate, rounding)
    return means


def _window_means_forward(size, centered, planes, spatial_rate, color_rate, rounding):
    def average(padded, color_weights, spatial_rate):
        spatial = _spatial_weights(size, centered, spatial_rate)
        weights = [s * w for s, w in zip(spatial, _in_reading_order(size, color_weights, padded[0]), strict=True)]
        total = sum(weights)
        return tuple(_dot(weights, _windows(plane, size)) / total for plane in padded), total

    padded = tuple(stencil.pad(plane, size // 2, size // 2, "zero") for plane in planes)
    color_weights = stencil.apart(functools.partial(_color_weights, size))(padded, color_rate, rounding)
    means, total = stencil.apart(average)(padded, color_weights, spatial_rate)
    return means, (padded, means, total, spatial_rate, color_rate, rounding)


def _window_means_backward(size, centered, residuals, gradients):
    """Gathers from the same windows, where differentiated shifts would scatter each into an image of its own.

    A mean is m = sum_o s_o w_o v_o / t over offsets o, with s_o and w_o the weights in space and colour, and t their
    sum. With a = (gradient for m) / t, the gradient for log w_o is s_o w_o (a.v_o - a.m), a sum over channels. The
    pixel at o has the same w for the way back; its own s, a and m give it the other half of the gradient for w.
    """
    padded, means, total, spatial_rate, color_rate, rounding = residuals

    def scale(gradients, means, total):
        scaled = tuple(gradient / total for gradient in gradients)
        return (*scaled, _dot(scaled, means))

    def gather(padded, color_weights, scaled, spatial_rate, color_rate):
        distances, spatial = _squared_distances(size, centered), _spatial_weights(size, centered, spatial_rate)
        weights = _in_reading_order(size, color_weights, padded[0])
        values = list(zip(*(_windows(plane, size) for plane in padded), strict=True))
        scaled = list(zip(*(_windows(plane, size) for plane in scaled), strict=True))
        v, (*a, am) = values[size**2 // 2], scaled[size**2 // 2]
        gradients, spatial_gradient, color_gradient = [0, 0, 0], 0, 0
        for distance, s, s_back, w, v_o, (*a_o, am_o) in zip(
            distances, spatial, reversed(spatial), weights, values, scaled, strict=True
        ):
            own = s * w * (_dot(a, v_o) - am)
            other = s_back * w * (_dot(a_o, v) - am_o)
            difference = [there - here for there, here in zip(v_o, v, strict=True)]
            pull = 2 * color_rate * (own + other)
            gradients = [g + s_back * w * x + pull * d for g, x, d in zip(gradients, a_o, difference, strict=True)]
            spatial_gradient -= distance * own
            color_gradient -= _dot(difference, difference) * own
        return tuple(gradients), spatial_gradient, color_gradient

    scaled = stencil.apart(scale)(gradients, means, total)
    scaled = tuple(stencil.pad(plane, size // 2, size // 2, "zero") for plane in scaled)
    color_weights = stencil.apart(functools.partial(_color_weights, size))(padded, color_rate, None)
    gradients, spatial_gradient, color_gradient = stencil.apart(gather)(
        padded, color_weights, scaled, spatial_rate, color_rate
    )
    color_gradient = color_gradient.sum((-2, -1), keepdims=True)
    return gradients, spatial_gradient.sum(), color_gradient, jax.tree.map(jnp.zeros_like, rounding)


_window_means.defvjp(_window_means_forward, _window_means_backward)


def _squared_distances(size: int, centered: bool) -> list[int]:
    """From a pixel to each of its window in reading order; or what scikit-image takes for that, see `bilateral`."""
    side = size if centered else size + 1
    offsets = np.arange(side) - side // 2
    return np.add.outer(offsets**2, offsets**2).ravel()[: size**2].tolist()


def _spatial_weights(size: int, centered: bool, spatial_rate: Array) -> list[Array]:
    return [jnp.exp(-spatial_rate * distance) for distance in _squared_distances(size, centered)]


def _following(size: int) -> list[tuple[int, int]]:
    """The offsets in reading order from a pixel to those of its window that follow it."""
    offsets = itertools.product(range(-(size // 2), size // 2 + 1), repeat=2)
    return [offset for offset in offsets if offset > (0, 0)]


def _color_weights(
    size: int, padded: Sequence[Array], color_rate: Array, rounding: tuple[Array, Array] | None
) -> list[Array]:
    """For each offset in `_following`, the weight of two pixels that are so far apart in each other's mean.

    The earlier pixel of the two ranges over the image, and as far beyond that the later one ranges over the image too.
    """
    radius = size // 2
    height, width = (side - 2 * radius for side in padded[0].shape[-2:])
    weights = []
    for y, x in _following(size):
        top, left, right = radius - y, radius - max(x, 0), radius - min(x, 0)
        earlier = (..., slice(top, radius + height), slice(left, right + width))
        later = (..., slice(top + y, radius + height + y), slice(left + x, right + width + x))
        differences = [plane[later] - plane[earlier] for plane in padded]
        squares = _dot(differences, differences)
        if rounding is not None:
            width_of_bin, value_of_bin = rounding
            squares = (jnp.floor(jnp.sqrt(squares) / width_of_bin) * value_of_bin) ** 2
        weights.append(jnp.exp(-color_rate * squares))
    return weights


def _in_reading_order(size: int, color_weights: Sequence[Array], padded: Array) -> list[Array]:
    """The weights of every window's pixels in reading order, where those of one half are as in the other."""
    height, width = (side - (size - 1) for side in padded.shape[-2:])
    following = list(zip(_following(size), color_weights, strict=True))
    after = [w[..., y : y + height, max(x, 0) : max(x, 0) + width] for (y, x), w in following]
    before = [w[..., :height, max(-x, 0) : max(-x, 0) + width] for (_, x), w in following]
    return [*reversed(before), jnp.ones((), padded.dtype), *after]


def _dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    return sum(x * y for x, y in zip(a, b, strict=True))
