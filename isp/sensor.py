"""The sensor: from light to a raw image, with the noise of a real exposure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from isp._kernels.noise import normal
from isp.camera import Camera
from isp.cfa import black_levels, check_mosaic, mosaic

# The read-out noise in electrons below which the steps of photon counts show.
_FEW_ELECTRONS = 2.0

# Less variance than this, in electrons squared, is rounding.
_LEAST_VARIANCE = 1e-6


class Noise(NamedTuple):
    """The numbers that determine the noise of a sensor, as in `isp.Camera`."""

    full_well: float
    read_noise: float
    bits: int


def noise_of(camera: Camera) -> Noise:
    """Returns a camera's noise, with typical values where it states none: 15000 electrons, 4 electrons and 12 bits."""
    return Noise(
        15000.0 if camera.full_well is None else camera.full_well,
        4.0 if camera.read_noise is None else camera.read_noise,
        12 if camera.bits is None else camera.bits,
    )


@jax.jit(static_argnames=("camera", "bits"))
def expose(
    light: Float[Array, "*batch height width 3"],
    key: PRNGKeyArray,
    *,
    camera: Camera,
    **settings: Any,
) -> Float[Array, "*batch height width"]:
    """Exposes a sensor to an image; each site sees one color of the light and is read out by `expose_sites`.

    The light is linear camera RGB `(..., H, W, 3)` with even H and W. `expose_sites` describes the settings.
    """
    return expose_sites(mosaic(light, camera.pattern), key, camera=camera, **settings)


@jax.jit(static_argnames=("camera", "bits"))
def expose_sites(
    light: Float[Array, "*batch height width"],
    key: PRNGKeyArray,
    *,
    camera: Camera,
    exposure: Float[Array, ""] | float = 1.0,
    full_well: Float[Array, ""] | float | None = None,
    read_noise: Float[Array, ""] | float | None = None,
    bits: int | None = None,
) -> Float[Array, "*batch height width"]:
    """Exposes the sites of a sensor, with photon noise, read noise, black level, saturation and quantization.

    The number of photoelectrons of a site is Poisson distributed around its mean, and the read-out adds Gaussian noise.
    A full well reads as 1. An empty well reads as the black level, with noise on both sides of it. This is the model of
    the EMVA 1288 standard (release 4.0, section 2) without dark current and non-uniformities.

    Gradients treat the noise as a constant and the steps of the converter as a straight line, and are zero where a site
    is clipped.

    Args:
        light: The light that reaches each site, `(..., H, W)`, as fractions of the full well at an exposure of 1.
            Negative light counts as darkness.
        exposure: A factor on the light, as of a shutter or a lamp. Below 1, it leaves headroom for light that would
            otherwise exceed the full well.
        full_well: As in `isp.Camera`, like `read_noise` and `bits`; other numbers of bits raise a ValueError. If None,
            the camera's, see `noise_of`.

    Returns:
        The raw image `(..., H, W)` in [0, 1], in multiples of 1 / (2 ** bits - 1).
    """
    noise = noise_of(camera)
    full_well = noise.full_well if full_well is None else full_well
    read_noise = noise.read_noise if read_noise is None else read_noise
    steps = noise.bits if bits is None else bits
    if not 1 <= steps <= 16:
        raise ValueError(f"bits must be between 1 and 16, got {steps}")
    check_mosaic(light)
    photon_key, read_key = jax.random.split(key)
    mean = jnp.maximum(_in_32_bits(light), 0) * exposure * full_well
    electrons = _with_gradient_of(mean, poisson(jax.lax.stop_gradient(mean), photon_key))
    electrons += read_noise * jax.random.normal(read_key, mean.shape, mean.dtype)

    signal = jnp.clip(from_light(electrons / full_well, camera), 0, 1)
    top = 2**steps - 1
    return (_with_gradient_of(signal * top, jnp.round(signal * top)) / top).astype(light.dtype)


@jax.jit(static_argnames="camera")
def site_light(raw: Float[Array, "*batch height width"], camera: Camera) -> Float[Array, "*batch height width"]:
    """Computes the light in a raw image, for `expose_sites`: 0 at a site's black level, 1 at the white level."""
    check_mosaic(raw)
    black = _black_levels(raw, camera)
    return (raw - black) / (1 - black)


@jax.jit(static_argnames="camera")
def from_light(light: Float[Array, "*batch height width"], camera: Camera) -> Float[Array, "*batch height width"]:
    """Computes the noise-free raw image of light; undoes `site_light`.

    Args:
        light: The light of each site `(..., H, W)`, as fractions of the full well.

    Returns:
        The raw image `(..., H, W)`, which is not clipped.
    """
    check_mosaic(light)
    black = _black_levels(light, camera)
    return black + (1 - black) * light


