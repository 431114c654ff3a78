"""Color: gains, matrices, luma and color spaces. Nothing here clips, so that functions can be chained.

Functions compute channel by channel and stack the channels at the end. A broadcast along the last axis would have a sum
over that axis as its gradient, and sums over only three neighbors are slow.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp._engine import planes
from isp._engine.checks import Scalar, check_image
from isp.balance import auto_white_balance, shades_of_gray
from isp.highlights import highlights
from isp.tone import gamma_correct

__all__ = [
    "RGB_TO_YUV",
    "YUV_TO_RGB",
    "auto_white_balance",
    "color_correct",
    "gamma_correct",
    "highlights",
    "hsv_to_rgb",
    "luma",
    "replaced_luma",
    "rgb_to_hsv",
    "rgb_to_yuv",
    "saturation",
    "shades_of_gray",
    "white_balance",
    "with_luma",
    "yuv_to_rgb",
]

# Luma and color differences of ITU-R BT.601, in rows Y, U, V. U and V of a gray are exactly zero. Hence the first
# column of the inverse is ones, and adding to Y adds the same to R, G and B.
RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14714119, -0.28886916, 0.43601035], [0.61497538, -0.51496512, -0.10001026]]
)
YUV_TO_RGB = np.linalg.inv(RGB_TO_YUV)

# Channels that differ by no more than this count as equal; with less, the derivatives of hue would overflow float32.
_NO_CHROMA = 1e-15


@jax.jit
def white_balance(
    rgb: Float[Array, "*batch height width 3"], gains: Float[Array, "3"]
) -> Float[Array, "*batch height width 3"]:
    """Multiplies each channel by its gain.

    Args:
        rgb: Images `(..., H, W, 3)`.
        gains: The gains of red, green and blue.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.color.white_balance(jnp.full((1, 1, 3), 0.25), jnp.array([2.0, 1.0, 3.0]))
        Array([[[0.5 , 0.25, 0.75]]], dtype=float32)
    """
    check_image(rgb)
    return jnp.stack([plane * gains[channel] for channel, plane in enumerate(planes.split(rgb))], -1)


@jax.jit
def color_correct(
    rgb: Float[Array, "*batch height width 3"], matrix: Float[Array, "3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Applies a color matrix to every pixel: out_k = sum_c matrix[k, c] * rgb_c.

    Args:
        rgb: Images `(..., H, W, 3)`.
        matrix: The matrix, with output channels in rows.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
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

    Args:
        rgb: Images `(..., H, W, 3)`.

    Returns:
        The images `(..., H, W, 3)` as Y, U, V. For RGB in [0, 1], Y is in [0, 1], and U and V are 0 for grays.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> np.asarray(isp.color.rgb_to_yuv(jnp.array([[[1.0, 0.0, 0.0]]]))).round(3)
        array([[[ 0.299, -0.147,  0.615]]], dtype=float32)
    """
    return color_correct(rgb, jnp.asarray(RGB_TO_YUV, rgb.dtype))


