"""Weather: fog, frost and snow."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, each_image, strength
from r2l_jax.drift.corruptions.filters import streak_taps, streaked, zoom_positions
from r2l_jax.drift.corruptions.frost_pattern import frost_pattern
from r2l_jax.drift.corruptions.plasma import plasma_fractal
from r2l_jax.drift.warps import between_pixels

# The weights of the luma of ITU-R BT.601, as in `cv2.cvtColor`.
_LUMA = np.array([0.299, 0.587, 0.114])


@corruption
def fog(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds a plasma fractal, and scales the sum down so that white stays white.

    The fractal is in [0, 1] times 0.2, 0.5, 0.75, 1 and 1.5. Its wobble decays by 3, 3, 2.5, 2 and 1.75 from one level
    to the next. It covers the image from the next power of two above its longer side; the published code has 32 pixels.
    """
    strengths = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
    return jnp.clip(each_image(_fogged, images, key, strength(severity, strengths)), 0, 1)


def _fogged(image: Array, key: PRNGKeyArray, strengths: Array) -> Array:
    amount, decay = strengths
    white = image.max()
    fogged = image + amount * plasma_fractal(key, image.shape[0], image.shape[1], decay)[..., None]
    return fogged * white / (white + amount)


@corruption
def frost(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds 0.2, 0.3, 0.4, 0.4 and 0.45 of a pattern of ice crystals to 1, 1, 0.9, 0.85 and 0.75 of the image.

    The published code crops photographs of frosted panes. Here the pattern is drawn from the key, with the mean color
    and about the contrast of those photographs, see `frost_pattern`: it agrees with them in kind, not in detail.
    """
    strengths = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    return jnp.clip(each_image(_frosted, images, key, strength(severity, strengths)), 0, 1)


def _frosted(image: Array, key: PRNGKeyArray, strengths: Array) -> Array:
    share, amount = strengths
    return share * image + amount * frost_pattern(key, *image.shape[:2])


@corruption
def snow(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Brightens the image toward gray, and adds falling flakes twice: once as drawn, and once turned by half a turn.

    Flakes are normal noise above a threshold, enlarged by 1 to 2.25 and blurred along one direction within 45 degrees
    of the vertical, see `filters.streaked`. From severity 1 to 5, the noise has the means 0.1, 0.1, 0.15, 0.25 and 0.3
    and the standard deviations 0.2, 0.2, 0.3, 0.3 and 0.3; the thresholds are 0.6, 0.5, 0.55, 0.6 and 0.65.
    """
    strengths = (
        (0.1, 0.2, 0.6, 0.95),
        (0.1, 0.2, 0.5, 0.9),
        (0.15, 0.3, 0.55, 0.9),
        (0.25, 0.3, 0.6, 0.85),
        (0.3, 0.3, 0.65, 0.8),
    )
    taps = strength(severity, streak_taps((8, 10, 10, 12, 14), (3.0, 4.0, 4.0, 6.0, 12.0)))
    rows, columns = (
        [strength(severity, part, part.dtype) for part in zoom_positions(size, (1.0, 1.0, 1.75, 2.25, 1.25))]
        for size in images.shape[-3:-1]
    )

    def snowed(image, key, strengths, taps):
        mean, std, threshold, share = strengths
        noise_key, angle_key = jax.random.split(key)
        noise = mean + std * jax.random.normal(noise_key, (*image.shape[:2], 1), image.dtype)
        angle = jnp.deg2rad(jax.random.uniform(angle_key, (), image.dtype, -135, -45))
        zoomed = between_pixels(noise, [part[:, None] for part in rows], [part[None, :] for part in columns])
        return snow_falls(image, zoomed, threshold, share, angle, taps)

    return jnp.clip(each_image(snowed, images, key, strength(severity, strengths), taps), 0, 1)


def snow_falls(image: Array, noise: Array, threshold: Array, share: Array, angle: Array, taps: Array) -> Array:
    """Lets snow fall on an image.

    Args:
        image: the image `(H, W, 3)`.
        noise: the height of the flakes, `(H, W, 1)`.
        threshold: the height below which there is no flake.
        share: the share of the image that is not brightened.
        angle: see `filters.streaked`.
        taps: the weights along the way of a flake, see `filters.streak_taps`.
    """
    flakes = jnp.clip(jnp.where(noise < threshold, 0, noise), 0, 1)
    flakes = jnp.round(255 * streaked(flakes, angle, taps)) / 255
    gray = image @ jnp.asarray(_LUMA, image.dtype)
    bright = jnp.maximum(image, 1.5 * gray[..., None] + 0.5)
    return share * image + (1 - share) * bright + flakes + flakes[::-1, ::-1]
