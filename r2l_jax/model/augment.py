"""Random changes to processed images while training, each sample its own."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from isp._engine import stencil

NOISE_STD = 0.0005
SHARPNESS = 0.5

# The smoothing that PIL's and torchvision's sharpness blend with.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def augment(
    images: Float[Array, "batch height width 3"], key: PRNGKeyArray, augmentation: str
) -> Float[Array, "batch height width 3"]:
    """Changes a batch at random.

    Args:
        images: normalised images.
        key: what the changes are drawn from.
        augmentation: "none"; "weak": flips and right-angle turns, all equally likely (only flips and half turns unless
            the images are square); "strong": as weak, then with probability 1/2 each noise of standard deviation 0.0005
            and a sharpness of 0.5, which is half of the image and half of its 3x3 smoothing (torchvision's
            `adjust_sharpness`, but not clipped).
    """
    if augmentation == "none":
        return images
    orient_key, noise_key, smooth_key = jax.random.split(key, 3)
    images = orient(images, orient_key)
    if augmentation == "weak":
        return images
    batch = len(images)
    noise = NOISE_STD * jax.random.normal(noise_key, images.shape)
    images = images + noise * jax.random.bernoulli(jax.random.fold_in(noise_key, 1), shape=(batch, 1, 1, 1))
    channels_first = jnp.moveaxis(images, -1, 1)
    smooth = jnp.moveaxis(stencil.correlate(channels_first, jnp.asarray(_SMOOTH), "mirror"), 1, -1)
    amount = (1 - SHARPNESS) * jax.random.bernoulli(smooth_key, shape=(batch, 1, 1, 1))
    return images + amount * (smooth - images)


def augment_masks(
    masks: Shaped[Array, "batch height width"], key: PRNGKeyArray, augmentation: str
) -> Shaped[Array, "batch height width"]:
    """Turns masks as `augment` turns their images with the same key."""
    if augmentation == "none":
        return masks
    orient_key, *_ = jax.random.split(key, 3)
    return orient(masks[..., None], orient_key)[..., 0]


def orient(
    images: Shaped[Array, "batch height width channels"], key: PRNGKeyArray
) -> Shaped[Array, "batch height width channels"]:
    """Gives each image one of the square's eight orientations, or of a rectangle's four, all equally likely.

    The same key turns images and their masks alike.
    """
    vertical, horizontal, transposed = jax.random.bernoulli(key, shape=(3, len(images), 1, 1, 1))
    images = jnp.where(vertical, images[:, ::-1], images)
    images = jnp.where(horizontal, images[:, :, ::-1], images)
    if images.shape[1] == images.shape[2]:
        images = jnp.where(transposed, images.swapaxes(1, 2), images)
    return images
