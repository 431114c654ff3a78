"""Tone: curves that map linear light to display values, and local tone mapping. `isp.color` has the gamma curve."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp._kernels import planes, powers, stencil, xla
from isp._kernels.checks import Scalar, check_image, check_positive, check_size

# The luminance of linear sRGB, from IEC 61966-2-1 (ITU-R BT.709).
LUMINANCE = (0.2126, 0.7152, 0.0722)


@jax.jit
def srgb(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Applies the tone curve of sRGB (IEC 61966-2-1).

    Values up to 0.0031308, including negative ones, are multiplied by 12.92; others become 1.055 x^(1/2.4) - 0.055.
    Unlike `gamma_correct`, the curve has a finite slope at 0.

    Example:
        >>> np.asarray(isp.tone.srgb(jnp.array([[[0.001, 0.2140, 1.0]]]))).round(4)
        array([[[0.0129, 0.5   , 1.    ]]], dtype=float32)
    """
    check_image(rgb)
    return xla.unfused(_srgb)(rgb)


def _srgb(light: Array) -> Array:
    dark = light <= 0.0031308
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    bright = 1.055 * powers.exp2(powers.log2(jnp.where(dark, 1, light)) * (1 / 2.4)) - 0.055
    return jnp.where(dark, 12.92 * light, bright)


@jax.jit
def contrast(
    rgb: Float[Array, "*batch height width 3"], amount: Scalar, pivot: Scalar = 0.5
) -> Float[Array, "*batch height width 3"]:
    """Stretches all values away from a pivot: pivot + amount * (rgb - pivot). Nothing is clipped.

    Args:
        rgb: Images `(..., H, W, 3)`, usually after a tone curve.
        amount: The factor; 1 changes nothing.
        pivot: The value that stays unchanged.
    """
    check_image(rgb)
    return rgb * jnp.asarray(amount, rgb.dtype) + jnp.asarray(pivot * (1 - amount), rgb.dtype)


@jax.jit
def curve(
    rgb: Float[Array, "*batch height width 3"], rises: Float[Array | np.ndarray, " segments"]
) -> Float[Array, "*batch height width 3"]:
    """Applies a tone curve of straight segments that rises everywhere, whatever its parameters.

    The curve goes from (0, 0) to (1, 1) through knots at equal distances. The rise of each segment is the softmax of
    its parameter, so it is positive, and the rises sum to 1. Equal parameters change nothing. The first and the last
    segment continue beyond [0, 1].

    Args:
        rises: The logarithms of the segments' rises, up to a common constant; a ValueError refuses all but vectors.

    Example:
        The lower half of the range takes up three quarters of it.

        >>> rgb = np.array([[[0.0, 0.25, 0.5]], [[0.75, 1.0, 2.0]]], np.float32)
        >>> np.asarray(isp.tone.curve(rgb, np.log(np.float32([3, 1])))).round(3)
        array([[[0.   , 0.375, 0.75 ]],
        <BLANKLINE>
               [[0.875, 1.   , 1.5  ]]], dtype=float32)
    """
    check_image(rgb)
    if rises.ndim != 1 or not rises.size:
        raise ValueError(f"rises must have shape (segments,), got {rises.shape}")
    # Inside the unit, XLA would compute the rises for each value.
    return xla.unfused(_segments)(rgb, jax.nn.softmax(jnp.asarray(rises, rgb.dtype)))


def _segments(values: Array, rises: Array) -> Array:
    """Adds up the part of each segment that lies below a value, which rises with the value, even after rounding."""
    count = len(rises)
    raised = jnp.zeros_like(values)
    for k in range(count):
        part = values * count - k
        part = part if k == 0 else jnp.maximum(part, 0)
        part = part if k == count - 1 else jnp.minimum(part, 1)
        raised += rises[k] * part
    return raised


def local_tone_map(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    strength: Scalar = 0.3,
    detail: Scalar = 1.0,
    *,
    smoothness: float = 0.1,
    size: int = 9,
    cell: int = 4,
    floor: float = 1e-3,
) -> Float[Array, "*batch height width 3"]:
    """Compresses large luminance contrasts, and keeps or scales small ones.

    The logarithm of the luminance is split into a base, which a guided filter smooths except at strong edges, and the
    detail on top of it. The base is multiplied by 1 - strength and the detail by `detail`. The resulting change of
    luminance is one factor for all channels of a pixel. White stays unchanged, and dark areas are brightened.

    The base follows K. He, J. Sun and X. Tang, "Guided image filtering", IEEE Transactions on Pattern Analysis and
    Machine Intelligence 35(6) (2013), with the image as its own guide: means and variances over square windows give a
    line through the values of each window, and each pixel takes the mean of its windows' lines. As in K. He and J. Sun,
    "Fast guided filter", arXiv:1505.00996 (2015), the windows consist of cells, whose lines are interpolated
    bilinearly; with a `cell` of 1, the base is exactly the first paper's. Windows that reach over the border see the
    reflected image.

    Args:
        rgb: Images `(..., H, W, 3)` in linear light.
        strength: The fraction of the base's contrast to remove: 0 for none, 1 for all.
        detail: The factor for the detail's contrast; 1 keeps it.
        smoothness: The variance of the logarithm, positive, above which an edge belongs to the base.
        size: The side of the windows in cells, odd.
        cell: The side of a cell in pixels, at least 1.
        floor: The luminance, positive, that is added before the logarithm. It limits the brightening of black areas to
            a factor of `floor ** -strength`.

    Raises:
        ValueError: `smoothness`, `cell` or `floor` is not positive, or `size` is not odd.

    Example:
        A dark scene, 1/100 as bright as the sky beside it, becomes 1/25 as bright.

        >>> rgb = np.full((64, 64, 3), 0.01, np.float32)
        >>> rgb[:, :32] = 1.0
        >>> np.asarray(isp.tone.local_tone_map(rgb, strength=0.3))[32, [0, 63], 0].round(2)
        array([1.  , 0.04], dtype=float32)
    """
    check_positive("smoothness", smoothness)
    check_positive("floor", floor)
    check_positive("cell", cell)
    check_size(size)
    return _local_tone_map(rgb, strength, detail, smoothness, size, cell, floor)


