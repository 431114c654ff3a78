"""Colour: gains, matrices, luma, and the tone curve. Nothing here clips, so that functions chain.

Images are computed on channel by channel and stacked at the end: a broadcast along the last axis has a sum over it as
its gradient, and sums over a few neighbours are slow.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp._engine import stencil
from isp.bayer import check_image

# ITU-R BT.601 luma and colour differences, rows Y, U, V. U and V of a grey are exactly zero, hence the inverse's
# first column is ones: adding to Y adds the same to R, G and B.
RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14714119, -0.28886916, 0.43601035], [0.61497538, -0.51496512, -0.10001026]]
)
YUV_TO_RGB = np.linalg.inv(RGB_TO_YUV)

# Differences of channels that count as none: for smaller ones the derivatives of hue overflow float32.
_NO_CHROMA = 1e-15


@jax.jit
def white_balance(
    rgb: Float[Array, "*batch height width 3"], gains: Float[Array, "3"]
) -> Float[Array, "*batch height width 3"]:
    """Scales each channel by its gain.

    Raises:
        ValueError: rgb that is no floating-point image `(..., H, W, 3)`; so does every function here.
    """
    check_image(rgb)
    return jnp.stack([rgb[..., channel] * gains[channel] for channel in range(3)], -1)


@jax.jit
def color_correct(
    rgb: Float[Array, "*batch height width 3"], matrix: Float[Array, "3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Applies a colour matrix to every pixel: out_k = sum_c matrix[k, c] * rgb_c."""
    check_image(rgb)
    # Sums, not a matrix product: three terms are too few for a matrix unit, which would round to a shorter format.
    return jnp.stack([sum(rgb[..., c] * matrix[k, c] for c in range(3)) for k in range(3)], -1)


def rgb_to_yuv(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """RGB to BT.601 luma Y and colour differences U, V."""
    return color_correct(rgb, jnp.asarray(RGB_TO_YUV, rgb.dtype))


def yuv_to_rgb(yuv: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Undoes `rgb_to_yuv`."""
    return color_correct(yuv, jnp.asarray(YUV_TO_RGB, yuv.dtype))


@jax.jit
def luma(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width"]:
    """BT.601 luma, the Y of `rgb_to_yuv`."""
    check_image(rgb)
    red, green, blue = RGB_TO_YUV[0]
    return float(red) * rgb[..., 0] + float(green) * rgb[..., 1] + float(blue) * rgb[..., 2]


@jax.jit
def with_luma(
    rgb: Float[Array, "*batch height width 3"], new_luma: Float[Array, "*batch height width"]
) -> Float[Array, "*batch height width 3"]:
    """The image with its luma replaced and its U and V kept.

    Equal to going to YUV, replacing Y and coming back: see the note at `RGB_TO_YUV`.
    """
    difference = new_luma - luma(rgb)
    return jnp.stack([rgb[..., channel] + difference for channel in range(3)], -1)


@jax.jit
def rgb_to_hsv(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """RGB to hue in [0, 1), saturation and value, with the conventions of `skimage.color.rgb2hsv`.

    Hue is 0 at red, 1/3 at green and 2/3 at blue, and 0 for a grey. For rgb >= 0, saturation is in [0, 1]. Hue turns
    ever faster towards grey; its gradient is large there, and zero for a grey itself.
    """
    check_image(rgb)
    red, green, blue = (rgb[..., c] for c in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    grey = chroma <= _NO_CHROMA
    divisor = jnp.where(grey, 1, chroma)
    # As scikit-image does, of channels that are equally great the last one counts.
    sixths = jnp.where(green == value, 2 + (blue - red) / divisor, (green - blue) / divisor)
    sixths = jnp.where(blue == value, 4 + (red - green) / divisor, sixths)
    hue = jnp.where(grey, 0, sixths / 6 - jnp.floor(sixths / 6))
    saturation = jnp.where(grey, 0, chroma / jnp.where(jnp.abs(value) <= _NO_CHROMA, 1, value))
    return jnp.stack([hue, saturation, value], -1)


@jax.jit
def hsv_to_rgb(hsv: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Undoes `rgb_to_hsv`; agrees with `skimage.color.hsv2rgb`. Hue may leave [0, 1): it is an angle in turns."""
    check_image(hsv)
    hue, saturation, value = (hsv[..., c] for c in range(3))

    def channel(phase):
        """Full for a third of the circle, absent for a third, with linear slopes between."""
        sixths = 6 * hue + phase
        # What a remainder is; the operator calls a C library function for each pixel.
        sixths -= 6 * jnp.floor(sixths / 6)
        return value * (1 - saturation * jnp.clip(jnp.minimum(sixths, 4 - sixths), 0, 1))

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


@jax.jit
def gamma_correct(
    rgb: Float[Array, "*batch height width 3"], gamma: Float[Array, ""] | float
) -> Float[Array, "*batch height width 3"]:
    """The tone curve rgb ** (1 / gamma) for rgb > 0; elsewhere 0, with a gradient of 0.

    The slope grows without bound towards 0 from above: where it matters, clip to a value above 0 first.
    """
    check_image(rgb)
    return _tone_curve(rgb, gamma)


@stencil.pointwise
def _tone_curve(rgb, gamma):
    dark = rgb <= 0
    # Dark values are replaced before the logarithm too: its infinite derivative times zero would not be zero.
    return jnp.where(dark, 0, jnp.exp(jnp.log(jnp.where(dark, 1, rgb)) / gamma))
