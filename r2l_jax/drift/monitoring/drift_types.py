"""The types of drift in a camera, and raw images under them."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.ndimage import uniform_filter1d
from scipy.optimize import nnls

import isp
from isp import sensor_drift

# The drift type that is another mix of the reference's classes.
SCENE = "scene"

# The units of values. Without a drift, values in stops, digital numbers, pixels and electrons are 0, and factors are 1.
UNITS = {
    "exposure": "stops",
    "white_balance.red": "stops relative to green",
    "white_balance.blue": "stops relative to green",
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
    SCENE: "share of other classes",
    "unexplained": "times chance",
}


class DriftEstimate(NamedTuple):
    """A type of drift between two sets of raw images, and its estimated size.

    Attributes:
        name: a key of `UNITS`. `scene` is another mix of the reference's classes; `unexplained` is a change that
            neither the camera nor the mix explains.
        value: its size in `unit`.
        low: the lower end of its 95% confidence interval.
        high: the upper end.
        unit: the unit of the three.
        evidence: half of the chi-square that only this type explains, minus the part due to chance; above 0.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    evidence: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} {self.unit} ({self.low:.3g} to {self.high:.3g})"


class DriftType(NamedTuple):
    """Describes how the size of a drift type is stated as a number, and searched for.

    Numbers are in stops, digital numbers and fractions of white; factors are logarithms of base 2; and amounts that are
    standard deviations, in pixels or in light, are squared, because statistics depend on the variance.

    Attributes:
        neutral: its number without a drift.
        low: its least number.
        high: its greatest number.
        step: a small change, over which statistics are about linear.
        first: changes at which a search begins.
    """

    neutral: float
    low: float
    high: float
    step: float
    first: tuple[float, ...]


DRIFT_TYPES = {
    "exposure": DriftType(0, -8, 8, 0.02, (-2.0, -0.7, -0.2, 0.2, 0.7, 1.5)),
    "white_balance.red": DriftType(0, -4, 4, 0.02, (-0.6, -0.2, 0.2, 0.6)),
    "white_balance.blue": DriftType(0, -4, 4, 0.02, (-0.6, -0.2, 0.2, 0.6)),
    "black_level": DriftType(0, -1000, 2000, 2, (-40.0, 20.0, 120.0)),
    "gamma": DriftType(0, -2.5, 2.5, 0.02, (-0.4, -0.15, 0.15, 0.4)),
    "blur": DriftType(0, 0, 20, 0.05, (0.5, 2.0, 8.0)),
    "read_noise": DriftType(0, 0, 8, 0.05, (0.6, 1.5, 3.0, 5.0)),
    "photon_noise": DriftType(0, 0, 8, 0.05, (0.6, 1.5, 3.0)),
    "row_noise": DriftType(0, 0, 0.1, 2e-6, (1e-5, 3e-4)),
    "vignetting": DriftType(0, -2, 6, 0.03, (-0.3, 0.2, 0.6, 1.5)),
    "saturation": DriftType(1, 0.02, 1, -0.005, ()),
}
NEUTRAL, LOW, HIGH, STEP = (
    np.array([getattr(drift, name) for drift in DRIFT_TYPES.values()], float)
    for name in ("neutral", "low", "high", "step")
)


def unit_of(name: str, camera: isp.Camera) -> str:
    """Returns the unit of a drift type; for read noise, with typical values if the camera states none."""
    full_well, read_noise, _ = isp.sensor.noise_of(camera)
    is_known = name != "read_noise" or _states_noise(camera)
    return UNITS[name] if is_known else f"times {read_noise:g} of {full_well:g} electrons"


def amount(name: str, number: Float[np.ndarray, "*n"] | float, camera: isp.Camera) -> Float[np.ndarray, "*n"]:
    """Converts numbers of a drift to the unit in which `UNITS` states its size."""
    if name in ("gamma", "read_noise", "photon_noise"):
        return np.asarray(np.exp2(number))
    if name in ("blur", "row_noise"):
        return np.asarray(np.sqrt(number) * (isp.sensor.noise_of(camera).full_well if name == "row_noise" else 1))
    return np.asarray(number)