@jax.jit(static_argnames=("smoothness", "size", "cell", "floor"))
def _local_tone_map(
    rgb: Array, strength: Scalar, detail: Scalar, smoothness: float, size: int, cell: int, floor: float
) -> Array:
    check_image(rgb)
    *batch, height, width, _ = rgb.shape
    channels = planes.split(rgb)
    luminance = stencil.total(weight * plane for weight, plane in zip(LUMINANCE, channels, strict=True))
    logarithm = xla.unfused_with(_logarithm, floor)(luminance.reshape(-1, height, width))
    slope, intercept = _lines(logarithm, smoothness, size, cell)
    factor = xla.unfused_with(_factor, cell)
    factors = factor(logarithm, slope, intercept, jnp.asarray(strength), jnp.asarray(detail))
    factors = factors.reshape(*batch, height, width)
    return jnp.stack([plane * factors for plane in channels], -1)


def _logarithm(floor: float, luminance: Array) -> Array:
    return jnp.log(jnp.maximum(luminance, 0) + floor)


def _lines(guide: Array, smoothness: float, size: int, cell: int) -> tuple[Array, Array]:
    """Computes the mean slope and intercept of the windows around each cell, interpolated along rows."""
    cells = xla.unfused_with(_cell_means, cell)(guide)
    mean, square = _window_means(cells, size), _window_means(cells * cells, size)

    def line(mean: Array, square: Array) -> tuple[Array, Array]:
        variance = jnp.maximum(square - mean * mean, 0)
        slope = variance / (variance + smoothness)
        return slope, (1 - slope) * mean

    slope, intercept = xla.unfused(line)(mean, square)
    width = guide.shape[-1]
    stretch = xla.unfused_with(_stretched, cell, width)
    return stretch(_window_means(slope, size)), stretch(_window_means(intercept, size))


def _cell_means(cell: int, guide: Array) -> Array:
    """Averages the guide over cells; incomplete cells at the border repeat the guide's outermost pixels."""
    batch, height, width = guide.shape
    rows, cols = -(-height // cell), -(-width // cell)
    guide = jnp.pad(guide, [(0, 0), (0, rows * cell - height), (0, cols * cell - width)], "edge")
    # Rows are added first, since that vectorizes.
    by_rows = guide.reshape(batch, rows, cell, cols * cell)
    in_rows = stencil.total(by_rows[:, :, i] for i in range(cell)).reshape(batch, rows, cols, cell)
    return stencil.total(in_rows[..., i] for i in range(cell)) / cell**2


def _window_means(plane: Array, size: int) -> Array:
    weights = np.full(size, 1 / size)
    along_columns = stencil.correlate(plane, weights[:, None].astype(plane.dtype), "symmetric")
    return stencil.correlate(along_columns, weights[None].astype(plane.dtype), "symmetric")


def _phases(cell: int) -> np.ndarray:
    """Makes the weights of the previous, current and next cell for each pixel of a cell."""
    place = (np.arange(cell) + 0.5) / cell - 0.5
    return np.stack([np.maximum(-place, 0), 1 - np.abs(place), np.maximum(place, 0)])


def _stretched(cell: int, width: int, plane: Array) -> Array:
    """Interpolates the cells of each row to pixels."""
    batch, rows, cols = plane.shape
    padded = jnp.pad(plane, [(0, 0), (0, 0), (1, 1)], "edge")[..., None]
    weights = _phases(cell).astype(plane.dtype)
    pixels = stencil.total(padded[:, :, i : i + cols] * weights[i] for i in range(3))
    return pixels.reshape(batch, rows, cols * cell)[..., :width]


def _factor(cell: int, logarithm: Array, slope: Array, intercept: Array, strength: Array, detail: Array) -> Array:
    """Interpolates the cells of each column to pixels, and computes the factor of each pixel's channels."""
    batch, height, width = logarithm.shape
    rows = slope.shape[1]
    weights = _phases(cell).astype(slope.dtype)[..., None]

    def pixels(plane: Array) -> Array:
        padded = jnp.pad(plane, [(0, 0), (1, 1), (0, 0)], "edge")[:, :, None]
        return stencil.total(padded[:, i : i + rows] * weights[i] for i in range(3))

    logarithm = jnp.pad(logarithm, [(0, 0), (0, rows * cell - height), (0, 0)]).reshape(batch, rows, cell, width)
    base = pixels(slope) * logarithm + pixels(intercept)
    factors = jnp.exp((detail - 1) * (logarithm - base) - strength * base)
    return factors.reshape(batch, rows * cell, width)[:, :height]
