"""From RGB back to raw: the inverse of the pipelines, for pictures without raw files.

After T. Brooks et al., "Unprocessing images for learned raw denoising", CVPR (2019).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import cfa, color
from isp.camera import Camera


def check_invertible(camera: Camera) -> None:
    """Raises a ValueError unless the camera's color matrix can be inverted in float32."""
    if np.linalg.cond(np.array(camera.color_matrix)) > 1 / np.finfo(np.float32).eps:
        raise ValueError(f"color_matrix must have an inverse, got the singular {camera.color_matrix}")


@jax.jit(static_argnames="camera")
def to_camera(rgb: Float[Array, "*batch height width 3"], camera: Camera) -> Float[Array, "*batch height width 3"]:
    """Converts linear sRGB to linear camera RGB: undoes the color matrix and the white balance.

    Colors outside the camera's gamut are negative, since nothing is clipped. A matrix without an inverse in float32
    raises a ValueError.
    """
    check_invertible(camera)
    # Matrices of half precision cannot be inverted.
    matrix = jnp.array(camera.color_matrix, jnp.promote_types(rgb.dtype, jnp.float32))
    inverse = jnp.linalg.inv(matrix).astype(rgb.dtype)
    return color.color_correct(rgb, inverse) / jnp.array(camera.white_balance, rgb.dtype)


@jax.jit(static_argnames="camera")
def unprocess(
    rgb: Float[Array, "*batch height width 3"], camera: Camera, gamma: Float[Array, ""] | float = 2.2
) -> Float[Array, "*batch height width"]:
    """Computes the noise-free raw image that a camera would have taken of a picture.

    Undoes the tone curve, the color matrix and the white balance, keeps the one color that each site sees, and adds the
    black level. `isp.parametrized(camera)` and `isp.static(camera)` subtract the black level without stretching the
    values above it, so nothing is compressed here. Without their filters, these pipelines restore the picture except
    for demosaicing errors and values below 1e-5, where `isp.parametrized` clips.

    Departs from Brooks et al. where these pipelines have nothing to undo: no S-shaped tone curve is undone, the gamma
    is a plain power instead of sRGB's curve, and highlights are scaled like all other values.

    Args:
        rgb: Pictures `(..., H, W, 3)` in [0, 1] with even H and W. Negative values, which no tone curve returns, count
            as black.
        gamma: The exponent of the picture's tone curve, light ** (1 / gamma).

    Returns:
        The raw images `(..., H, W)`. Nothing is clipped: bright colors may exceed the white level of 1 (where a gain is
        1, white exceeds it by the black level), and colors outside the camera's gamut may lie below black. A color
        matrix without an inverse in float32 raises a ValueError.

    Example:
        >>> camera = isp.CAMERAS["drone"]
        >>> raw = isp.unprocess(np.full((4, 4, 3), 0.5, np.float32), camera)
        >>> np.asarray(raw)[:2, :2].round(3)
        array([[0.138, 0.28 ],
               [0.28 , 0.188]], dtype=float32)
        >>> rgb = isp.static(camera, sharpen="none", denoise="none")(raw)
        >>> np.asarray(rgb)[1, 1].round(3)
        array([0.5, 0.5, 0.5], dtype=float32)
    """
    light = to_camera(color.gamma_correct(rgb, 1 / gamma), camera)
    # Subtracting a negative level adds it.
    black = jnp.array(camera.black_level, rgb.dtype)
    return cfa.subtract_black_level(cfa.mosaic(light, camera.pattern), -black, pattern=camera.pattern)
