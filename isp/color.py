"""Colour: gains, matrices, luma, and the tone curve. Nothing here clips, so that functions chain."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp.bayer import check_image

# ITU-R BT.601 luma and colour differences, rows Y, U, V. U and V of a grey are exactly zero, hence the inverse's
# first column is ones: adding to Y adds the same to R, G and B.
RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14714119, -0.28886916, 0.43601035], [0.61497538, -0.51496512, -0.10001026]]
)
YUV_TO_RGB = np.linalg.inv(RGB_TO_YUV)


@jax.jit
def white_balance(
    rgb: Float[Array, "*batch height width 3"], gains: Float[Array, "3"]
) -> Float[Array, "*batch height width 3"]:
    """Scales each channel by its gain.

    Raises:
        ValueError: rgb that is no floating-point image `(..., H, W, 3)`; so does every function here.
    """
    check_image(rgb)
    return rgb * gains


@jax.jit
def color_correct(
    rgb: Float[Array, "*batch height width 3"], matrix: Float[Array, "3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Applies a colour matrix to every pixel: out_k = sum_c matrix[k, c] * rgb_c."""
    check_image(rgb)
    # Sums, not a matrix product: three terms are too few for a matrix unit, which would round to a shorter format.
    return sum(rgb[..., c, None] * matrix[:, c] for c in range(3))


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
    return rgb + (new_luma - luma(rgb))[..., None]


@jax.jit
def gamma_correct(
    rgb: Float[Array, "*batch height width 3"], gamma: Float[Array, ""] | float
) -> Float[Array, "*batch height width 3"]:
    """The tone curve rgb ** (1 / gamma), for rgb > 0: clip first, the slope at 0 is infinite."""
    check_image(rgb)
    return jnp.exp(jnp.log(rgb) / gamma)
