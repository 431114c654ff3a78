"""Random camera changes during training: raw images as in other light, or from another lens or sensor."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from isp import Camera, CameraState, sensor_drift
from isp.sensor import noise_of

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


def re_expose(
    raw: Float[Array, "batch height width"],
    keys: Key[Array, " batch"],
    camera: Camera,
    purposes: Sequence[str],
) -> Float[Array, "batch height width"]:
    """Takes each raw image of a batch again, with a camera that is drawn from its key.

    A quarter of the images stay as they are. For the others, the purposes say what changes:

    - "exposure": from half a stop less to one and a half stops more, which saturates bright sites.
    - "light": from 4.6 stops less, as long as white keeps a signal-to-noise ratio of 8, to one and a half more.
    - "optics": the corners lose up to one stop, and a blur of up to 2 pixels comes before the sensor.
    - "readout": the read noise rises to up to four times the camera's, rows have noise of up to 150 electrons, and the
      black level moves with a standard deviation of 80 digital numbers.

    The sensor adds the missing noise, see `isp.sensor_drift.apply`.
    """
    darkest = -max(math.log2(noise_of(camera).full_well / _WHITE), 0)
    ranges: dict[str, tuple[float, float]] = {}
    for purpose in sorted(purposes):
        for name, (low, high) in _RANGES[purpose].items():
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
