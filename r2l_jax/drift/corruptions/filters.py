"""Filters that several corruptions share: a narrow Gaussian, a streak along a direction, and zooms into the center."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp.filter import correlate
from r2l_jax.drift.warps import Axis

# An odd number of weights along an axis.
Taps = Float[Array, " taps"]


def gaussian_taps(sigmas: Sequence[float]) -> np.ndarray:
    """Computes SciPy's weights `(sigmas, taps)` for several standard deviations, padded with zeros to the widest."""
    sigma = np.array(sigmas)[:, None]
    reach = (4 * sigma + 0.5).astype(int)
    offsets = np.arange(-reach.max(), reach.max() + 1)
    taps = np.exp(-((offsets / sigma) ** 2) / 2) * (abs(offsets) <= reach)
    return taps / taps.sum(1, keepdims=True)


def smoothed(
    images: Float[Array, "*batch height width channels"], taps: Taps
) -> Float[Array, "*batch height width channels"]:
    """Smooths images by `gaussian_taps`; the border is extended by its outermost pixels, as in scikit-image."""
    # The stencil cannot repeat the outermost pixels: the planes are padded first, and its own border is cut off.
    reach = len(taps) // 2
    margins = [(0, 0)] * (images.ndim - 2) + [(reach, reach)] * 2
    planes = jnp.pad(jnp.moveaxis(images, -1, -3), margins, "edge")
    planes = correlate(planes, taps[:, None], "zero")[..., reach : planes.shape[-2] - reach, :]
    planes = correlate(planes, taps[None, :], "zero")[..., reach : planes.shape[-1] - reach]
    return jnp.moveaxis(planes, -3, -1)


def streak_taps(radii: Sequence[int], sigmas: Sequence[float]) -> np.ndarray:
    """Computes the weights `(streaks, taps)` of several streaks: one side of a Gaussian, on 2 radius + 1 pixels."""
    steps = np.arange(2 * max(radii) + 1)
    taps = np.exp(-((steps / np.array(sigmas)[:, None]) ** 2) / 2) * (steps < 2 * np.array(radii)[:, None] + 1)
    return taps / taps.sum(1, keepdims=True)


def streaked(
    image: Float[Array, "height width channels"], angle: Float[Array, ""], taps: Taps
) -> Float[Array, "height width channels"]:
    """Averages an image with copies of itself that are shifted further and further in one direction.

    This is the `_motion_blur` of the package `imagecorruptions`, with shifts of whole pixels. The border is extended by
    its outermost pixels. At an angle (in radians) of 0, the shift is to the left, and upward at a right angle. The
    weights of the copies are `streak_taps`.
    """
    reach = len(taps)
    padded = jnp.pad(image, [(reach, reach), (reach, reach), (0, 0)], "edge")
    steps = jnp.arange(reach)
    down, right = (-jnp.ceil(steps * part - 0.5).astype(jnp.int32) for part in (jnp.sin(angle), jnp.cos(angle)))

    def add(total, copy):
        tap, down, right = copy
        corner = (reach - down, reach - right, 0)
        return total + tap * jax.lax.dynamic_slice(padded, corner, image.shape), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(image), (taps.astype(image.dtype), down, right))
    return total


def zoom_positions(size: int, factors: Sequence[float] | np.ndarray) -> Axis:
    """Computes where the pixels of an axis lie in the image for several zooms into its center, `(factors, size)` each.

    A zoom crops the middle of the image and interpolates linearly, as `scipy.ndimage.zoom` does.
    """
    positions = []
    for factor in factors:
        cropped = math.ceil(size / factor)
        zoomed = round(cropped * factor)
        start, trimmed = (size - cropped) // 2, (zoomed - size) // 2
        # The zoom keeps the first and the last pixel of the crop at its ends.
        positions.append(start + (np.arange(size) + trimmed) * ((cropped - 1) / max(zoomed - 1, 1)))
    before = np.floor(positions)
    after = np.minimum(before + 1, size - 1)
    # Positions are split in float64, because a float32 position has too few digits left for the fraction.
    return jnp.asarray(before, jnp.int32), jnp.asarray(after, jnp.int32), jnp.asarray(positions - before, float)