@jax.jit(static_argnames="camera")
def re_expose(
    raw: Float[Array, "*batch height width"],
    key: PRNGKeyArray,
    *,
    camera: Camera,
    light: Float[Array, "..."] | float = 1.0,
    read_noise: Float[Array, ""] | float = 1.0,
    gain: Float[Array, ""] | float = 1.0,
    kept: Float[Array, "..."] | float = 1.0,
    lost: Float[Array, "..."] | None = None,
) -> Float[Array, "*batch height width"]:
    """Exposes the scene of a noisy raw image again, with other light, a noisier read-out or a higher gain.

    The raw image keeps its noise, which is scaled with its light, and gets only the noise that is missing: dimming
    light to the fraction f scales the variance of its photon noise by f^2, whereas real photon noise scales by f.
    Brighter results are noisier than a real exposure, because noise cannot be removed. A saturated site is treated as
    exactly at full well. Gradients for the raw image treat the added noise as a constant; those for other arguments
    follow its standard deviation.

    A site gets one normal number for all its noise. Only where the read-out noise is below 2 electrons, photon noise
    follows from Poisson counts; above, the skewness of counts is at most 0.385 divided by the read-out noise.

    Args:
        camera: The camera, whose `black_level`, `full_well` and `read_noise` apply, as for `expose_sites`.
        light: Factors on the light, nonnegative, of a shape that broadcasts to the raw image's.
        read_noise: The standard deviation of the read-out noise, as a multiple of the camera's, at least 1.
        gain: Divides the light and multiplies what is read of it, at least 1.
        kept: The share of its noise variance that the raw image still has, below 1 after smoothing. Its shape
            broadcasts to the raw image's.
        lost: Noise of variance 1 with the spectrum that smoothing has taken from independent noise, so that the noise
            of neighbors becomes independent again. If None, independent noise replaces it.

    Returns:
        The raw image `(..., H, W)`, clipped to [0, 1]. It is not rounded to the steps of a converter.
    """
    full_well, electrons, _ = noise_of(camera)
    check_mosaic(raw)
    exact = _in_32_bits(raw)
    factor, signal = jnp.asarray(light, exact.dtype) / gain, site_light(exact, camera)
    mean = factor * jax.lax.stop_gradient(jnp.maximum(signal, 0)) * full_well
    lacking = jnp.maximum(1 - kept * factor, 0)
    variance = electrons**2 * jnp.maximum(jnp.square(read_noise) - kept * factor**2, 0)
    noise = 0.0
    if lost is not None:
        # Smoothing took it from the noise of the raw image, which is scaled with its light.
        taken = jnp.minimum((1 - kept) * factor * (mean + electrons**2 * factor), variance + lacking * mean)
        noise = _root(taken) * lost
        left = variance + lacking * mean - taken
        lacking = jnp.maximum(1 - factor, 0)
        variance = jnp.maximum(left - lacking * mean, 0)
    # Smoothing alone takes nothing else.
    if lost is None or not all(isinstance(each, float) and each == 1 for each in (light, read_noise, gain)):
        if electrons < _FEW_ELECTRONS:
            photon_key, key = jax.random.split(key)
            noise += jax.lax.stop_gradient((poisson(mean, photon_key) - mean) * jnp.sqrt(lacking))
        else:
            variance += lacking * mean
        noise += _root(variance) * normal(key, exact.shape)
    return jnp.clip(from_light(gain * (factor * signal + noise / full_well), camera), 0, 1).astype(raw.dtype)


def _root(variance: Array) -> Array:
    """Computes a square root with a finite slope at 0, where a camera lacks no noise."""
    return jnp.where(variance > 0, jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE)), 0)


def _in_32_bits(sites: Float[Array, "..."]) -> Float[Array, "..."]:
    """Converts half precision, in which electron counts overflow."""
    return sites.astype(jnp.promote_types(sites.dtype, jnp.float32))


def _black_levels(sites: Float[Array, "*batch height width"], camera: Camera) -> Float[Array, "height width"]:
    """Returns the black level of every site."""
    return black_levels(jnp.array(camera.black_level, sites.dtype), camera.pattern, *sites.shape[-2:])


def poisson(mean: Float[Array, "*shape"], key: PRNGKeyArray) -> Float[Array, "*shape"]:
    """Draws Poisson counts: exactly where the mean is below 16, from a normal distribution above.

    The normal distribution has the same mean and variance. At 16 electrons it lacks a skewness of 0.25, and the read
    noise blurs that further. `jax.random.poisson` is exact everywhere, but its rejection loops run until the last site
    of the batch is accepted, which takes fifteen times longer on a CPU.

    Args:
        mean: The means, nonnegative.

    Returns:
        One count per mean; above 16, a real number.
    """
    uniform_key, normal_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, mean.shape, mean.dtype)
    few = jnp.minimum(mean, 16)

    def count(number: Array | int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """Inverts the distribution function: counts how many of its steps lie below the uniform number."""
        drawn, probability, cumulative = state
        drawn += uniform > cumulative
        probability *= few / number
        return drawn, probability, cumulative + probability

    nothing = jnp.exp(-few)
    # Around a mean of 16, more than 44 counts have a probability of 1e-9. Unrolled, the loop compiles to one pass over
    # the sites.
    drawn, _, _ = jax.lax.fori_loop(1, 45, count, (jnp.zeros_like(few), nothing, nothing), unroll=True)
    many = mean + jnp.sqrt(mean) * jax.random.normal(normal_key, mean.shape, mean.dtype)
    return jnp.where(mean < 16, drawn, many)


def _with_gradient_of(smooth: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `value` with the gradient of `smooth` (the straight-through estimator)."""
    return smooth + jax.lax.stop_gradient(value - smooth)