def numbers_of(drifts: Sequence[DriftEstimate], camera: isp.Camera) -> Float[np.ndarray, " drifts"]:
    """Returns the numbers of drifts, in the order of `DRIFT_TYPES`; the inverse of `amount`."""
    numbers = dict(zip(DRIFT_TYPES, NEUTRAL, strict=True))
    for name, value, *_ in drifts:
        if name in ("gamma", "read_noise", "photon_noise"):
            value = np.log2(max(value, 1e-6))
        if name in ("blur", "row_noise"):
            value = (value / (isp.sensor.noise_of(camera).full_well if name == "row_noise" else 1)) ** 2
        numbers |= {name: value} if name in numbers else {}
    return np.clip([*numbers.values()], LOW, HIGH)


class Noise(NamedTuple):
    """The noise of raw images: the variance per light, the variance without light, and the unit of `read_noise`."""

    gain: float
    dark: float
    unit: float


def noise_of(mosaics: Float[np.ndarray, "n height width"], camera: isp.Camera) -> Noise:
    """Returns the noise that a camera states, or measures it if the camera states none.

    The noise is measured at eight levels, by the median second difference along rows, minus the second difference in
    the next row with the same colors, which shows the same structure. Only sites count where it is smallest two such
    rows above, since only structure reaches that far. A line is fitted to most of the variances.
    """
    full_well, read_noise, _ = isp.sensor.noise_of(camera)
    unit = (read_noise / full_well) ** 2
    if _states_noise(camera):
        return Noise(1 / full_well, unit, unit)
    light = np.asarray(isp.sensor.site_light(mosaics, camera))
    down, along = isp.cfa.tile(camera.pattern).shape
    left, right = (np.roll(light, shift, 2) for shift in (-along, along))
    level, second = (left + light + right) / 3, left - 2 * light + right
    second = abs(second - np.roll(second, down, 1))
    around = np.roll(uniform_filter1d(second, 8, axis=2), 2 * down, 1).ravel()
    level, second = level.ravel(), second.ravel()
    order = np.argsort(level)
    # Leaves out the highest levels, which may be white, unless there are no others.
    lower = order[level[order] < 0.95 * level.max()]
    parts = np.array_split(lower if len(lower) >= 8 else order, 8)
    parts = [part[around[part] <= np.quantile(around[part], 0.3)] for part in parts]
    levels = np.array([level[part].mean() for part in parts])
    # The median of normal noise is 0.6745 standard deviations; two second differences have 12 times its variance.
    variances = np.array([(np.median(second[part]) / 0.6745) ** 2 / 12 for part in parts]) + 1e-12
    columns = np.stack([np.maximum(levels, 0), np.ones_like(levels)], 1) / variances[:, None]

    def near(chosen: Sequence[int]) -> Bool[np.ndarray, " levels"]:
        return abs(columns @ nnls(columns[chosen], np.ones(len(chosen)))[0] - 1) < 0.1

    # Structure raises the noise at some levels, so the line need only fit most of them.
    chosen = max(map(near, map(list, itertools.combinations(range(len(levels)), 2))), key=np.sum)
    gain, dark = nnls(columns[chosen], np.ones(chosen.sum()))[0]
    return Noise(float(gain), float(dark), unit)


def _states_noise(camera: isp.Camera) -> bool:
    return camera.full_well is not None and camera.read_noise is not None


def light_factors(
    numbers: Float[Array, " drifts"], height: int, width: int, camera: isp.Camera
) -> Float[Array, "height width"]:
    """Computes the factors by which drifts change the light at each site."""
    drift = dict(zip(DRIFT_TYPES, numbers, strict=True))
    stops = jnp.stack([drift["white_balance.red"], jnp.zeros(()), drift["white_balance.blue"]])
    stops = stops[isp.cfa.tile(camera.pattern)] if camera.pattern != isp.cfa.MONO else jnp.zeros((1, 1))
    gains = isp.cfa.tiled(jnp.exp2(drift["exposure"] + stops), height, width)
    return gains * sensor_drift.fall_off((height, width), drift["vignetting"])