def yuv_to_rgb(yuv: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from YUV to RGB; undoes `rgb_to_yuv`.

    Args:
        yuv: Images `(..., H, W, 3)` as Y, U, V.

    Returns:
        The images `(..., H, W, 3)` as R, G, B.

    Raises:
        ValueError: If `yuv` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> np.asarray(isp.color.yuv_to_rgb(jnp.array([[[0.5, 0.25, 0.25]]]))).round(3)
        array([[[0.785, 0.256, 1.008]]], dtype=float32)
    """
    return color_correct(yuv, jnp.asarray(YUV_TO_RGB, yuv.dtype))


@jax.jit
def luma(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width"]:
    """Computes the luma of ITU-R BT.601, the Y of `rgb_to_yuv`.

    Args:
        rgb: Images `(..., H, W, 3)`.

    Returns:
        The luma `(..., H, W)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> red_green_blue = np.eye(3, dtype=np.float32)[None]
        >>> np.asarray(isp.color.luma(red_green_blue)).round(3)
        array([[0.299, 0.587, 0.114]], dtype=float32)
    """
    check_image(rgb)
    return _luma(*planes.split(rgb))


def _luma(red: Array, green: Array, blue: Array) -> Array:
    of_red, of_green, of_blue = (float(weight) for weight in RGB_TO_YUV[0])
    return of_red * red + of_green * green + of_blue * blue


@jax.jit
def with_luma(
    rgb: Float[Array, "*batch height width 3"], new_luma: Float[Array, "*batch height width"]
) -> Float[Array, "*batch height width 3"]:
    """Replaces the luma of images and keeps their U and V.

    The result equals converting to YUV, replacing Y and converting back. It takes one addition per channel, because
    adding to Y adds the same to R, G and B.

    Args:
        rgb: Images `(..., H, W, 3)`.
        new_luma: The luma `(..., H, W)` of the result.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> rgb = np.array([[[0.1, 0.2, 0.3]]], np.float32)
        >>> np.asarray(isp.color.with_luma(rgb, isp.color.luma(rgb) + 0.5)).round(3)
        array([[[0.6, 0.7, 0.8]]], dtype=float32)
    """
    return replaced_luma(rgb, lambda _: new_luma)


def replaced_luma(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], function: Callable[[Array], Array]
) -> Float[Array, "*batch height width 3"]:
    """Replaces the luma of images by a function of it; splits the channels only once, which makes gradients fast.

    Args:
        rgb: Images `(..., H, W, 3)`.
        function: Maps the luma `(..., H, W)` to a new one.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> rgb = np.array([[[0.1, 0.2, 0.3]]], np.float32)
        >>> np.asarray(isp.color.replaced_luma(rgb, lambda luma: luma + 0.5)).round(3)
        array([[[0.6, 0.7, 0.8]]], dtype=float32)
    """
    channels, old = channels_and_luma(rgb)
    change = function(old) - old
    return jnp.stack([plane + change for plane in channels], -1)


def channels_and_luma(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
) -> tuple[tuple[Array, Array, Array], Float[Array, "*batch height width"]]:
    """Splits images into channels and computes their luma. The gradient is faster than that of `luma` and a split.

    Args:
        rgb: Images `(..., H, W, 3)`.

    Returns:
        The channels and the luma `(..., H, W)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> from isp.color import channels_and_luma
        >>> import numpy as np
        >>> (red, _, _), luma = channels_and_luma(np.ones((1, 1, 3), np.float32))
        >>> red.shape, np.asarray(luma).round(3)
        ((1, 1), array([[1.]], dtype=float32))
    """
    image = jnp.asarray(rgb)
    check_image(image)
    channels = planes.split(image)
    return channels, _luma(*channels)


@jax.jit
def saturation(rgb: Float[Array, "*batch height width 3"], amount: Scalar) -> Float[Array, "*batch height width 3"]:
    """Moves colors away from the gray of their luma, or towards it; the luma stays.

    Args:
        rgb: Images `(..., H, W, 3)`.
        amount: The factor of U and V: 0 for grays, 1 for no change. It can be learned.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> rgb = np.array([[[0.1, 0.2, 0.3]]], np.float32)
        >>> np.asarray(isp.color.saturation(rgb, 2.0)).round(3)
        array([[[0.018, 0.218, 0.418]]], dtype=float32)
    """
    check_image(rgb)
    channels = planes.split(rgb)
    gray = _luma(*channels)
    return jnp.stack([gray + amount * (plane - gray) for plane in channels], -1)


@jax.jit
def rgb_to_hsv(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from RGB to hue, saturation and value, with the conventions of `skimage.color.rgb2hsv`.

    The gradient of the hue grows without bound as a color approaches gray, and is zero for a gray itself.

    Args:
        rgb: Images `(..., H, W, 3)`.

    Returns:
        The images `(..., H, W, 3)` as hue, saturation, value. Hue is in [0, 1): red 0, green 1/3, blue 2/3, gray 0. For
        nonnegative RGB, saturation is in [0, 1]. Value is the greatest channel.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import numpy as np
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
    # Where several channels are the greatest, the last one decides, as in scikit-image.
    sixths = jnp.where(green == value, 2 + (blue - red) / divisor, (green - blue) / divisor)
    sixths = jnp.where(blue == value, 4 + (red - green) / divisor, sixths)
    hue = jnp.where(gray, 0, sixths / 6 - jnp.floor(sixths / 6))
    saturation = jnp.where(gray, 0, chroma / jnp.where(jnp.abs(value) <= _NO_CHROMA, 1, value))
    return jnp.stack([hue, saturation, value], -1)


@jax.jit
def hsv_to_rgb(hsv: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Converts images from hue, saturation and value to RGB; undoes `rgb_to_hsv`.

    Agrees with `skimage.color.hsv2rgb`.

    Args:
        hsv: Images `(..., H, W, 3)` as hue, saturation, value. Hue is an angle in turns, which may leave [0, 1).

    Returns:
        The images `(..., H, W, 3)` as R, G, B.

    Raises:
        ValueError: If `hsv` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.color.hsv_to_rgb(jnp.array([[[0.5, 1.0, 0.75]]]))
        Array([[[0.  , 0.75, 0.75]]], dtype=float32)
    """
    check_image(hsv)
    hue, saturation, value = (hsv[..., c] for c in range(3))

    def channel(phase: int) -> Array:
        """Computes a channel: full for a third of the circle, absent for a third, with linear slopes between."""
        sixths = 6 * hue + phase
        # This is the remainder; the operator % would call a C library function for each pixel.
        sixths -= 6 * jnp.floor(sixths / 6)
        return value * (1 - saturation * jnp.clip(jnp.minimum(sixths, 4 - sixths), 0, 1))

    return jnp.stack([channel(5), channel(3), channel(1)], -1)
