"""Random changes of processed images during training, drawn for each sample."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from isp._engine import stencil

NOISE_STD = 0.0005
SHARPNESS = 0.5

# PIL and torchvision change the sharpness of an image by blending it with this smoothing.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def augment(
    images: Float[Array, "batch height width 3"], key: PRNGKeyArray, augmentation: str
) -> Float[Array, "batch height width 3"]:
    """Changes each image of a batch at random.

    - "none" changes nothing.
    - "weak" flips and turns images by right angles, all eight orientations equally likely. Images that are not square
      are only flipped and turned by half.
    - "strong" does the same. Then, each with probability 1/2, it adds noise of standard deviation 0.0005, and sets the
      sharpness to 0.5: half of the image plus half of its 3x3 smoothing (torchvision's `adjust_sharpness` without
      clipping).

    Args:
        images: normalized images.
        key: decides the changes.
        augmentation: one of `AUGMENTATIONS`.
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
    """Flips and turns masks as `augment` does with their images for the same key."""
    if augmentation == "none":
        return masks
    orient_key, *_ = jax.random.split(key, 3)
    return orient(masks[..., None], orient_key)[..., 0]


def orient(
    images: Shaped[Array, "batch height width channels"], key: PRNGKeyArray
) -> Shaped[Array, "batch height width channels"]:
    """Gives each image one of the eight orientations of a square, or of the four of a rectangle, all equally likely.

    Images and masks get the same orientations for the same key.
    """
    vertical, horizontal, transposed = jax.random.bernoulli(key, shape=(3, len(images), 1, 1, 1))
    images = jnp.where(vertical, images[:, ::-1], images)
    images = jnp.where(horizontal, images[:, :, ::-1], images)
    if images.shape[1] == images.shape[2]:
        images = jnp.where(transposed, images.swapaxes(1, 2), images)
    return images