@functools.partial(jax.jit, static_argnames="camera")
def re_exposed(
    numbers: Float[Array, " drifts"],
    mosaics: Float[Array, "n height width"],
    drawn: tuple[Float[Array, "n height width"], Float[Array, "n height 1"]],
    noise: Noise,
    camera: isp.Camera,
    dimmed: Array | float = 1.0,
) -> Float[Array, "n height width"]:
    """Re-exposes raw images with a drifted camera; drifts apply in the order in which they arise in a camera.

    Raw images keep their noise, and missing noise is added. Noise cannot be removed, so raw images with more light are
    too noisy unless their light is `dimmed` again.

    Args:
        numbers: the drifts, in the order of `DRIFT_TYPES`.
        mosaics: raw images of the camera before it drifted.
        drawn: standard normal numbers for sites and for rows.
        noise: the noise of the raw images.
        camera: the camera before it drifted.
        dimmed: divides the light of the drifted camera, with the noise of the light that is left.
    """
    drift = dict(zip(DRIFT_TYPES, numbers, strict=True))
    raised, gamma, gain = drift["black_level"] / 4095, jnp.exp2(drift["gamma"]), jnp.exp2(drift["photon_noise"])
    height, width = mosaics.shape[1:]
    factor = light_factors(numbers, height, width, camera)
    mosaics, kept = sensor_drift.smoothed(mosaics, jnp.sqrt(drift["blur"]), camera=camera)
    light = isp.sensor.site_light(mosaics, camera) * factor
    top = isp.sensor.site_light(jnp.broadcast_to(drift["saturation"] - raised, (height, width)), camera)
    light_noise, dark = noise.gain * jnp.maximum(light, 0), noise.dark
    own = kept * factor * (light_noise + dark * factor) / dimmed**2
    more = (gain - 1) * light_noise + gain**2 * (dark + noise.unit * (jnp.exp2(2 * drift["read_noise"]) - 1)) - dark
    lacking = light_noise / dimmed + dark + more / dimmed**2 - own
    # Sites that are white before they are dimmed have only the noise of dimming.
    is_white = (dimmed > 1) & (light >= top)
    of_white = noise.gain * top / dimmed * (1 - 1 / dimmed) + dark * (1 - 1 / dimmed**2)
    variance = jnp.where(is_white, of_white, lacking)
    of_sites, of_rows = drawn
    light = jnp.where(is_white, top, light) / dimmed + jnp.sqrt(jnp.maximum(variance, 0)) * of_sites
    light += jnp.sqrt(drift["row_noise"]) / dimmed * of_rows
    values = isp.sensor.from_light(light, camera) + raised
    return jnp.clip(values, 0, jnp.where(dimmed > 1, 1, drift["saturation"])) ** gamma


def under(
    drifts: Sequence[DriftEstimate],
    mosaics: Float[np.ndarray, "n height width"],
    camera: isp.Camera,
    *,
    noise: Noise | None = None,
    seed: int = 0,
) -> Float[Array, "n height width"]:
    """Re-exposes raw images with a drifted camera, see `re_exposed`.

    Factors on noise below 1, `scene` and `unexplained` change nothing.

    Args:
        drifts: the types and sizes of the drift.
        mosaics: raw images of the camera before it drifted.
        camera: that camera, in whose electrons sizes are stated.
        noise: the noise of the raw images; None takes `noise_of` them.
        seed: the seed of the noise and of the dead sites.
    """
    site_key, row_key, dead_key, hot_key = jax.random.split(jax.random.key(seed), 4)
    result, numbers = jnp.asarray(mosaics), numbers_of(drifts, camera)
    if (numbers != NEUTRAL).any():
        drawn = jax.random.normal(site_key, result.shape), jax.random.normal(row_key, (*result.shape[:2], 1))
        numbers = jnp.asarray(numbers, jnp.float32)
        result = re_exposed(numbers, result, drawn, noise or noise_of(mosaics, camera), camera)
    for name, key in (("dead_sites", dead_key), ("hot_sites", hot_key)):
        for drift in drifts:
            if drift.name == name:
                result = getattr(sensor_drift, name)(result, key, drift.value, camera=camera)
    return result
