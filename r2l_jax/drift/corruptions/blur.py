"""Blurs: Gaussian, out of focus, by motion, by zooming, and through uneven glass."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from isp.filter import correlate
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, each_image, strength
from r2l_jax.drift.corruptions.filters import gaussian_taps, smoothed, streak_taps, streaked, zoom_positions
from r2l_jax.drift.warps import between_pixels


@corruption("blur")
def gaussian_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Blurs by a Gaussian with a standard deviation from 0.4 to 1 pixel, truncated at 4 standard deviations.

    The border is extended by its outermost pixels, as in `skimage.filters.gaussian`.
    """
    return jnp.clip(smoothed(images, strength(severity, gaussian_taps((0.4, 0.6, 0.7, 0.8, 1.0)))), 0, 1)


@corruption("blur")
def defocus_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Blurs by a disk with a radius of 0.3, 0.4, 0.5, 1 and 1.5 pixels.

    The disk is made of whole pixels and smoothed by a Gaussian of 3x3 pixels, with a standard deviation of 0.4, 0.5,
    0.6, 0.2 and 0.1, against aliasing. Borders are mirrored about the outermost pixels, as in `cv2.filter2D`.
    """
    disks = [disk(*each) for each in ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))]
    planes = correlate(jnp.moveaxis(images, -1, -3), strength(severity, disks), "mirror")
    return jnp.clip(jnp.moveaxis(planes, -3, -1), 0, 1)


def disk(radius: float, sigma: float, side: int = 5) -> np.ndarray:
    """Computes the weights of a disk of at most 1.5 pixels, smoothed by a Gaussian of 3x3 pixels."""
    offsets = np.arange(side) - side // 2
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2) * 1.0
    taps = np.exp(-((np.arange(-1, 2) / sigma) ** 2) / 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    shifts = itertools.product((-1, 0, 1), repeat=2)
    return sum(kernel[1 + i, 1 + j] * np.roll(disk, (i, j), (0, 1)) for i, j in shifts) / disk.sum()


@corruption("blur")
def motion_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Blurs along a direction within 45 degrees of the horizontal, drawn for each image.

    A pixel is smeared over 13, 13, 13, 17 and 19 pixels, with the weights of one side of a Gaussian whose standard
    deviation is 1, 1.5, 2, 2 and 2.5 pixels. The published code calls ImageMagick; this follows its replacement in the
    package `imagecorruptions`, see `filters.streaked`.
    """
    taps = strength(severity, streak_taps((6, 6, 6, 8, 9), (1.0, 1.5, 2.0, 2.0, 2.5)))

    def moved(image, key):
        return streaked(image, jnp.deg2rad(jax.random.uniform(key, (), image.dtype, -45, 45)), taps)

    return each_image(moved, images, key)


# Each severity uses the first few of these factors. The steps are floating-point numbers as in the published code,
# because their rounding decides how many factors there are (1.06 is among the first) and how sizes are rounded.
_ZOOM_FACTORS = np.arange(1, 1.26, 0.01)
_ZOOMS = tuple(len(np.arange(1, end, 0.01)) for end in (1.06, 1.11, 1.16, 1.21, 1.26))


@corruption("blur")
def zoom_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Averages the image and its zooms into the center, by factors in steps of 0.01.

    The largest factor is from 1.06 to 1.25. A zoom crops the middle of the image and interpolates linearly, as
    `scipy.ndimage.zoom` does. In an image that is not square, which the published code refuses, each axis is zoomed
    independently.
    """
    height, width, channels = images.shape[-3:]
    # Each pixel becomes a vector over batch and channels: on a CPU, this is ten times as fast as matrix products or as
    # one image after the other, which vmap would lead to.
    pixels = jnp.moveaxis(images.reshape(-1, *images.shape[-3:]), 0, 2)
    depth = pixels.shape[2] * channels
    pixels = pixels.reshape(height, width, depth)

    def add(total, zoom):
        used, rows, columns = zoom
        rows, columns = [axis[:, None] for axis in rows], [axis[None, :] for axis in columns]
        return total + used * between_pixels(pixels, rows, columns), None

    count = strength(severity, _ZOOMS)
    used = (jnp.arange(len(_ZOOM_FACTORS)) < count).astype(images.dtype)
    axes = (zoom_positions(height, _ZOOM_FACTORS), zoom_positions(width, _ZOOM_FACTORS))
    total, _ = jax.lax.scan(add, pixels, (used, *axes))
    mean = (total / (count + 1)).reshape(height, width, -1, channels)
    return jnp.clip(jnp.moveaxis(mean, 2, 0).reshape(images.shape), 0, 1)


@corruption("blur")
def glass_blur(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Smooths, replaces each pixel by itself or a neighbor above or to the left at random, and smooths again.

    The Gaussian has a standard deviation of 0.05, 0.25, 0.4, 0.25 and 0.4 pixels. Pixels are replaced once, and at
    severities 4 and 5 twice. The first two rows and columns stay.

    The published code means to exchange pixels. It exchanges views of NumPy arrays, which copies the neighbor to the
    pixel and leaves the neighbor as it is, and the published images are made in that way. It also rounds to 8 bits in
    between.
    """
    taps = strength(severity, gaussian_taps((0.05, 0.25, 0.4, 0.25, 0.4)))

    def scattered(image, key):
        moves = jax.random.randint(key, (2, *image.shape[:2], 2), -1, 1)
        once = replaced_by_neighbors(image, moves[0])
        return jnp.where(severity > 3, replaced_by_neighbors(once, moves[1]), once)

    return jnp.clip(smoothed(each_image(scattered, smoothed(images, taps), key), taps), 0, 1)


def replaced_by_neighbors(
    image: Float[Array, "height width channels"], moves: Int[Array, "height width 2"]
) -> Float[Array, "height width channels"]:
    """Replaces each pixel of an image by the one that lies some rows and columns (-1 or 0) away.

    The first two rows and columns stay.
    """
    rows, columns = jnp.mgrid[: image.shape[0], : image.shape[1]]
    moved = (rows > 1) & (columns > 1)
    return image[rows + moved * moves[..., 0], columns + moved * moves[..., 1]]
