"""Weather: fog, frost and snow, and the random patterns of ice and plasma that they draw."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from isp.filter import unfused, uniform
from r2l_jax.drift.corruptions.declare import ImageArray, SeverityArray, corruption, each_image, normal, strength
from r2l_jax.drift.corruptions.filters import streak_taps, streaked, zoom_positions
from r2l_jax.drift.warps import between_pixels

# The weights of the luma of ITU-R BT.601, as in `cv2.cvtColor`.
_LUMA = np.array([0.299, 0.587, 0.114])

# The square of this number is the wobble of the first level, as in the published code; maps are scaled to [0, 1].
_WOBBLE = 100.0

# The mean color of the published photographs, at equal shares of the five that the published code draws from.
_COLOR = np.array([0.572, 0.656, 0.702])

# How much the mean brightness varies between photographs, and how much the crystals vary within one.
_BRIGHTNESS, _CONTRAST = 0.12, 0.09

# One crystal grows from a place within each square of this many pixels: the photographs at a fifth of their size.
_SQUARE = 8
# Crystals reach this many squares far.
_REACH = 2
# The distance between the side branches of a crystal, in pixels.
_BRANCHES = 3.0


@corruption("weather")
def fog(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds a plasma fractal in [0, 1] times 0.2 to 1.5, and scales the sum down so that white stays white.

    The fractal is cropped from one whose side is the next power of two; the published code has 32 pixels.
    """
    strengths = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
    amount, decay = strength(severity, strengths)

    def fogged(image, key):
        white, (height, width, _) = image.max(), image.shape
        fractal = plasma_fractal(key, height, width, decay)
        return (image + amount * fractal[..., None]) * white / (white + amount)

    return each_image(fogged, images, key)


