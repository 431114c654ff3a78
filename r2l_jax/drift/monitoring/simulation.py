"""Simulates the reference of a monitor in other camera states: its raw images, their statistics, and derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e
from jaxtyping import Array, Float

import isp
from isp.sensor_drift import QUANTITIES
from r2l_jax.drift.monitoring.camera_noise import converted, with_noise
from r2l_jax.drift.monitoring.statistics import mosaic_statistics

Values = Float[Array | np.ndarray, "fitted *draws"]
Raws = Float[Array | np.ndarray, "n height width"]

# The quantities that mean statistics tell apart. Defective sites are found by their positions.
FITTED = (
    *("exposure", "red_gain", "blue_gain", "vignetting", "defocus"),
    *("read_noise", "photon_noise", "row_noise", "black_level", "saturation", "gamma"),
)

# Above this share of the highest value, sites are white.
WHITE = 0.998


def taken(
    mosaics: Float[np.ndarray, "n height width"],
    state: isp.CameraState,
    camera: isp.Camera,
    *,
    measured: isp.Camera | None = None,
    seed: int = 0,
) -> Float[Array, "n height width"]:
    """Takes raw images again with a camera in another state, which is one sensor; see `isp.sensor_drift.apply`.

    Args:
        mosaics: raw images of the camera in its reference state.
        state: the other state. Values beyond their limits are at them, so factors on noise below 1 change nothing.
        camera: the camera, in whose electrons the state is.
        measured: the camera with the noise of the raw images; None takes `with_noise`.
        seed: the seed of the noise and of the defective sites.
    """
    limits = {name: (each.parameter.low, each.parameter.high) for name, each in QUANTITIES.items()}
    valid = {name: np.clip(value, *limits[name]) for name, value in state.given.items()}
    measured = measured or with_noise(camera, mosaics)
    state = converted(isp.CameraState(**valid), camera, measured)
    key, sensor_key = jax.random.split(jax.random.key(seed))
    return _again(jnp.asarray(mosaics), jax.random.split(key, len(mosaics)), sensor_key, state, measured)


@jax.jit(static_argnames="camera")
def _again(raws: Raws, keys: Array, sensor_key: Array, state: isp.CameraState, camera: isp.Camera) -> Array:
    if camera.pattern == isp.cfa.MONO:
        state = dataclasses.replace(state, red_gain=None, blue_gain=None)

    def take(raw: Array, key: Array) -> Array:
        return isp.sensor_drift.apply(raw, key, state, camera=camera, sensor_key=sensor_key)

    return jax.vmap(take)(jnp.asarray(raws), keys)


def is_log(name: str) -> bool:
    """Tells whether a fit changes the logarithm of a quantity."""
    return QUANTITIES[name].parameter.scale == "log"


def is_variance(name: str) -> bool:
    """Tells whether a fit changes the square of a quantity, because statistics depend on it."""
    return QUANTITIES[name].parameter.low == 0 and not is_log(name)


def numbers(state: isp.CameraState) -> Float[np.ndarray, " fitted"]:
    """Returns the values of `FITTED` as a fit changes them: logarithms of factors, and squares; undoes `state_at`."""
    found = []
    for name in FITTED:
        value = QUANTITIES[name].neutral if name not in state.given else getattr(state, name)
        with np.errstate(divide="ignore"):
            found.append(np.log2(value) if is_log(name) else value**2 if is_variance(name) else value)
    return np.array(found)


NEUTRAL, LOW, HIGH = (
    numbers(isp.CameraState(**{name: each(QUANTITIES[name]) for name in FITTED}))
    for each in (
        lambda each: each.neutral,
        lambda each: each.parameter.low,
        # Finite, because a fit extrapolates far where a statistic hardly depends on a quantity.
        lambda each: min(each.parameter.high, 2.0**10),
    )
)


def state_at(values: Values) -> isp.CameraState:
    """Returns the state of the values of a fit, see `numbers`."""
    found = {}
    for name, value in zip(FITTED, values, strict=True):
        root = jnp.where(value > 0, jnp.sqrt(jnp.maximum(value, 1e-9)), 0)
        found[name] = jnp.exp2(value) if is_log(name) else root if is_variance(name) else value
    return isp.CameraState(**found)


def _statistics(values: Values, raws: Raws, keys: Array, camera: isp.Camera) -> Float[Array, "n k"]:
    """Computes the statistics of raw images that are taken with values of the fit."""
    return mosaic_statistics(_again(raws, keys, keys[0], state_at(values), camera), camera)


statistics = jax.jit(_statistics, static_argnames="camera")


@jax.jit(static_argnames=("camera", "excess"))
def slopes(
    values: Values,
    raws: Raws,
    keys: Array,
    weights: Float[Array | np.ndarray, " n"],
    camera: isp.Camera,
    excess: bool = False,
) -> Float[Array, "k fitted"]:
    """Computes the derivatives of weighted sums of `statistics`, or of those `with_excess`."""
    function = _with_excess if excess else _statistics
    return jax.jacfwd(lambda each: weights.T @ function(each, raws, keys, camera))(values)


def _with_excess(values: Values, raws: Raws, keys: Array, camera: isp.Camera) -> Float[Array, "n k"]:
    """Computes the statistics of new raw images with the noise that the reference in this state has in excess.

    Noise cannot be removed, so the reference is too noisy where its light grows, see `isp.sensor.re_expose`.
    """
    state = state_at(values)
    (full_well, read_noise, _), (height, width) = isp.sensor.noise_of(camera), raws.shape[1:]
    gains = jnp.stack([state.red_gain, jnp.zeros(()), state.blue_gain])[isp.cfa.tile(camera.pattern)]
    gains = jnp.zeros((1, 1)) if camera.pattern == isp.cfa.MONO else gains
    factor = isp.cfa.tiled(jnp.exp2(state.exposure + gains), height, width)
    factor *= isp.sensor_drift.fall_off((height, width), state.vignetting)
    # The share of its noise that the reference has after blurring.
    period = 1 if camera.pattern == isp.cfa.MONO else 2
    own = factor * i0e(2 * jnp.square(state.defocus / period)) ** 2
    linear = _power(raws, 1 / state.gamma)
    raised = state.black_level / (2**12 - 1)
    light = isp.sensor.site_light(linear - raised, camera)
    variance = jnp.maximum(own - state.photon_noise, 0) * jnp.maximum(light, 0) / full_well
    in_the_dark = jnp.maximum(own * factor - (state.photon_noise * state.read_noise) ** 2, 0)
    variance += in_the_dark * (read_noise / full_well) ** 2
    # The derivative of a root is infinite at 0.
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    drawn = jax.vmap(lambda key: jax.random.normal(key, (height, width)))(keys)
    noisy = isp.sensor.from_light(light + deviation * drawn, camera) + raised
    noisy = _power(jnp.minimum(noisy, state.saturation), state.gamma)
    return mosaic_statistics(jnp.where(linear < WHITE * state.saturation, noisy, raws), camera)


def _power(values: Array | np.ndarray, exponent: Array) -> Array:
    """Raises positive values to a power, and others to 0, where derivatives of the power may be infinite."""
    return jnp.where(values > 0, jnp.where(values > 0, values, 1) ** exponent, 0)


with_excess = jax.jit(_with_excess, static_argnames="camera")
