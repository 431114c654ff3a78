"""The sensor: from light to a raw mosaic, with the noise that a real exposure has."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from isp.bayer import mosaic
from isp.camera import Camera
from isp.color import color_correct


@functools.partial(jax.jit, static_argnames="camera")
def unprocess(rgb: Float[Array, "*batch height width 3"], camera: Camera) -> Float[Array, "*batch height width 3"]:
    """What the camera's three colours see of a scene: undoes the colour matrix and the white balance.

    Args:
        rgb: linear sRGB, `(..., H, W, 3)`.
        camera: its `color_matrix` and `white_balance` are undone; the matrix must have an inverse.

    Returns:
        Linear camera RGB in the units of `rgb`. Does not clip: a colour outside the camera's gamut is negative.
    """
    to_camera = jnp.linalg.inv(jnp.array(camera.color_matrix, rgb.dtype))
    return color_correct(rgb, to_camera) / jnp.array(camera.white_balance, rgb.dtype)


@functools.partial(jax.jit, static_argnames=("camera", "bits"))
def expose(
    light: Float[Array, "*batch height width 3"],
    key: PRNGKeyArray,
    *,
    camera: Camera,
    exposure: Float[Array, ""] | float = 1.0,
    full_well: Float[Array, ""] | float = 15000.0,
    read_noise: Float[Array, ""] | float = 4.0,
    bits: int = 12,
) -> Float[Array, "*batch height width"]:
    """Exposes the sensor: mosaic, photon noise, read noise, black level, saturation and analogue-to-digital conversion.

    The number of photoelectrons of a site is Poisson distributed around its mean; the read-out adds Gaussian noise; a
    full well reads as 1 and an empty one as the black level, where noise is kept on both sides. This is the model of
    the EMVA 1288 standard (release 4.0, section 2), without dark current and non-uniformities.

    It differentiates as the clipped mean does: the noise counts as a constant and the converter's steps as straight.

    Args:
        light: linear camera RGB, `(..., H, W, 3)`, as fractions of the full well at exposure 1; negative is darkness.
        key: the noise. The same key gives the same noise.
        camera: gives `pattern` and `black_level`.
        exposure: factor on the light, as of a shutter or a lamp.
        full_well: electrons at which a site saturates.
        read_noise: standard deviation of the read-out, in electrons.
        bits: of the converter, 1 to 16.

    Returns:
        The mosaic `(..., H, W)` in [0, 1], in multiples of 1 / (2 ** bits - 1).

    Raises:
        ValueError: bits out of range, or an odd height or width.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be between 1 and 16, got {bits}")
    photon_key, read_key = jax.random.split(key)
    mean = jnp.maximum(mosaic(light, camera.pattern), 0) * exposure * full_well
    electrons = _with_gradient_of(mean, _poisson(photon_key, jax.lax.stop_gradient(mean)))
    electrons += read_noise * jax.random.normal(read_key, mean.shape, mean.dtype)

    tiles = mean.shape[-2] // 2, mean.shape[-1] // 2
    black = jnp.tile(jnp.array(camera.black_level, mean.dtype).reshape(2, 2), tiles)
    signal = jnp.clip(black + (1 - black) * electrons / full_well, 0, 1)
    top = 2**bits - 1
    return _with_gradient_of(signal * top, jnp.round(signal * top)) / top


def _poisson(key: PRNGKeyArray, mean: Float[Array, "..."]) -> Float[Array, "..."]:
    """Poisson noise around `mean` >= 0: exact where it is below 16, normal of the same mean and variance above.

    `jax.random.poisson` is exact everywhere, but its rejection loops run until the last site of the batch is accepted:
    fifteen times slower on a CPU. At 16 electrons the skewness that the normal distribution lacks is 0.25, of a noise
    that the read noise has blurred already.
    """
    uniform_key, normal_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, mean.shape, mean.dtype)
    few = jnp.minimum(mean, 16)

    def count(number, state):  # inversion: how many steps of the distribution function lie below the uniform number
        drawn, probability, cumulative = state
        drawn += uniform > cumulative
        probability *= few / number
        return drawn, probability, cumulative + probability

    nothing = jnp.exp(-few)
    # Around 16, more than 44 has a probability of 1e-9. Unrolled, the loop compiles to one pass over the sites.
    drawn, _, _ = jax.lax.fori_loop(1, 45, count, (jnp.zeros_like(few), nothing, nothing), unroll=True)
    many = mean + jnp.sqrt(mean) * jax.random.normal(normal_key, mean.shape, mean.dtype)
    return jnp.where(mean < 16, drawn, many)


def _with_gradient_of(smooth: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """`value`, which differentiates as `smooth` (the straight-through estimator)."""
    return smooth + jax.lax.stop_gradient(value - smooth)
