"""From RGB back to raw: the pipelines' inverse, for those who have pictures but no raw files.

After Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import bayer, color
from isp.camera import Camera


def check_invertible(camera: Camera) -> None:
    """Raises a ValueError if the camera's matrix cannot be undone in float32."""
    if np.linalg.cond(np.array(camera.color_matrix)) > 1 / np.finfo(np.float32).eps:
        raise ValueError(f"color_matrix must have an inverse, got the singular {camera.color_matrix}")


@functools.partial(jax.jit, static_argnames="camera")
def to_camera(rgb: Float[Array, "*batch height width 3"], camera: Camera) -> Float[Array, "*batch height width 3"]:
    """What the camera's three colours see of a scene: undoes the colour matrix and the white balance.

    Args:
        rgb: linear sRGB, `(..., H, W, 3)`.
        camera: its `color_matrix` and `white_balance` are undone.

    Returns:
        Linear camera RGB in the units of `rgb`. Does not clip: a colour outside the camera's gamut is negative.

    Raises:
        ValueError: a camera with a singular matrix, or rgb that is no floating-point image.
    """
    check_invertible(camera)
    inverse = jnp.linalg.inv(jnp.array(camera.color_matrix, rgb.dtype))
    return color.color_correct(rgb, inverse) / jnp.array(camera.white_balance, rgb.dtype)


@functools.partial(jax.jit, static_argnames="camera")
def unprocess(
    rgb: Float[Array, "*batch height width 3"], camera: Camera, gamma: Float[Array, ""] | float = 2.2
) -> Float[Array, "*batch height width"]:
    """The mosaic, free of noise, that a camera would have taken of a picture.

    Undoes the tone curve, the colour matrix and the white balance, keeps the one colour that each site sees, and adds
    the black level. `isp.parametrized(camera)` and `isp.static(camera)` subtract the black level without stretching
    what is above it, and so nothing is squeezed here: without their filters, they give the picture back but for what
    demosaicing errs, and for what is darker than the 1e-5 that the first clips to.

    It departs from Brooks et al. where these pipelines have nothing to undo: there is no S-shaped tone curve, the
    gamma is a plain power and not sRGB's curve, and highlights are scaled as all else is.

    Args:
        rgb: the picture, `(..., H, W, 3)` in [0, 1], H and W even. Below 0, where the tone curve never comes, it counts
            as black.
        camera: whose mosaic it shall be.
        gamma: of the picture's tone curve, light ** (1 / gamma).

    Returns:
        The mosaic `(..., H, W)`. Does not clip: bright colours may be above the white level of 1 (white is, by the
        black level, where a gain is 1), and colours outside the camera's gamut below black.

    Raises:
        ValueError: a camera with a singular matrix, rgb that is no floating-point image, or an odd
            height or width.
    """
    light = to_camera(color.gamma_correct(rgb, 1 / gamma), camera)
    # Subtracting a negative level adds it.
    return bayer.subtract_black_level(bayer.mosaic(light, camera.pattern), -jnp.array(camera.black_level, rgb.dtype))
