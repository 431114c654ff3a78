"""Patterns of ice crystals, drawn at random in place of photographs of frosted panes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from r2l_jax.drift.corruptions.plasma import plasma_fractal

# The mean color of the published photographs, at equal shares of the five that the published code draws from.
_COLOR = np.array([0.572, 0.656, 0.702])

# How much the mean brightness differs from one photograph to the other, and how much the crystals vary within one.
_BRIGHTNESS, _CONTRAST = 0.12, 0.09

# One crystal grows from a place within each square of this many pixels: the photographs at a fifth of their size.
_SQUARE = 8
# Crystals reach this many squares far.
_REACH = 2
# The distance between the side branches of a crystal, in pixels.
_BRANCHES = 3.0


def frost_pattern(key: PRNGKeyArray, height: int, width: int) -> Float[Array, "height width 3"]:
    """Draws feathered crystals of random places, directions, lengths and heights, over uneven ice.

    Args:
        key: the key.
        height: the number of rows.
        width: the number of columns.

    Returns:
        The colors, mostly in [0, 1].
    """
    crystals_key, ice_key, brightness_key = jax.random.split(key, 3)
    crystals = _crystals(crystals_key, height, width)
    ice = plasma_fractal(ice_key, height, width, 1.9)
    pattern = 0.7 * crystals + 0.6 * ice
    relief = (pattern - pattern.mean()) / jnp.maximum(pattern.std(), 1e-6)
    brightness = 1 + _BRIGHTNESS * jax.random.normal(brightness_key)
    return jnp.asarray(_COLOR) * brightness + _CONTRAST * relief[..., None]


def _crystals(key: PRNGKeyArray, height: int, width: int) -> Array:
    """Draws the height of the highest crystal at each pixel."""
    rows, columns = (-(-size // _SQUARE) + 2 * _REACH for size in (height, width))
    drawn = jax.random.uniform(key, (5, rows, columns))
    y, x = jnp.mgrid[:height, :width]
    highest = jnp.zeros((height, width))
    for down, right in itertools.product(range(2 * _REACH + 1), repeat=2):
        # The numbers of the crystal that grows some squares away from each pixel.
        shifted = drawn[:, down : down + rows - 2 * _REACH, right : right + columns - 2 * _REACH]
        of_pixel = shifted.repeat(_SQUARE, 1).repeat(_SQUARE, 2)[:, :height, :width]
        top, left = (y // _SQUARE + down - _REACH) * _SQUARE, (x // _SQUARE + right - _REACH) * _SQUARE
        place_y, place_x, turn, length, peak = of_pixel
        dy, dx = y - top - _SQUARE * place_y, x - left - _SQUARE * place_x
        angle = jnp.pi * turn
        along = dx * jnp.cos(angle) + dy * jnp.sin(angle)
        across = dy * jnp.cos(angle) - dx * jnp.sin(angle)
        highest = jnp.maximum(highest, peak * _feather(along, across, _SQUARE * (0.5 + (_REACH - 0.5) * length)))
    return highest


def _feather(along: Array, across: Array, length: Array) -> Array:
    """Computes the height of a crystal: a spine, and side branches at 45 degrees that get shorter toward its tips."""
    taper = jnp.clip(1 - abs(along) / length, 0, 1)
    spine = jnp.exp(-((across / 0.7) ** 2))
    fold = (abs(along) - abs(across)) % _BRANCHES - _BRANCHES / 2
    branches = jnp.exp(-((fold / 0.7) ** 2)) * jnp.clip(1 - abs(across) / (0.35 * length * taper + 0.5), 0, 1)
    return taper * jnp.maximum(spine, branches)
