"""Color: gains, highlights, matrices, luma, color spaces and gamma. Nothing clips unless it says so.

Functions compute channel by channel and stack the channels at the end. The gradient of a broadcast along the last axis
would be a sum over that axis, and sums over only three neighbors are slow.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._kernels import planes, powers, xla
from isp._kernels.checks import Scalar, check_image

#: The matrix `(3, 3)` from RGB to luma and color differences of ITU-R BT.601, in rows Y, U, V. U and V of a gray are
#: exactly zero, so the first column of the inverse is ones: adding to Y adds the same to R, G and B.
#:
#: :meta hide-value:
RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14714119, -0.28886916, 0.43601035], [0.61497538, -0.51496512, -0.10001026]]
)
#: The inverse of `RGB_TO_YUV`.
#:
#: :meta hide-value:
YUV_TO_RGB = np.linalg.inv(RGB_TO_YUV)

# The treatments of saturated pixels for `highlights`.
Mode = Literal["clip", "desaturate"]
MODES = ("clip", "desaturate")

# Channels that differ by no more than this count as equal; with smaller limits, the derivatives of hue would overflow
# float32.
_NO_CHROMA = 1e-15

# Linear sRGB to XYZ, in rows X, Y, Z, and the white of D65 for the observer of 2 degrees, as in scikit-image.
_SRGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_D65 = (0.95047, 1.0, 1.08883)


@jax.jit
def white_balance(
    rgb: Float[Array, "*batch height width 3"], gains: Float[Array, "3"]
) -> Float[Array, "*batch height width 3"]:
    """Multiplies each channel by its gain: out_c = gains[c] * rgb_c."""
    check_image(rgb)
    return jnp.stack([plane * gains[channel] for channel, plane in enumerate(planes.split(rgb))], -1)


@jax.jit(static_argnames=("pattern", "clip"))
def balance_mosaic(
    raw: Shaped[Array, "..."], gains: Float[Array, "3"], *, pattern: str = "RGGB", clip: bool = False
) -> Float[Array, "*batch height width"]:
    """Multiplies each site by the gain of its color, so that grays have equal channels before demosaicing.

    Args:
        clip: Whether to clip at the smallest gain, below which no color is saturated. This makes saturated areas white,
            as the mode "clip" of `isp.color.highlights` does for images.
    """
    cfa.check_mosaic(raw)
    *batch, height, width = raw.shape
    by_site = planes.rows_of_sites(gains[cfa.tile(pattern)], height, width)
    balanced = raw.reshape(*batch, height // len(by_site), len(by_site), width) * by_site
    if clip:
        # Not jnp.min, because XLA would recompute the reduction for each site.
        balanced = jnp.minimum(balanced, functools.reduce(jnp.minimum, [gains[channel] for channel in range(3)]))
    return balanced.reshape(raw.shape)


def highlights(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    gains: Float[Array | np.ndarray, "3"],
    mode: Mode = "clip",
    start: float = 0.8,
) -> Float[Array, "*batch height width 3"]:
    """Makes saturated pixels neutral in images to which the gains have been applied.

    Args:
        rgb: Images `(..., H, W, 3)` after the gains.
        gains: The gains that have been applied, positive. They are the levels at which the channels saturate; the
            smallest is the level of white.
        mode: "clip" clips each channel at the level of white, as the mode 0 of dcraw and LibRaw does. "desaturate" also
            fades pixels to white as one of their channels approaches its saturation level, by the smooth step
            3 x^2 - 2 x^3, which no paper prescribes.
        start: The fraction of a channel's saturation level at which "desaturate" begins to fade, in [0, 1).

    Returns:
        The images `(..., H, W, 3)`, with no value above the smallest gain.

    Raises:
        ValueError: `mode` is unknown, or `start` is outside [0, 1).

    Example:
        >>> gains = jnp.array([2.0, 1.0, 1.5])
        >>> saturated = isp.color.white_balance(jnp.array([[[1.0, 1.0, 1.0], [0.3, 0.5, 0.4]]]), gains)
        >>> isp.color.highlights(saturated, gains)
        Array([[[1. , 1. , 1. ],
                [0.6, 0.5, 0.6]]], dtype=float32)
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 <= start < 1:
        raise ValueError(f"start must be in [0, 1), got {start}")
    return _highlights(rgb, gains, mode, start)


