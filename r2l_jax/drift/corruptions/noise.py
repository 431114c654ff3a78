"""Noise: normal, of photons, of single values, and in proportion to the light."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from isp import sensor
from isp.filter import apart
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, strength


@corruption("noise")
def gaussian_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds Gaussian noise with a standard deviation from 0.04 to 0.10, the same everywhere."""
    return _add_normal(images, key, strength(severity, (0.04, 0.06, 0.08, 0.09, 0.10)))


@corruption("noise")
def shot_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Replaces each value with a Poisson count of photons, where white is 500 photons down to 50.

    Values become multiples of 1 / photons. Counts with a mean of 16 or more are rounded normal numbers, see
    `isp.sensor.poisson`, whose variance is greater by 1/12. The gradient is the gradient of the mean.
    """
    return _count(images, key, strength(severity, (500, 250, 100, 75, 50)))


@corruption("noise")
def impulse_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Replaces 1 to 7 percent of the values independently with 0 or 1, with equal probability (salt and pepper)."""
    return _replace(images, key, strength(severity, (0.01, 0.02, 0.03, 0.05, 0.07)))


@corruption("noise")
def speckle_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Multiplies each value by 1 plus Gaussian noise with a standard deviation from 0.06 to 0.2."""
    return _multiply_normal(images, key, strength(severity, (0.06, 0.1, 0.12, 0.16, 0.2)))


def _of_vectors(function: Callable[..., Array]) -> Callable[..., Array]:
    """Applies a function to images as vectors: drawing in the shape of images takes three times as long on a CPU."""
    unit = apart(function)
    return lambda images, *arguments: unit(images.reshape(-1), *arguments).reshape(images.shape)


@_of_vectors
def _add_normal(values, key, std):
    return jnp.clip(values + std * jax.random.normal(key, values.shape, values.dtype), 0, 1)


@_of_vectors
def _multiply_normal(values, key, std):
    return jnp.clip(values * (1 + std * jax.random.normal(key, values.shape, values.dtype)), 0, 1)


@_of_vectors
def _count(values, key, photons):
    counted = jnp.round(sensor.poisson(jax.lax.stop_gradient(values) * photons, key)) / photons
    return jnp.clip(values + jax.lax.stop_gradient(counted - values), 0, 1)


@_of_vectors
def _replace(values, key, amount):
    drawn = jax.random.uniform(key, values.shape, values.dtype)
    return jnp.where(drawn < amount, (drawn < amount / 2).astype(values.dtype), values)
