"""Random augmentation during training, of raw images and of processed images, drawn for each sample from its key."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, Shaped

from isp import Camera, CameraState, sensor_drift
from isp.filter import correlate
from isp.sensor import noise_of

Keys = Key[Array, " batch"]
Masks = Shaped[Array, "batch height width"]
Mosaics = Float[Array, "batch height width"]
Images = Float[Array, "batch height width 3"]

NOISE_STD = 0.0005
SHARPNESS = 0.5

# PIL and torchvision change the sharpness of an image by blending it with this smoothing.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def sample_keys(key: PRNGKeyArray, index: Int[Array, " batch"]) -> Keys:
    """Makes a key for each sample from a shared key and the sample's index in the data set, whatever the batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def augment(images: Images, keys: Keys, augmentation: str) -> Images:
    """Augments each image of a batch at random, from its key (see `sample_keys`), unless `augmentation` is "none".

    "weak" flips images and rotates them by right angles, see `orient`. "strong" also, each with probability 1/2, adds
    noise of standard deviation 0.0005, and sets the sharpness to 0.5: half of the image plus half of its 3x3 smoothing
    (torchvision's `adjust_sharpness` without clipping).
    """
    if augmentation == "none":
        return images
    orient_keys, noise_keys, noisy_keys, smooth_keys = _split(keys)
    images = orient(images, orient_keys)
    if augmentation == "weak":
        return images
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(noise_keys)
    images = images + NOISE_STD * noise * _coins(noisy_keys)
    channels_first = jnp.moveaxis(images, -1, 1)
    smooth = jnp.moveaxis(correlate(channels_first, jnp.asarray(_SMOOTH), "mirror"), 1, -1)
    return images + (1 - SHARPNESS) * _coins(smooth_keys) * (smooth - images)


def augment_masks(masks: Masks, keys: Keys, augmentation: str) -> Masks:
    """Flips and rotates masks as `augment` does with their images for the same keys."""
    if augmentation == "none":
        return masks
    orient_keys, *_ = _split(keys)
    return orient(masks[..., None], orient_keys)[..., 0]


def orient(
    images: Shaped[Array, "batch height width channels"], keys: Key[Array, " batch"]
) -> Shaped[Array, "batch height width channels"]:
    """Gives each image or mask one of the eight orientations of a square, or four of a rectangle, equally likely."""
    vertical, horizontal, transposed, _ = map(_coins, _split(keys))
    images = jnp.where(vertical, images[:, ::-1], images)
    images = jnp.where(horizontal, images[:, :, ::-1], images)
    if images.shape[1] == images.shape[2]:
        images = jnp.where(transposed, images.swapaxes(1, 2), images)
    return images


def _split(keys):
    """Splits the key of each sample into four."""
    return jax.vmap(lambda key: jax.random.split(key, 4), out_axes=1)(keys)


def _coins(keys):
    """Tosses a coin for each sample: 0 or 1, `(B, 1, 1, 1)`."""
    return jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None]


# The ranges of uniform numbers by purpose and quantity, in the units of `isp.CameraState`. The black level is normal.
_RANGES = {
    "exposure": {"exposure": (-0.5, 1.5)},
    "light": {"exposure": (-math.log2(24), 1.5)},
    "optics": {"vignetting": (0.0, 1.0), "defocus": (0.0, 2.0)},
    "readout": {"read_noise": (1.0, 4.0), "row_noise": (0.0, 150.0)},
}
_BLACK_LEVEL = 80.0

# The minimum electrons at white in low light: the square of its signal-to-noise ratio.
_WHITE = 8**2

# The share of images that stay as they are.
_UNCHANGED = 0.25


def re_expose(raw: Mosaics, keys: Keys, camera: Camera, purposes: Sequence[str]) -> Mosaics:
    """Takes each raw image of a batch again, with a camera that is drawn from its key; a quarter stay as they are.

    The purposes say which quantities are drawn from the ranges `_RANGES`: exposure, light (as long as white keeps a
    signal-to-noise ratio of 8), optics or readout, where the black level moves with a standard deviation of 80 digital
    numbers. The sensor adds the missing noise, see `isp.sensor_drift.apply`.
    """
    darkest = -max(math.log2(noise_of(camera).full_well / _WHITE), 0)
    ranges: dict[str, tuple[float, float]] = {}
    for name, (low, high) in (each for purpose in sorted(purposes) for each in _RANGES[purpose].items()):
        least, most = ranges.get(name, (low, high))
        ranges[name] = min(low, least), max(high, most)

    def one(raw: Array, key: PRNGKeyArray) -> Array:
        draw, kept, black, *each = jax.random.split(key, 3 + len(ranges))
        drawn = {
            name: jax.random.uniform(key, minval=max(low, darkest) if name == "exposure" else low, maxval=high)
            for key, (name, (low, high)) in zip(each, ranges.items(), strict=True)
        }
        if "readout" in purposes:
            drawn["black_level"] = _BLACK_LEVEL * jax.random.normal(black)
        taken = sensor_drift.apply(raw, draw, CameraState(**drawn), camera=camera)
        return jnp.where(jax.random.bernoulli(kept, _UNCHANGED), raw, taken)

    return jax.vmap(one)(raw, keys)
