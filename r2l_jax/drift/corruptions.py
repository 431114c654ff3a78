"""Common corruptions of finished images, at five severities: what robustness is mostly tested with.

D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR
(2019), with the strengths of CIFAR-10-C and what scikit-image, SciPy and OpenCV make of them in its published code.
They know nothing of the raw data or of the processing, and are what drift made there is compared with.

Each is a function of images `(..., H, W, 3)` in [0, 1], a key and a severity 1 to 5, and gives images in [0, 1]. The
same key gives the same noise, each image its own; the ones without random numbers leave the key alone. The severity
may be traced, and one compiled function serves all five.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from isp import color, sensor
from isp._engine import stencil
from isp._engine.checks import check_image
from r2l_jax.runtime.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)

Images = Float[Array | np.ndarray, "*batch height width 3"]
Severity = int | np.integer | Int[Array, ""]
Corruption = Callable[[Images, PRNGKeyArray, Severity], Float[Array, "*batch height width 3"]]


def _corruption(function: Callable) -> Corruption:
    """The function with its arguments checked, compiled once for all severities, and computed in 32 bits at least."""

    @jax.jit
    @functools.wraps(function)
    def compiled(images, key, severity):
        exact = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        return function(exact, key, severity).astype(images.dtype)

    @functools.wraps(function)
    def corrupt(images, key, severity):
        if not isinstance(severity, jax.core.Tracer) and severity not in SEVERITIES:
            raise InputError(f"severity must be a whole number from 1 to 5, got {severity}")
        images = jnp.asarray(images)
        check_image(images)
        # Each type of a number would be compiled for.
        return compiled(images, key, jnp.asarray(severity, jnp.int32))

    return corrupt


def _strength(severity: Array, strengths: Sequence) -> Array:
    """Of strengths for all severities, those for one. A traced one cannot be checked: it is brought into 1 to 5."""
    return jnp.asarray(strengths, float)[jnp.clip(severity - 1, 0, len(SEVERITIES) - 1)]


@_corruption
def identity(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """The images as they are: what the others are compared with.

    Raises:
        InputError: a severity that is not 1 to 5, unless it is traced. So does every corruption.
        ValueError: images that are not floating point `(..., H, W, 3)`. So does every corruption.
    """
    return images


@_corruption
def gaussian_noise(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Adds Gaussian noise of one standard deviation everywhere, from 0.04 to 0.10."""
    return _add_normal(images, key, _strength(severity, (0.04, 0.06, 0.08, 0.09, 0.10)))


