"""Random camera changes during training: raw images as in other light, or from another lens or sensor."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from isp import Camera, sensor_drift
from isp.sensor import noise_of

# The maximum reduction of the exposure in stops, and the minimum electrons at white: the square of its signal-to-noise
# ratio.
_STOPS = math.log2(24)
_WHITE = 8**2

# The maximum loss of light in the corners in stops, and the maximum standard deviation of the blur in pixels.
_CORNERS = 1.0
_BLUR = 0.8

# The maximum read noise, as a multiple of the camera's, and the standard deviation of the black level in 12-bit digital
# numbers.
_READ_NOISE = 4.0
_BLACK = 80.0


def re_expose(
    raw: Float[Array, "batch height width"],
    keys: Key[Array, " batch"],
    camera: Camera,
    purposes: Sequence[str],
) -> Float[Array, "batch height width"]:
    """Re-exposes each raw image of a batch, all taken by `camera`, with a camera drawn from its key.

    A quarter of the images stay as they are. For the others, the purposes say what changes:

    - "light": the exposure falls by up to 4.6 stops, to 1/24, as long as white keeps a signal-to-noise ratio of 8.
    - "optics": the corners lose up to one stop, and a blur of up to 0.8 pixels comes before the sensor.
    - "readout": the read noise rises to up to four times the camera's, and the black level moves.

    The sensor adds the missing noise, see `isp.sensor_drift.together`.
    """
    most = min(max(math.log2(noise_of(camera).full_well / _WHITE), 0), _STOPS)

    def one(raw: Array, key: PRNGKeyArray) -> Array:
        exposure, corner, blur, noise, black, draw, kept = jax.random.split(key, 7)
        amounts = {}
        if "light" in purposes:
            amounts["underexposure"] = jax.random.uniform(exposure, maxval=most)
        if "optics" in purposes:
            amounts["vignetting"] = jax.random.uniform(corner, maxval=_CORNERS)
            amounts["defocus"] = jax.random.uniform(blur, maxval=_BLUR)
        if "readout" in purposes:
            amounts["read_noise"] = jax.random.uniform(noise, minval=1, maxval=_READ_NOISE)
            amounts["black_level"] = _BLACK * jax.random.normal(black)
        taken = sensor_drift.together(raw, draw, amounts, camera=camera, counts=False)
        return jnp.where(jax.random.bernoulli(kept, 0.25), raw, taken)

    return jax.vmap(one)(raw, keys)
