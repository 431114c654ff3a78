"""Random changes of the camera during training: mosaics as another sensor, lens or lamp would have taken them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from isp import Camera, cfa, sensor_drift
from isp.sensor import expose_again, noise_of

# The least deviation of the black level, eight digital numbers of 12 bits: a black level of 0 drifts as well.
_LEAST_BLACK = 8 / (2**12 - 1)


class Ranges(NamedTuple):
    """How much the camera may change.

    Attributes:
        stops: the most stops that the exposure is lowered.
        white: the fewest electrons that white may have then, the square of its ratio of signal to noise.
        gains: the standard deviation of the logarithms of the gains of red and blue.
        black: the standard deviation of the black level, as a fraction of the camera's.
        vignetting: the most stops that the corners lose.
        defocus: the greatest blur, its standard deviation in pixels.
        read_noise: the greatest read-out noise, as a multiple of the camera's.
    """

    stops: float
    white: float
    gains: float
    black: float
    vignetting: float
    defocus: float
    read_noise: float


STRENGTHS = {
    "weak": Ranges(stops=1.6, white=20**2, gains=0.1, black=0.1, vignetting=0.3, defocus=0.4, read_noise=2.0),
    "strong": Ranges(stops=4.6, white=8**2, gains=0.3, black=0.25, vignetting=1.0, defocus=0.8, read_noise=4.0),
}


def retake(
    raw: Float[Array, "batch height width"],
    keys: Key[Array, " batch"],
    camera: Camera,
    augmentation: str,
) -> Float[Array, "batch height width"]:
    """Takes each mosaic of a batch again, with a camera that is drawn at random.

    A quarter of the mosaics stay as they are. For the others, lens and light change first: blur, vignetting, the
    exposure, down to a third ("weak") or 1/24 ("strong") of the camera's own, as long as white keeps a ratio of signal
    to noise of 20 or 8, and the gains of red and blue. Then the sensor adds the noise that is missing at this light,
    see `isp.sensor.expose_again`, with up to twice or four times the camera's read-out noise, and its black level
    moves. The noise follows from the camera's full well and read noise.

    Args:
        raw: mosaics in [0, 1].
        keys: decide the changes of each mosaic.
        camera: the camera that took them.
        augmentation: one of `STRENGTHS`.
    """
    ranges, black_level = STRENGTHS[augmentation], max(camera.black_level)
    stops = min(max(math.log2(noise_of(camera).full_well / ranges.white), 0), ranges.stops)
    deviation = max(ranges.black * black_level, _LEAST_BLACK)

    def one(raw: Array, key: PRNGKeyArray) -> Array:
        exposure, gain, corner, blur, noise, black, draw, kept = jax.random.split(key, 8)
        gains = jnp.exp(ranges.gains * jax.random.normal(gain, (3,)).at[1].set(0))
        light = jnp.exp2(-jax.random.uniform(exposure, maxval=stops)) * cfa.tiled(
            gains[cfa.tile(camera.pattern)], *raw.shape
        )
        light *= sensor_drift.fall_off(raw.shape, jax.random.uniform(corner, maxval=ranges.vignetting))
        blurred, left = sensor_drift.smoothed(raw, jax.random.uniform(blur, maxval=ranges.defocus), camera=camera)
        multiple = jax.random.uniform(noise, minval=1, maxval=ranges.read_noise)
        taken = expose_again(blurred, draw, camera=camera, light=light, read_noise=multiple, kept=left, counts=False)
        taken = jnp.clip(taken + deviation * jax.random.normal(black), 0, 1)
        return jnp.where(jax.random.bernoulli(kept, 0.25), raw, taken)

    return jax.vmap(one)(raw, keys)