@_corruption
def shot_noise(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Counts photons: Poisson noise where white is 500 photons, down to 50.

    Values are multiples of 1 / photons. From 16 photons on they are rounded normal numbers, see `sensor.poisson`, of
    which the variance is 1/12 greater. It differentiates as the mean does.
    """
    return _count(images, key, _strength(severity, (500, 250, 100, 75, 50)))


@_corruption
def impulse_noise(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Replaces 1 to 7 percent of the values, each by itself, by 0 or 1, which are equally likely: salt and pepper."""
    return _replace(images, key, _strength(severity, (0.01, 0.02, 0.03, 0.05, 0.07)))


@_corruption
def speckle_noise(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Multiplies by 1 and Gaussian noise, of a standard deviation from 0.06 to 0.2."""
    return _multiply_normal(images, key, _strength(severity, (0.06, 0.1, 0.12, 0.16, 0.2)))


# Random numbers are drawn within these, for a vector: drawn for images, they take three times as long on a CPU.
@stencil.pointwise
def _add_normal(values, key, std):
    return jnp.clip(values + std * jax.random.normal(key, values.shape, values.dtype), 0, 1)


@stencil.pointwise
def _multiply_normal(values, key, std):
    return jnp.clip(values * (1 + std * jax.random.normal(key, values.shape, values.dtype)), 0, 1)


@stencil.pointwise
def _count(values, key, photons):
    counted = jnp.round(sensor.poisson(key, jax.lax.stop_gradient(values) * photons)) / photons
    return jnp.clip(values + jax.lax.stop_gradient(counted - values), 0, 1)


@stencil.pointwise
def _replace(values, key, amount):
    drawn = jax.random.uniform(key, values.shape, values.dtype)
    return jnp.where(drawn < amount, (drawn < amount / 2).astype(values.dtype), values)


@_corruption
def gaussian_blur(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Blurs by a Gaussian of a standard deviation from 0.4 to 1 pixels, cut off at 4 of them.

    As `skimage.filters.gaussian`: the border goes on as its outermost pixels.
    """
    taps = _strength(severity, [_gaussian_taps(sigma) for sigma in (0.4, 0.6, 0.7, 0.8, 1.0)])
    # The stencil's own border, which is none of this kind, is cut off.
    reach = len(taps) // 2
    margins = [(0, 0)] * (images.ndim - 2) + [(reach, reach)] * 2
    planes = jnp.pad(jnp.moveaxis(images, -1, -3), margins, "edge")
    planes = stencil.correlate(planes, taps[:, None], "zero")[..., reach:-reach, :]
    planes = stencil.correlate(planes, taps[None, :], "zero")[..., reach:-reach]
    return jnp.clip(jnp.moveaxis(planes, -3, -1), 0, 1)


def _gaussian_taps(sigma: float) -> np.ndarray:
    """SciPy's weights, each sigma with its own support, and zeros up to that of a sigma of 1."""
    offsets = np.arange(-4, 5)
    taps = np.exp(-((offsets / sigma) ** 2) / 2) * (abs(offsets) <= int(4 * sigma + 0.5))
    return taps / taps.sum()


# Every severity's factors are the first of these. The published code's steps in floating point decide how many there
# are, 1.06 among the first, and how sizes round.
_ZOOM_FACTORS = np.arange(1, 1.26, 0.01)
_ZOOMS = tuple(len(np.arange(1, end, 0.01)) for end in (1.06, 1.11, 1.16, 1.21, 1.26))


@_corruption
def zoom_blur(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """The mean of the image and of zooms into its centre, in steps of 0.01 up to a factor from 1.06 to 1.25.

    Linear interpolation as by `scipy.ndimage.zoom`, of the middle of the image, cropped. Of images that are not square,
    which the published code does not take, each axis is zoomed by itself.
    """
    height, width, channels = images.shape[-3:]
    # Pixels that are vectors over the batch: on a CPU, this is ten times as fast as products with matrices, or as
    # images one by one, which vmap makes of it.
    pixels = jnp.moveaxis(images.reshape(-1, *images.shape[-3:]), 0, 2)
    depth = pixels.shape[2] * channels
    pixels = pixels.reshape(height, width, depth)

    def add(total, zoom):
        used, rows, columns = zoom
        rows, columns = [axis[:, None] for axis in rows], [axis[None, :] for axis in columns]
        return total + used * _between_pixels(pixels, rows, columns), None

    count = _strength(severity, _ZOOMS)
    used = (jnp.arange(len(_ZOOM_FACTORS)) < count).astype(images.dtype)
    total, _ = jax.lax.scan(add, pixels, (used, _zoom_positions(height), _zoom_positions(width)))
    mean = (total / (count + 1)).reshape(height, width, -1, channels)
    return jnp.clip(jnp.moveaxis(mean, 2, 0).reshape(images.shape), 0, 1)


def _zoom_positions(size: int) -> tuple[Array, Array, Array]:
    """For each zoom, where an axis' pixels lie in the image: the pixel before, the next, and how far on the way."""
    positions = []
    for factor in _ZOOM_FACTORS:
        cropped = math.ceil(size / factor)
        zoomed = round(cropped * factor)
        start, trimmed = (size - cropped) // 2, (zoomed - size) // 2
        # The first and the last pixel of the crop stay the first and the last of its zoom.
        positions.append(start + (np.arange(size) + trimmed) * ((cropped - 1) / max(zoomed - 1, 1)))
    before = np.floor(positions)
    after = np.minimum(before + 1, size - 1)
    # Split in float64: of a position in float32, too little would be left for the way.
    return jnp.asarray(before, jnp.int32), jnp.asarray(after, jnp.int32), jnp.asarray(positions - before, float)


def _between_pixels(image, rows, columns):
    """Linear interpolation of `(H, W, channels)`; for either axis the index before, the next, and the way to it."""
    (above, below, down), (before, after, right) = rows, columns
    down, right = down[..., None], right[..., None]

    def pixel(row, column):
        return image.at[row, column].get(mode="promise_in_bounds")

    upper = pixel(above, before) * (1 - right) + pixel(above, after) * right
    lower = pixel(below, before) * (1 - right) + pixel(below, after) * right
    return upper * (1 - down) + lower * down


@_corruption
def contrast(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Brings values nearer to their channel's mean over the image: to 0.75 of the distance, down to 0.15."""
    share = _strength(severity, (0.75, 0.5, 0.4, 0.3, 0.15))
    mean = images.mean((-3, -2), keepdims=True)
    return jnp.clip((images - mean) * share + mean, 0, 1)


@_corruption
def brightness(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Adds from 0.05 to 0.3 to the value, the V of HSV, up to 1; hue and saturation stay."""
    return _change_hsv(images, jnp.ones(3), jnp.zeros(3).at[2].set(_strength(severity, (0.05, 0.1, 0.15, 0.2, 0.3))))


@_corruption
def saturate(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Changes the saturation, the S of HSV, by a linear function, up to 1; hue and value stay.

    The first two severities lessen it, to 0.3 and 0.1 of what it was. The others raise it, the last two by a constant
    too, which turns greys red, the colour of hue 0.
    """
    factor, more = _strength(severity, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)))
    return _change_hsv(images, jnp.ones(3).at[1].set(factor), jnp.zeros(3).at[1].set(more))


def _change_hsv(images, factors, more):
    hsv = jnp.clip(color.rgb_to_hsv(images) * factors + more, 0, 1)
    return jnp.clip(color.hsv_to_rgb(hsv), 0, 1)


@_corruption
def elastic_transform(images: Images, key: PRNGKeyArray, severity: Severity) -> Float[Array, "*batch height width 3"]:
    """Moves and shears the image a little, and wobbles it: `elastic_warp` of uniform random numbers.

    The strengths are fractions of the shorter side, where CIFAR-10-C's are of 32 pixels: points are shifted by 0.08,
    0.07, 0.06, 0.05, 0.03 at most; the noise, in [-1, 1], is smoothed by 0, 0.2, 0.06, 0.04, 0.03 and multiplied by 0,
    0.05, 0.08, 0.1, 0.1. It is that of single pixels, of which more average out in a larger image: the wobble is of
    as many pixels in any image, but longer waves.
    """
    *batch, height, width, _ = images.shape
    strengths = ((0.08, 0, 0), (0.07, 0.2, 0.05), (0.06, 0.06, 0.08), (0.05, 0.04, 0.1), (0.03, 0.03, 0.1))
    reach, sigma, amplitude = _strength(severity, strengths) * min(height, width)
    # One vector: of more axes, or in two parts, random numbers take longer to draw and to compile.
    points = 3 * 2
    count = points + 2 * height * width
    drawn = jax.random.uniform(key, (math.prod(batch) * count,), images.dtype, -1, 1).reshape(*batch, count)
    shifts = reach * drawn[..., :points].reshape(*batch, 3, 2)
    noise = drawn[..., points:].reshape(*batch, 2, height, width)
    return jnp.clip(elastic_warp(images, shifts, noise, sigma, amplitude), 0, 1)


@jax.jit
def elastic_warp(
    images: Float[Array, "*batch height width 3"],
    shifts: Float[Array, "*batch 3 2"],
    noise: Float[Array, "*batch 2 height width"],
    sigma: Float[Array, ""] | float,
    amplitude: Float[Array, ""] | float,
) -> Float[Array, "*batch height width 3"]:
    """Warps each image by an affine map, and the result by smoothed noise; with linear interpolation each time.

    The affine map moves three points: those a third of the shorter side right of and below the middle, right of and
    above it, and left of and above it, where the middle is pixel (H // 2, W // 2). Beyond the border the image is
    mirrored about its outermost pixels. This is `cv2.warpAffine` with `BORDER_REFLECT_101`, but for its rounding of
    positions to 1/32 of a pixel. Then each pixel is taken from elsewhere, as by `scipy.ndimage.map_coordinates` with
    mode "reflect", which repeats the outermost pixels.

    Args:
        images: `(..., H, W, 3)`.
        shifts: of each of the three points, how many pixels it moves to the right and down.
        noise: how far down and how far to the right each pixel is taken from, before smoothing and amplitude.
        sigma: standard deviation in pixels of the Gaussian that smooths the noise, up to 0.3 of the shorter side. It is
            cut off at 3 of them, over reflected borders.
        amplitude: factor on the smoothed noise.
    """
    height, width = images.shape[-3:-1]
    distance = max(min(height, width) // 3, 1)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    rows, columns = _before_shifts(shifts[..., None, None], y - height // 2, x - width // 2, distance)
    warped = _interpolate(images, rows + height // 2, columns + width // 2, _mirrored)
    displacement = amplitude * _smooth(noise, sigma)
    return _interpolate(warped, y + displacement[..., 0, :, :], x + displacement[..., 1, :, :], _reflected)


def _before_shifts(shifts, rows, columns, distance):
    """The affine map that undoes shifts of the three points of `elastic_warp`, which are so far from the origin."""
    first, second, third = (shifts[..., i, :, :, :] for i in range(3))
    # Forward, p goes to L p + t. Points that differ along one axis only give the columns of L, and opposite ones t.
    along, down = (second - third) / (2 * distance), (first - second) / (2 * distance)
    xx, yx, xy, yy = 1 + along[..., 0, :, :], along[..., 1, :, :], down[..., 0, :, :], 1 + down[..., 1, :, :]
    columns = columns - (first + third)[..., 0, :, :] / 2
    rows = rows - (first + third)[..., 1, :, :] / 2
    determinant = xx * yy - xy * yx
    return (xx * rows - yx * columns) / determinant, (yy * columns - xy * rows) / determinant


def _interpolate(images, rows, columns, inside):
    """Images at positions `(..., H, W)` each, with indices beyond the border brought inside."""

    def axis(positions, size):
        before = jnp.floor(positions)
        index = before.astype(jnp.int32)
        return inside(index, size), inside(index + 1, size), positions - before

    def one(image, rows, columns):
        return _between_pixels(image, axis(rows, image.shape[0]), axis(columns, image.shape[1]))

    flat = images.reshape(-1, *images.shape[-3:])
    positions = (array.reshape(-1, *array.shape[-2:]) for array in (rows, columns))
    # Fused, the first of two would be computed again for each of the four pixels that the second reads.
    return stencil.apart(jax.vmap(one))(flat, *positions).reshape(images.shape)


def _mirrored(index, size):
    """Row -1 is row 1."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return jnp.minimum(index, period - index)


def _reflected(index, size):
    """Row -1 is row 0."""
    index = index % (2 * size)
    return jnp.minimum(index, 2 * size - 1 - index)


def _smooth(planes: Float[Array, "*batch height width"], sigma: Array) -> Float[Array, "*batch height width"]:
    """Smooths planes by products with matrices, as the Gaussian may be as wide as they are."""
    down, along = (_smoothing(size, sigma) for size in planes.shape[-2:])
    return jnp.matmul(jnp.matmul(down, planes, precision="highest"), along.T, precision="highest")


def _smoothing(size: int, sigma: Array) -> Float[Array, "size size"]:
    """The weights of an axis' pixels, in rows: a Gaussian's around each, and those that its reflections would have."""
    to, of = jnp.arange(size)[:, None], jnp.arange(size)
    distances = jnp.stack([of - to, -1 - of - to, 2 * size - 1 - of - to])
    # Of a sigma of 0, only the pixel itself is left.
    gaussian = jnp.exp(-((distances / jnp.maximum(sigma, 0.01)) ** 2) / 2)
    weights = jnp.where(abs(distances) <= jnp.floor(3 * sigma + 0.5), gaussian, 0).sum(0)
    return weights / weights.sum(1, keepdims=True)


class _Corruptions(dict[str, Corruption]):
    """By their names, with a message for one that is none."""

    def __missing__(self, name):
        raise InputError(f"a corruption must be one of {', '.join(self)}, got {name!r}")


# As in the paper's tables, noise first.
CORRUPTIONS: Mapping[str, Corruption] = _Corruptions(
    (corruption.__name__, corruption)
    for corruption in (
        identity,
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        zoom_blur,
        contrast,
        brightness,
        saturate,
        elastic_transform,
    )
)