@corruption("weather")
def frost(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Adds an ice crystal pattern, weighted by 0.2 to 0.45, to the image, weighted by 1 to 0.75.

    The published code crops photographs of frosted panes. Here the pattern is drawn from the key, with the mean color
    and about the contrast of those photographs, see `frost_pattern`: it agrees with them in kind, not in detail.
    """
    strengths = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    share, amount = strength(severity, strengths)
    return each_image(lambda image, key: share * image + amount * frost_pattern(key, *image.shape[:2]), images, key)


@corruption("weather")
def snow(images: ImageArray, key: PRNGKeyArray, severity: SeverityArray) -> ImageArray:
    """Brightens the image toward gray, and adds falling flakes twice: once as drawn, and once rotated by 180 degrees.

    Flakes are normal noise above a threshold, enlarged by 1 to 2.25 and blurred along one direction within 45 degrees
    of the vertical, see `filters.streaked`.
    """
    # The mean and the standard deviation of the noise, the threshold, and the share of the image that stays.
    strengths = (
        (0.1, 0.2, 0.6, 0.95),
        (0.1, 0.2, 0.5, 0.9),
        (0.15, 0.3, 0.55, 0.9),
        (0.25, 0.3, 0.6, 0.85),
        (0.3, 0.3, 0.65, 0.8),
    )
    mean, std, threshold, share = strength(severity, strengths)
    taps = strength(severity, streak_taps((8, 10, 10, 12, 14), (3.0, 4.0, 4.0, 6.0, 12.0)))
    rows, columns = (
        [strength(severity, part, part.dtype) for part in zoom_positions(size, (1.0, 1.0, 1.75, 2.25, 1.25))]
        for size in images.shape[-3:-1]
    )

    def snowed(image, key):
        noise_key, angle_key = jax.random.split(key)
        noise = mean + std * normal(noise_key, (*image.shape[:2], 1))
        angle = jnp.deg2rad(jax.random.uniform(angle_key, (), image.dtype, -135, -45))
        zoomed = between_pixels(noise, [part[:, None] for part in rows], [part[None, :] for part in columns])
        return snow_falls(image, zoomed, threshold, share, angle, taps)

    return each_image(snowed, images, key)


def snow_falls(image: Array, noise: Array, threshold: Array, share: Array, angle: Array, taps: Array) -> Array:
    """Lets flakes fall on an image along `filters.streaked`, from noise `(H, W, 1)` that exceeds a threshold.

    `share` is the weight of the image that is not brightened.
    """
    flakes = jnp.clip(jnp.where(noise < threshold, 0, noise), 0, 1)
    flakes = jnp.round(255 * streaked(flakes, angle, taps)) / 255
    gray = image @ jnp.asarray(_LUMA, image.dtype)
    bright = jnp.maximum(image, 1.5 * gray[..., None] + 0.5)
    return share * image + (1 - share) * bright + flakes + flakes[::-1, ::-1]


def frost_pattern(key: PRNGKeyArray, height: int, width: int) -> Float[Array, "height width 3"]:
    """Draws feathered crystals of random places, directions, lengths and heights, over uneven ice, mostly in [0, 1]."""
    crystals_key, ice_key, brightness_key = jax.random.split(key, 3)
    crystals = _crystals(crystals_key, height, width)
    ice = plasma_fractal(ice_key, height, width, 1.9)
    pattern = 0.7 * crystals + 0.6 * ice
    relief = (pattern - pattern.mean()) / jnp.maximum(pattern.std(), 1e-6)
    brightness = 1 + _BRIGHTNESS * jax.random.normal(brightness_key)
    return jnp.asarray(_COLOR) * brightness + _CONTRAST * relief[..., None]


def _crystals(key: PRNGKeyArray, height: int, width: int) -> Array:
    """Draws the height of the highest crystal at each pixel."""
    rows, columns = (-(-size // _SQUARE) for size in (height, width))
    drawn = uniform(key, (5, rows + 2 * _REACH, columns + 2 * _REACH))
    highest = highest_crystals(drawn)
    return highest.transpose(2, 0, 3, 1).reshape(rows * _SQUARE, columns * _SQUARE)[:height, :width]


@unfused
def highest_crystals(drawn: Float[Array, "5 rows columns"]) -> Array:
    """Computes the height of the highest crystal at each place of each square, `(8, 8, rows, columns)`.

    A crystal has five numbers from 0 to 1: its place in its square, down and right, its direction, length and height.
    Squares are the last axes, so that a CPU computes several of them at a time. The two outermost ones on each side
    are not returned.
    """
    place_y, place_x, turn, length, peak = drawn
    angle = jnp.pi * turn
    crystals = (place_y, place_x, jnp.cos(angle), jnp.sin(angle), _SQUARE * (0.5 + (_REACH - 0.5) * length), peak)
    rows, columns = (size - 2 * _REACH for size in drawn.shape[1:])
    y, x = jnp.arange(_SQUARE)[:, None, None, None], jnp.arange(_SQUARE)[:, None, None]
    highest = jnp.zeros((_SQUARE, _SQUARE, rows, columns))
    for down, right in itertools.product(range(2 * _REACH + 1), repeat=2):
        # The numbers of the crystals that grow some squares away.
        place_y, place_x, cos, sin, length, peak = (
            each[down : down + rows, right : right + columns] for each in crystals
        )
        dy, dx = y - _SQUARE * (down - _REACH + place_y), x - _SQUARE * (right - _REACH + place_x)
        highest = jnp.maximum(highest, peak * _feather(dx * cos + dy * sin, dy * cos - dx * sin, length))
    return highest


def _feather(along: Array, across: Array, length: Array) -> Array:
    """Computes the height of a crystal: a spine, and side branches at 45 degrees that get shorter toward its tips."""
    taper = jnp.clip(1 - abs(along) / length, 0, 1)
    spine = jnp.exp(-((across / 0.7) ** 2))
    # The operator % is a function call for each value on a CPU.
    fold = (abs(along) - abs(across)) / _BRANCHES
    fold = _BRANCHES * (fold - jnp.floor(fold) - 0.5)
    branches = jnp.exp(-((fold / 0.7) ** 2)) * jnp.clip(1 - abs(across) / (0.35 * length * taper + 0.5), 0, 1)
    return taper * jnp.maximum(spine, branches)


def plasma_fractal(
    key: PRNGKeyArray, height: int, width: int, decay: Float[Array, ""] | float
) -> Float[Array, "height width"]:
    """Draws a height map in [0, 1], the corner of a square map whose side is the next power of two.

    At each finer level, the wobble is divided by `decay`; a greater one gives a smoother map.
    """
    levels = max(max(height, width) - 1, 1).bit_length()
    drawn = jax.random.uniform(key, (4**levels - 1,), minval=-1, maxval=1)
    sizes = [2 ** (level // 3) for level in range(3 * levels)]
    ends = list(itertools.accumulate(size**2 for size in sizes))
    draws = [drawn[end - size**2 : end].reshape(size, size) for end, size in zip(ends, sizes, strict=True)]
    return diamond_square(draws, decay)[:height, :width]


def diamond_square(draws: Sequence[Array], decay: Float[Array, ""] | float) -> Array:
    """Computes a square height map in [0, 1] from the numbers that `plasma_fractal` of the published code draws.

    For each level, `draws` has three arrays `(side, side)` of numbers in [-1, 1]: for the middles of squares, and for
    the middles of their upper and their left edges. The sides are 1, 2, 4, ...
    """
    corners, wobble = jnp.zeros((1, 1)), _WOBBLE
    for squares, upper, left in zip(draws[::3], draws[1::3], draws[2::3], strict=True):

        def mean(total, drawn, wobble=wobble):
            return total / 4 + wobble**2 * drawn

        pairs = corners + jnp.roll(corners, -1, 0)
        middles = mean(pairs + jnp.roll(pairs, -1, 1), squares)
        above = mean(middles + jnp.roll(middles, 1, 0) + corners + jnp.roll(corners, -1, 1), upper)
        beside = mean(middles + jnp.roll(middles, 1, 1) + corners + jnp.roll(corners, -1, 0), left)
        side = 2 * len(corners)
        blocks = jnp.stack([jnp.stack([corners, above], -1), jnp.stack([beside, middles], -1)], 1)
        corners, wobble = blocks.reshape(side, side), wobble / decay
    heights = corners - corners.min()
    return heights / heights.max()
