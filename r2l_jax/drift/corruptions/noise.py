"""Noise: Gaussian, shot, impulse and speckle."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from isp import sensor
from isp.filter import unfused, uniform
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, normal, strength


@corruption("noise")
def gaussian_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds Gaussian noise with a standard deviation from 0.04 to 0.10, the same everywhere."""
    std = strength(severity, (0.04, 0.06, 0.08, 0.09, 0.10))
    return _changed(lambda values, key: values + std * normal(key, values.shape), images, key)


@corruption("noise")
def shot_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Replaces each value with a Poisson count of photons, where white is 500 photons down to 50.

    Values become multiples of 1 / photons. Counts with a mean of 16 or more are rounded normal numbers, see
    `isp.sensor.poisson`, whose variance is greater by 1/12. The gradient is the gradient of the mean.
    """
    photons = strength(severity, (500, 250, 100, 75, 50))

    def counted(values, key):
        counts = jnp.round(sensor.poisson(jax.lax.stop_gradient(values) * photons, key)) / photons
        return values + jax.lax.stop_gradient(counts - values)

    return _changed(counted, images, key)


@corruption("noise")
def impulse_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Replaces 1 to 7 percent of the values independently with 0 or 1, with equal probability (salt and pepper)."""
    amount = strength(severity, (0.01, 0.02, 0.03, 0.05, 0.07))

    def replaced(values, key):
        drawn = uniform(key, values.shape)
        return jnp.where(drawn < amount, (drawn < amount / 2).astype(values.dtype), values)

    return _changed(replaced, images, key)


@corruption("noise")
def speckle_noise(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Multiplies each value by 1 plus Gaussian noise with a standard deviation from 0.06 to 0.2."""
    std = strength(severity, (0.06, 0.1, 0.12, 0.16, 0.2))
    return _changed(lambda values, key: values * (1 + std * normal(key, values.shape)), images, key)


def _changed(change: Callable[[Array, Array], Array], images: Array, key: PRNGKeyArray) -> Array:
    """Changes images as vectors: drawing in the shape of images takes three times as long on a CPU."""
    unit = unfused(lambda values, key: jnp.clip(change(values, key), 0, 1))
    return unit(images.reshape(-1), key).reshape(images.shape)
