"""Changes of single values: contrast, brightness and saturation."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from isp import color
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, strength


@corruption(None)
def identity(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Returns the images unchanged, as the reference for the other corruptions.

    Raises:
        InputError: a severity that is neither 1 to 5 nor traced, as in every corruption.
        ValueError: images that are not floating point `(..., H, W, 3)`, as in every corruption.
    """
    return images


@corruption("tone and color")
def contrast(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Scales the distance of values from their channel's mean over the image by 0.75 down to 0.15."""
    share = strength(severity, (0.75, 0.5, 0.4, 0.3, 0.15))
    mean = images.mean((-3, -2), keepdims=True)
    return jnp.clip((images - mean) * share + mean, 0, 1)


@corruption("tone and color")
def brightness(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds 0.05 to 0.3 to the value (V of HSV), which is clipped to 1; hue and saturation stay."""
    return _change_hsv(images, jnp.ones(3), jnp.zeros(3).at[2].set(strength(severity, (0.05, 0.1, 0.15, 0.2, 0.3))))


@corruption("tone and color")
def saturate(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Changes the saturation (S of HSV) by a linear function, clipped to 1; hue and value stay.

    The first two severities reduce the saturation to 0.3 and 0.1 of the original. The others multiply it by 1.5, 2 and
    2.5. The last two also add a constant, which turns grays red, the color of hue 0.
    """
    factor, more = strength(severity, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)))
    return _change_hsv(images, jnp.ones(3).at[1].set(factor), jnp.zeros(3).at[1].set(more))


def _change_hsv(images, factors, more):
    hsv = jnp.clip(color.rgb_to_hsv(images) * factors + more, 0, 1)
    return jnp.clip(color.hsv_to_rgb(hsv), 0, 1)
