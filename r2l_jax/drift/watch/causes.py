"""What may change in a camera, and mosaics under such changes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import isp
from isp import sensor_drift
from r2l_jax.drift.watch.response import states_noise
from r2l_jax.drift.watch.results import Cause

# The units of values. Without a drift, they are 0 in stops, digital numbers, pixels and electrons, and 1 as a factor.
UNITS = {
    "exposure": "stops",
    "white_balance.red": "stops against green",
    "white_balance.blue": "stops against green",
    "black_level": "digital numbers of 12 bits",
    "gamma": "exponent",
    "blur": "pixels RMS",
    "read_noise": "times the camera's",
    "photon_noise": "times the gain",
    "row_noise": "electrons",
    "vignetting": "stops in the corners",
    "saturation": "of white",
    "dead_sites": "per million",
    "hot_sites": "per million",
    "scene": "share of other classes",
    "unexplained": "times chance",
}


def unit_of(name: str, camera: isp.Camera) -> str:
    """Returns the unit of a cause; of the read-out noise, it has typical values where the camera states none."""
    full_well, read_noise, _ = isp.sensor.noise_of(camera)
    is_known = name != "read_noise" or states_noise(camera)
    return UNITS[name] if is_known else f"times {read_noise:g} of {full_well:g} electrons"


def under(
    causes: Sequence[Cause],
    mosaics: Float[Array | np.ndarray, "n height width"],
    camera: isp.Camera,
    *,
    noisy: isp.Camera | None = None,
    seed: int = 0,
) -> Float[Array, "n height width"]:
    """Takes mosaics again with a camera that has drifted.

    Drifts are applied in the order in which a camera meets them, whatever the order of the causes. Noise that mosaics
    have cannot be taken away: brighter ones are noisier than a real exposure, see `isp.sensor.expose_again`, and
    factors on noise below 1 change nothing. `scene` and `unexplained` change nothing either.

    Args:
        causes: the causes.
        mosaics: mosaics of the camera before it drifted.
        camera: that camera, in whose electrons causes are stated.
        noisy: the camera with the noise of the mosaics, see `response.with_noise_of`; None if `camera` states it.
        seed: the seed of the noise and of the dead sites.
    """
    amounts = {cause.name: cause.value for cause in causes}
    blur_key, read_key, gain_key, row_key, site_key, hot_key = jax.random.split(jax.random.key(seed), 6)
    result, noisy = jnp.asarray(mosaics), noisy or camera
    light = _light(amounts, result.shape, camera)
    if "blur" in amounts or light is not None:
        result, kept = sensor_drift.smoothed(result, amounts.get("blur", 0.0), camera=camera)
        result = isp.sensor.expose_again(
            result, blur_key, camera=noisy, light=1.0 if light is None else light, kept=kept
        )
    gain, read = (max(amounts.get(name, 1.0), 1.0) for name in ("photon_noise", "read_noise"))
    if gain > 1:
        result = sensor_drift.photon_noise(result, gain_key, gain, camera=noisy)
    if read > 1:
        # The gain raises the noise that the read-out has gained, too.
        read = (1 + gain**2 * (read**2 - 1)) ** 0.5
        result = sensor_drift.read_noise(result, read_key, read, camera=camera)
    for name, key in (
        ("row_noise", row_key),
        ("dead_sites", site_key),
        ("hot_sites", hot_key),
        ("black_level", site_key),
    ):
        if name in amounts:
            result = getattr(sensor_drift, name)(result, key, amounts[name], camera=camera)
    return jnp.minimum(result, amounts.get("saturation", 1.0)) ** amounts.get("gamma", 1.0)


def _light(amounts: dict[str, float], shape: tuple[int, ...], camera: isp.Camera) -> Array | None:
    """Computes the factors on the light of sites; None if no cause changes it."""
    if not amounts.keys() & {"exposure", "white_balance.red", "white_balance.blue", "vignetting"}:
        return None
    stops = jnp.array([amounts.get("white_balance.red", 0.0), 0.0, amounts.get("white_balance.blue", 0.0)])
    gains = jnp.exp2(amounts.get("exposure", 0.0) + stops)[isp.cfa.tile(camera.pattern)]
    if camera.pattern == isp.cfa.MONO:
        gains = jnp.exp2(jnp.full((1, 1), amounts.get("exposure", 0.0)))
    return isp.cfa.tiled(gains, *shape[-2:]) * sensor_drift.fall_off(shape, amounts.get("vignetting", 0.0))
