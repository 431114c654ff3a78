"""Spatter: drops of water and splashes of mud on the lens."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from isp.filter import correlate, unfused
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, each_image, normal, strength
from r2l_jax.drift.corruptions.filters import gaussian_taps, smoothed

_WATER, _MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255

# Distances from the edge of a drop count up to this many pixels.
_FAR = 20
# The light on a drop comes from the lower right.
_LIGHT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
_MEAN = np.full((3, 3), 1 / 9, np.float32)
# The gradients from which OpenCV's edge detector starts and continues an edge.
_STRONG, _WEAK = 150, 50
# The tangent of 22.5 degrees and 1, in the fixed-point numbers with which OpenCV compares directions.
_TANGENT, _UNIT = 13573, 1 << 15


@corruption("weather")
def spatter(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds drops of water at severities 1 to 3, and covers the image with splashes of mud at 4 and 5.

    Both are where smoothed normal noise exceeds a threshold.
    """
    # The mean and the standard deviation of the noise, the threshold, the amount of water, and whether it is mud.
    strengths = (
        (0.62, 0.1, 0.7, 0.5, 0),
        (0.65, 0.1, 0.7, 0.5, 0),
        (0.65, 0.3, 0.69, 0.5, 0),
        (0.65, 0.1, 0.69, 0.6, 1),
        (0.65, 0.1, 0.68, 0.6, 1),
    )
    mean, std, threshold, amount, is_mud = strength(severity, strengths)
    taps = strength(severity, gaussian_taps((0.7, 0.8, 1.0, 0.7, 0.5)))

    def spattered(image, key):
        noise = mean + std * normal(key, (*image.shape[:2], 1))
        liquid = smoothed(noise, taps)[..., 0]
        liquid = jnp.where(liquid < threshold, 0, liquid)
        return jax.lax.cond(is_mud > 0, lambda: muddy(image, liquid, threshold), lambda: wet(image, liquid, amount))

    return each_image(spattered, images, key)


def muddy(image: Array, liquid: Array, threshold: Array) -> Array:
    """Covers an image `(H, W, 3)` with mud where the height of the liquid `(H, W)` exceeds a threshold."""
    cover = smoothed((liquid > threshold).astype(image.dtype)[..., None], jnp.asarray(gaussian_taps([0.6])[0]))
    cover = jnp.where(cover < 0.8, 0, cover)
    return image * (1 - cover) + jnp.asarray(_MUD, image.dtype) * cover


def wet(image: Array, liquid: Array, amount: Array) -> Array:
    """Adds drops to an image `(H, W, 3)`: pale turquoise, at most `amount`, where the height of the liquid is not 0.

    Drops are lit in relief by the distance from their edges, as in the published code, whose functions of OpenCV work
    in 8 bits. Distances are Euclidean here, where OpenCV has an approximation within 2 percent.
    """
    heights = jnp.floor(255 * jnp.clip(liquid, 0, 1))
    distances = jnp.minimum(distances_to(canny_edges(heights)), _FAR)
    relief = _equalized(jnp.floor(correlate(distances, _MEAN, "mirror") + 1e-4))
    relief = jnp.clip(jnp.round(correlate(relief, _LIGHT, "mirror")), 0, 255)
    drops = heights * jnp.round(correlate(relief, _MEAN, "mirror"))
    drops = amount * drops / jnp.maximum(drops.max(), 1)
    return image + drops[..., None] * jnp.asarray(_WATER, image.dtype)


def canny_edges(heights: Float[Array, "height width"]) -> Bool[Array, "height width"]:
    """Finds edges of 8-bit heights as `cv2.Canny` does: ridges of the gradient that are connected to a strong one."""
    rows, columns = heights.shape
    padded = jnp.pad(heights, 1, "edge")
    down, right = (padded[2:] - padded[:-2], padded[:, 2:] - padded[:, :-2])
    dx = right[:-2] + 2 * right[1:-1] + right[2:]
    dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    gradient = abs(dx) + abs(dy)
    around = jnp.pad(gradient, 1)

    def beside(i: int, j: int) -> Array:
        return around[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]

    x, y = abs(dx) * _TANGENT, abs(dy) * _UNIT
    flat, steep = y < x, y > x + 2 * _UNIT * abs(dx)
    ridge = {
        "right": (gradient > beside(0, -1)) & (gradient >= beside(0, 1)),
        "down": (gradient > beside(-1, 0)) & (gradient >= beside(1, 0)),
        "falling": (gradient > beside(-1, -1)) & (gradient > beside(1, 1)),
        "rising": (gradient > beside(-1, 1)) & (gradient > beside(1, -1)),
    }
    diagonal = jnp.where(dx * dy < 0, ridge["rising"], ridge["falling"])
    is_ridge = jnp.where(flat, ridge["right"], jnp.where(steep, ridge["down"], diagonal)) & (gradient > _WEAK)

    def grown(state):
        edges, _ = state
        padded = jnp.pad(edges, 1)
        shifts = itertools.product(range(3), repeat=2)
        near = functools.reduce(jnp.logical_or, (padded[i : i + rows, j : j + columns] for i, j in shifts))
        following = is_ridge & near
        return following, (following != edges).any()

    edges, _ = jax.lax.while_loop(lambda state: state[1], grown, (is_ridge & (gradient > _STRONG), jnp.array(True)))
    return edges


def distances_to(edges: Bool[Array, "height width"]) -> Float[Array, "height width"]:
    """Computes the distance of each pixel from the nearest edge, along both axes in turn; exact up to 20 pixels."""
    far = 2 * _FAR
    # Whole numbers of 16 bits, of which a CPU adds twice as many at a time as of float32.
    squares = jnp.where(edges, jnp.int16(0), jnp.int16(far**2))
    for axis in (0, 1):
        margins = [(_FAR, _FAR) if each == axis else (0, 0) for each in (0, 1)]
        # Apart, because the pass would compute 41 times what it reads.
        nearest = unfused(functools.partial(_nearest, axis=axis))
        squares = nearest(jnp.pad(squares, margins, constant_values=far**2))
    return jnp.sqrt(squares.astype(jnp.float32))


def _nearest(padded: Array, axis: int) -> Array:
    """Computes the least of copies that are shifted along an axis, each plus the square of its shift, in one pass."""
    size = padded.shape[axis] - 2 * _FAR
    return functools.reduce(
        jnp.minimum,
        (
            jax.lax.slice_in_dim(padded, _FAR + shift, _FAR + shift + size, axis=axis) + np.int16(shift**2)
            for shift in range(-_FAR, _FAR + 1)
        ),
    )


def _equalized(values: Array) -> Array:
    """Equalizes the histogram of whole numbers from 0 to 20, as `cv2.equalizeHist` does for 8 bits."""
    numbers = jnp.arange(_FAR + 1)
    counts = jnp.bincount(values.ravel().astype(jnp.int32), length=_FAR + 1)
    below, total = jnp.cumsum(counts), values.size
    first = counts[jnp.argmax(counts > 0)]
    table = jnp.round((below - first) * 255 / jnp.maximum(total - first, 1))
    # A constant plane is not changed.
    table = jnp.where(first == total, numbers, table)
    return jnp.take(table, values.astype(jnp.int32), mode="clip").astype(values.dtype)
