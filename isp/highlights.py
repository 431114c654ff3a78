"""Highlights: what to do where the sensor is saturated.

A saturated site has the value 1 before the gains. The gains set the levels of the channels apart: with gains of 2, 1
and 1.5, a saturated white patch becomes (2, 1, 1.5), which is magenta. Above the least of these levels, the ratio of
the channels is not known.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp._engine import planes
from isp._engine.checks import check_image

Mode = Literal["clip", "desaturate"]
MODES = ("clip", "desaturate")


def highlights(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    gains: Float[Array | np.ndarray, "3"],
    mode: Mode = "clip",
    start: float = 0.8,
) -> Float[Array, "*batch height width 3"]:
    """Makes saturated pixels neutral, for images to which the gains have been applied.

    Args:
        rgb: Images `(..., H, W, 3)` after the gains.
        gains: The gains that have been applied, positive. They are the levels at which the channels saturate; the least
            of them is the level of white.
        mode: "clip" clips each channel at the level of white, as raw converters do by default. "desaturate" moreover
            fades pixels to white as one of their channels approaches its own level.
        start: The fraction of a channel's own level at which "desaturate" begins to fade, in [0, 1).

    Returns:
        The images `(..., H, W, 3)`, with no value above the least gain.

    Raises:
        ValueError: If the mode is unknown, if `start` is not in [0, 1), or if `rgb` is not a floating-point image
            `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> gains = jnp.array([2.0, 1.0, 1.5])
        >>> saturated = isp.color.white_balance(jnp.array([[[1.0, 1.0, 1.0], [0.3, 0.5, 0.4]]]), gains)
        >>> isp.color.highlights(saturated, gains)
        Array([[[1. , 1. , 1. ],
                [0.6, 0.5, 0.6]]], dtype=float32)
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 <= start < 1:
        raise ValueError(f"start must be in [0, 1), got {start}")
    return _highlights(rgb, gains, mode, start)


@jax.jit(static_argnames=("mode", "start"))
def _highlights(rgb: Array, gains: Array, mode: Mode, start: float) -> Array:
    check_image(rgb)
    # Not jnp.min: XLA would compute the reduction anew for each pixel.
    white = functools.reduce(jnp.minimum, [gains[channel] for channel in range(3)])
    channels = planes.split(rgb)
    clipped = [jnp.minimum(plane, white) for plane in channels]
    if mode == "clip":
        return jnp.stack(clipped, -1)
    red, green, blue = (plane / gains[channel] for channel, plane in enumerate(channels))
    fullest = jnp.maximum(jnp.maximum(red, green), blue)
    rise = jnp.clip((fullest - start) / (1 - start), 0, 1)
    fade = rise * rise * (3 - 2 * rise)
    return jnp.stack([plane + fade * (white - plane) for plane in clipped], -1)