@jax.jit(static_argnames=("mode", "start"))
def _highlights(rgb: Array, gains: Array, mode: Mode, start: float) -> Array:
    check_image(rgb)
    # Not jnp.min, because XLA would recompute the reduction for each pixel.
    white = functools.reduce(jnp.minimum, [gains[channel] for channel in range(3)])
    channels = planes.split(rgb)
    clipped = [jnp.minimum(plane, white) for plane in channels]
    if mode == "clip":
        return jnp.stack(clipped, -1)
    red, green, blue = (plane / gains[channel] for channel, plane in enumerate(channels))
    fullest = jnp.maximum(jnp.maximum(red, green), blue)
    rise = jnp.clip((fullest - start) / (1 - start), 0, 1)
    fade = rise * rise * (3 - 2 * rise)
    return jnp.stack([plane + fade * (white - plane) for plane in clipped], -1)


@jax.jit
def color_correct(
    rgb: Float[Array, "*batch height width 3"], matrix: Float[Array, "3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Applies a color matrix to every pixel: out_k = sum_c matrix[k, c] * rgb_c.

    Example:
        >>> swap_red_and_blue = jnp.eye(3)[::-1]
        >>> isp.color.color_correct(jnp.array([[[0.25, 0.5, 0.75]]]), swap_red_and_blue)
        Array([[[0.75, 0.5 , 0.25]]], dtype=float32)
    """
    check_image(rgb)
    # Sums instead of a matrix product: matrix units would gain nothing from three terms, and would round to a shorter
    # format.
    channels = planes.split(rgb)
    return jnp.stack([sum(plane * matrix[k, c] for c, plane in enumerate(channels)) for k in range(3)], -1)


def rgb_to_yuv(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from RGB to YUV, the luma and color differences of ITU-R BT.601.

    Returns:
        The images `(..., H, W, 3)` as Y, U, V. For RGB in [0, 1], Y is in [0, 1], and U and V are 0 for grays.
    """
    return color_correct(rgb, jnp.asarray(RGB_TO_YUV, rgb.dtype))


def yuv_to_rgb(yuv: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from YUV to RGB; undoes `rgb_to_yuv`."""
    return color_correct(yuv, jnp.asarray(YUV_TO_RGB, yuv.dtype))


@jax.jit
def luma(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width"]:
    """Computes the luma of ITU-R BT.601, the Y of `rgb_to_yuv`: 0.299 R + 0.587 G + 0.114 B."""
    check_image(rgb)
    return _luma(*planes.split(rgb))


def _luma(red: Array, green: Array, blue: Array) -> Array:
    of_red, of_green, of_blue = (float(weight) for weight in RGB_TO_YUV[0])
    return of_red * red + of_green * green + of_blue * blue


def replace_luma(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], function: Callable[[Array], Array]
) -> Float[Array, "*batch height width 3"]:
    """Replaces the luma of images with a function of it, and keeps U and V.

    The result equals converting to YUV, replacing Y and converting back. It takes one addition per channel, because
    adding to Y adds the same to R, G and B.

    Args:
        function: Maps the luma `(..., H, W)` to a new one.
    """
    channels, old = split_luma(rgb)
    change = function(old) - old
    return jnp.stack([plane + change for plane in channels], -1)


def split_luma(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
) -> tuple[tuple[Array, Array, Array], Float[Array, "*batch height width"]]:
    """Splits images into channels and computes their luma; the gradient is faster than with `luma` and a split."""
    image = jnp.asarray(rgb)
    check_image(image)
    channels = planes.split(image)
    return channels, _luma(*channels)


@jax.jit
def saturation(rgb: Float[Array, "*batch height width 3"], amount: Scalar) -> Float[Array, "*batch height width 3"]:
    """Moves colors away from or toward the gray of the same luma, see `luma`: gray + amount * (rgb - gray).

    Args:
        amount: The factor for U and V: 0 for grays, 1 for no change.
    """
    check_image(rgb)
    channels = planes.split(rgb)
    gray = _luma(*channels)
    return jnp.stack([gray + amount * (plane - gray) for plane in channels], -1)


@jax.jit
def rgb_to_hsv(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from RGB to hue, saturation and value, with the conventions of `skimage.color.rgb2hsv`.

    The gradient of the hue grows without bound as a color approaches gray, and is zero for a gray itself.

    Returns:
        The images `(..., H, W, 3)` as hue, saturation, value. Hue is in [0, 1): red 0, green 1/3, blue 2/3, gray 0. For
        nonnegative RGB, saturation is in [0, 1]. Value is the largest channel.

    Example:
        >>> rgb = np.array([[[0.25, 0.5, 0.25], [0.5, 0.5, 0.5]]], np.float32)
        >>> np.asarray(isp.color.rgb_to_hsv(rgb)).round(3)
        array([[[0.333, 0.5  , 0.5  ],
                [0.   , 0.   , 0.5  ]]], dtype=float32)
    """
    check_image(rgb)
    red, green, blue = (rgb[..., c] for c in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    gray = chroma <= _NO_CHROMA
    divisor = jnp.where(gray, 1, chroma)
    # If several channels share the maximum, the last one decides, as in scikit-image.
    sixths = jnp.where(green == value, 2 + (blue - red) / divisor, (green - blue) / divisor)
    sixths = jnp.where(blue == value, 4 + (red - green) / divisor, sixths)
    hue = jnp.where(gray, 0, sixths / 6 - jnp.floor(sixths / 6))
    saturation = jnp.where(gray, 0, chroma / jnp.where(jnp.abs(value) <= _NO_CHROMA, 1, value))
    return jnp.stack([hue, saturation, value], -1)


@jax.jit
def hsv_to_rgb(hsv: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from hue, saturation and value to RGB as `skimage.color.hsv2rgb` does; undoes `rgb_to_hsv`.

    Hue is an angle in turns, which may leave [0, 1).
    """
    check_image(hsv)
    hue, saturation, value = (hsv[..., c] for c in range(3))

    def channel(phase: int) -> Array:
        """Computes a channel: full for a third of the circle, absent for another third, with linear slopes between."""
        sixths = 6 * hue + phase
        # The remainder; the operator % would call a C library function for each pixel.
        sixths -= 6 * jnp.floor(sixths / 6)
        return value * (1 - saturation * jnp.clip(jnp.minimum(sixths, 4 - sixths), 0, 1))

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


@jax.jit
def gamma_correct(
    rgb: Float[Array, "*batch height width 3"], gamma: Float[Array, ""] | float
) -> Float[Array, "*batch height width 3"]:
    """Applies the tone curve `rgb ** (1 / gamma)` to positive values; others become 0, with a gradient of 0.

    The slope grows without bound as values approach 0 from above. Where gradients matter, clip to a small positive
    value first.

    Example:
        >>> np.asarray(isp.color.gamma_correct(jnp.array([[[-0.5, 0.25, 1.0]]]), 2.0)).round(3)
        array([[[0. , 0.5, 1. ]]], dtype=float32)
    """
    check_image(rgb)
    return xla.unfused(powers.root)(rgb, gamma)


@jax.jit
def srgb_to_lab(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from sRGB to CIE L*a*b* under D65, with the constants of `skimage.color.rgb2lab`.

    L* is 0 for black and 100 for white.
    """
    check_image(rgb)
    dark = rgb <= 0.04045
    linear = jnp.where(dark, rgb / 12.92, ((jnp.where(dark, 1, rgb) + 0.055) / 1.055) ** 2.4)
    xyz = color_correct(linear, jnp.asarray(_SRGB_TO_XYZ / np.array(_D65)[:, None], rgb.dtype))
    low = xyz <= 0.008856
    x, y, z = planes.split(jnp.where(low, 7.787 * xyz + 16 / 116, jnp.cbrt(jnp.where(low, 1, xyz))))
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@jax.jit
def ciede2000(
    first: Float[Array, "*batch height width 3"], second: Float[Array, "*batch height width 3"]
) -> Float[Array, "*batch height width"]:
    """Computes the color difference CIEDE2000 of each pixel of two images.

    A difference of about 1 is just noticeable when the colors are side by side. The formula is from G. Sharma, W. Wu
    and E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
    mathematical observations" (2005), with all weights at 1. Its gradient is 0 for equal colors.

    Args:
        first: Images `(..., H, W, 3)` as L*, a*, b*, see `srgb_to_lab`.
    """
    (light, a, b), (other_light, other_a, other_b) = planes.split(first), planes.split(second)
    stretch = 1.5 - 0.5 * _chroma_weight((_length(a, b) + _length(other_a, other_b)) / 2)
    chroma, hue = _polar(stretch * a, b)
    other_chroma, other_hue = _polar(stretch * other_a, other_b)
    far = jnp.abs(other_hue - hue) > jnp.pi
    turn = other_hue - hue - jnp.where(far, 2 * jnp.pi * jnp.sign(other_hue - hue), 0)
    both = hue + other_hue
    mean_hue = both / 2 + jnp.where(far, jnp.where(both < 2 * jnp.pi, jnp.pi, -jnp.pi), 0)
    # A gray has no hue, so the other color's hue is used.
    mean_hue = jnp.where(chroma * other_chroma > 0, mean_hue, both)
    mean_chroma, from_middle = (chroma + other_chroma) / 2, ((light + other_light) / 2 - 50) ** 2
    of_light = (other_light - light) / (1 + 0.015 * from_middle / jnp.sqrt(20 + from_middle))
    of_chroma = (other_chroma - chroma) / (1 + 0.045 * mean_chroma)
    cosines = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    wave = 1 + sum(weight * jnp.cos(times * mean_hue + np.deg2rad(shift)) for weight, times, shift in cosines)
    of_hue = 2 * _root(chroma * other_chroma) * jnp.sin(turn / 2) / (1 + 0.015 * mean_chroma * wave)
    # Chroma and hue interact for blue hues, about 275 degrees.
    blueness = jnp.exp(-(((mean_hue - np.deg2rad(275)) / np.deg2rad(25)) ** 2))
    rotation = -2 * _chroma_weight(mean_chroma) * jnp.sin(np.deg2rad(60) * blueness)
    return _root(of_light**2 + of_chroma**2 + of_hue**2 + rotation * of_chroma * of_hue)


def _chroma_weight(chroma: Array) -> Array:
    """Computes the weight of a chroma in CIEDE2000: 0 for grays, approaching 1 far above 25."""
    return _root(1 / (1 + (25 / jnp.maximum(chroma, 1e-3)) ** 7))


def _polar(a: Array, b: Array) -> tuple[Array, Array]:
    """Computes chroma and hue, an angle from 0 to 2 pi, which is 0 for grays."""
    gray = (a == 0) & (b == 0)
    hue = jnp.where(gray, 0, jnp.arctan2(b, jnp.where(gray, 1, a)))
    return _length(a, b), jnp.where(hue < 0, hue + 2 * jnp.pi, hue)


def _length(a: Array, b: Array) -> Array:
    return _root(a**2 + b**2)


def _root(square: Array) -> Array:
    """Computes a square root with a gradient of 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
