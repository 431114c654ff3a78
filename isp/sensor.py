"""The sensor: from light to a raw mosaic, with the noise that a real exposure has."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from isp.bayer import check_mosaic, mosaic
from isp.camera import Camera


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
    """Exposes the sensor: each site sees its colour of the light, and is read out with noise as by `expose_sites`.

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
    return expose_sites(
        mosaic(light, camera.pattern),
        key,
        camera=camera,
        exposure=exposure,
        full_well=full_well,
        read_noise=read_noise,
        bits=bits,
    )


@functools.partial(jax.jit, static_argnames=("camera", "bits"))
def expose_sites(
    light: Float[Array, "*batch height width"],
    key: PRNGKeyArray,
    *,
    camera: Camera,
    exposure: Float[Array, ""] | float = 1.0,
    full_well: Float[Array, ""] | float = 15000.0,
    read_noise: Float[Array, ""] | float = 4.0,
    bits: int = 12,
) -> Float[Array, "*batch height width"]:
    """Exposes every site: photon noise, read noise, black level, saturation and analogue-to-digital conversion.

    The number of photoelectrons of a site is Poisson distributed around its mean; the read-out adds Gaussian noise; a
    full well reads as 1 and an empty one as the black level, where noise is kept on both sides. This is the model of
    the EMVA 1288 standard (release 4.0, section 2), without dark current and non-uniformities.

    It differentiates as the clipped mean does: the noise counts as a constant and the converter's steps as straight.

    Args:
        light: what reaches each site, `(..., H, W)`, as fractions of the full well at exposure 1; negative is darkness.
        key: the noise. The same key gives the same noise.
        camera: gives `black_level`.
        exposure: factor on the light, as of a shutter or a lamp; below 1 it leaves headroom for light beyond a full
            well, which saturates.
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
    check_mosaic(light)
    photon_key, read_key = jax.random.split(key)
    mean = jnp.maximum(light, 0) * exposure * full_well
    electrons = _with_gradient_of(mean, poisson(photon_key, jax.lax.stop_gradient(mean)))
    electrons += read_noise * jax.random.normal(read_key, mean.shape, mean.dtype)

    black = _black_levels(mean, camera)
    signal = jnp.clip(black + (1 - black) * electrons / full_well, 0, 1)
    top = 2**bits - 1
    return _with_gradient_of(signal * top, jnp.round(signal * top)) / top


@functools.partial(jax.jit, static_argnames="camera")
def site_light(raw: Float[Array, "*batch height width"], camera: Camera) -> Float[Array, "*batch height width"]:
    """The light that a mosaic shows, as `expose_sites` takes it: 0 at the black level of a site, 1 at the white level.

    So the sensor takes a noise-free mosaic, such as `isp.unprocess` gives, once more, with noise around its values.

    Raises:
        ValueError: raw that is no floating-point mosaic, or of an odd height or width.
    """
    check_mosaic(raw)
    black = _black_levels(raw, camera)
    return (raw - black) / (1 - black)


def _black_levels(sites: Float[Array, "*batch height width"], camera: Camera) -> Float[Array, "height width"]:
    """The black level of every site."""
    tiles = sites.shape[-2] // 2, sites.shape[-1] // 2
    return jnp.tile(jnp.array(camera.black_level, sites.dtype).reshape(2, 2), tiles)


def poisson(key: PRNGKeyArray, mean: Float[Array, "..."]) -> Float[Array, "..."]:
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
