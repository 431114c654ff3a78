"""How drifts of a camera and other shares of the classes change what its mosaics show.

The reference is measured once. Its levels then follow every drift site by site, its spectrum and its noise by formulas,
and only blur is simulated, at a few widths. So a fit costs a few evaluations of small arrays, and causes are computed
together, in the order in which a camera meets them: blur, fall-off, exposure and gains, noise, black level, saturation,
and the gamma of the delivered data.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from scipy.optimize import nnls

import isp
from r2l_jax.drift.watch.moments import PILE, RINGS, Moments, NoiseCurve, block_means, block_side, noise_curve, rings

SCENE = "scene"


class Drift(NamedTuple):
    """Describes a number of `theta`.

    Attributes:
        neutral: its value without a drift.
        low: its least value.
        high: its greatest value.
        width: a usual change, at most as far as the first step of a fit goes.
    """

    neutral: float
    low: float
    high: float
    width: float


# In stops, digital numbers and fractions of white; factors as logarithms of base 2; and for amounts that are standard
# deviations, in pixels or in light, the variance, because measurements depend on it.
DRIFTS = {
    "exposure": Drift(0, -8, 8, 1),
    "white_balance.red": Drift(0, -4, 4, 1),
    "white_balance.blue": Drift(0, -4, 4, 1),
    "black_level": Drift(0, -1000, 2000, 40),
    "gamma": Drift(0, -2.5, 2.5, 0.5),
    "blur": Drift(0, 0, 20, 1),
    "read_noise": Drift(0, -4, 8, 1),
    "photon_noise": Drift(0, -4, 8, 1),
    "row_noise": Drift(0, 0, 0.1, 1e-5),
    "vignetting": Drift(0, -2, 6, 1),
    "saturation": Drift(1, 0.02, 1, 0.1),
}


def amount(name: str, number: Float[np.ndarray, "*n"] | float, camera: isp.Camera) -> Float[np.ndarray, "*n"]:
    """Converts numbers of `theta` to the unit in which `causes.UNITS` states the cause."""
    if name in ("gamma", "read_noise", "photon_noise"):
        return np.asarray(np.exp2(number))
    if name in ("blur", "row_noise"):
        unit = isp.sensor.noise_of(camera).full_well if name == "row_noise" else 1
        return np.asarray(np.sqrt(number) * unit)
    return np.asarray(number)


# Standard deviations of the simulated blurs, in pixels.
_BLURS = (0.0, 0.7, 1.0, 1.5, 2.0, 3.0, 4.5)
_PROBABILITIES = np.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
_ZONES = 4
_BANDS = 4
# Shares of sites that pile up at the highest value are compared above this floor.
_FLOOR = 1e-3
_TINY = 1e-9
# Noise at which the levels of blocks are simulated, as multiples of their own.
_SPREADS = (1.0, 1.5, 2.5, 5.0, 10.0)
# A bin of the noise curve tells about noise if structure has no more than this share of its variance.
_CLEAN = 0.05


class Reference(NamedTuple):
    """Holds what the reference shows.

    Attributes:
        blocks: its block means at each of the simulated blurs `(blurs, N, colors, rows, columns)`.
        texture: the variance of the sites in each block that is not noise, in light `(N, colors, rows, columns)`.
        lost: by how much white lowers the mean of each block `(N, colors, rows, columns)`.
        shifts: how far noise in the blocks moves the quantiles of their levels, for each of `_SPREADS` times their own
            noise `(spreads, N, colors, probabilities)`.
        sites: the number of sites of each color in a block, and of rows with such sites `(2, colors)`.
        radii: squared distance of each block from the middle, 1 in the corners `(rows, columns)`.
        power: see `Moments`.
        rows: see `Moments`.
        columns: see `Moments`.
        black: the black level of each color.
        gain: the variance of the noise of light, per light.
        dark: the variance of the noise without light, in light.
        unit: the variance that `read_noise` multiplies, in light; the rest of `dark` stays.
        level: the light of each bin of the noise curve.
        excess: the logarithm of the measured variance over that of `gain` and `dark`, in each bin.
        frequencies: the decay of each ring of the spectrum under a blur of variance 1.
        members: 1 where a mosaic belongs to a class `(N, classes)`.
    """

    blocks: Float[Array, "blurs n colors rows columns"]
    texture: Float[Array, "n colors rows columns"]
    lost: Float[Array, "n colors rows columns"]
    shifts: Float[Array, "spreads n colors probabilities"]
    sites: Float[Array, "2 colors"]
    radii: Float[Array, "rows columns"]
    power: Float[Array, "n rings"]
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]
    black: Float[Array, " colors"]
    gain: Float[Array, ""]
    dark: Float[Array, ""]
    unit: Float[Array, ""]
    level: Float[Array, " bins"]
    excess: Float[Array, " bins"]
    frequencies: Float[Array, " rings"]
    members: Float[Array, "n classes"]


def reference_of(
    mosaics: Float[Array, "n height width"],
    moments: Moments,
    curve: NoiseCurve,
    members: Float[np.ndarray, "n classes"],
    camera: isp.Camera,
) -> Reference:
    """Measures how the reference responds to blur, and joins it with its moments."""
    pattern = camera.pattern
    tile = isp.cfa.tile(pattern)
    height, width = mosaics.shape[1:]
    black = _black_of_colors(camera)
    blurred = jnp.stack([moments.blocks, *(_blurred_blocks(mosaics, blur, camera) for blur in _BLURS[1:])])
    mean_black = float(black[:2][-1])
    light = (curve.level - mean_black) / (1 - mean_black)
    gain, dark = _noise_line(curve, mean_black, camera)
    full_well, read_noise, _ = isp.sensor.noise_of(camera)
    modeled = np.log((gain * np.maximum(light, 0) + dark) * (1 - mean_black) ** 2)
    rows, columns = (
        ((np.arange(count) + 0.5) * side - length / 2) / (length / 2)
        for count, side, length in zip(blurred.shape[-2:], block_side(pattern), (height, width), strict=True)
    )
    # The structure that is left raises the noise at some levels. It does not move with the light.
    excess = (np.log(curve.variance) - modeled) / (1 + (curve.structure / _CLEAN) ** 2)
    sites = jnp.asarray(_in_block(pattern), jnp.float32)
    colors = jnp.asarray(black, jnp.float32)
    noise = _noise_of(moments.blocks, colors, gain, dark)
    texture, lost = _within_blocks(mosaics, moments.blocks, colors, noise, sites[0], pattern)
    return Reference(
        blocks=blurred,
        texture=texture,
        lost=lost,
        shifts=_shifts(moments.blocks, colors, noise, sites[0]),
        sites=sites,
        radii=jnp.asarray((rows[:, None] ** 2 + columns**2) / 2, jnp.float32),
        power=moments.power,
        rows=moments.rows,
        columns=moments.columns,
        black=colors,
        gain=jnp.float32(gain),
        dark=jnp.float32(dark),
        unit=jnp.float32(np.square(read_noise / full_well)),
        level=jnp.asarray(light, jnp.float32),
        excess=jnp.asarray(excess, jnp.float32),
        frequencies=jnp.asarray(_decay(height // tile.shape[0], width // tile.shape[1], tile.shape), jnp.float32),
        members=jnp.asarray(members, jnp.float32),
    )


def _in_block(pattern: str) -> np.ndarray:
    """Counts the sites of each color in a block, and the rows that hold such sites `(2, colors)`."""
    tile, (down, across) = isp.cfa.tile(pattern), block_side(pattern)
    block = np.tile(tile, (down // tile.shape[0], across // tile.shape[1]))
    masks = [block == color for color in range(tile.max() + 1)]
    return np.array([[mask.sum() for mask in masks], [mask.any(1).sum() for mask in masks]])


def _black_of_colors(camera: isp.Camera) -> np.ndarray:
    tile = isp.cfa.tile(camera.pattern)
    levels = np.asarray(isp.cfa.black_levels(np.asarray(camera.black_level), camera.pattern, *tile.shape))
    return np.array([levels[tile == color].mean() for color in range(tile.max() + 1)])


@functools.partial(jax.jit, static_argnames="camera")
def _blurred_blocks(mosaics: Array, blur: Array, camera: isp.Camera) -> Array:
    return block_means(isp.sensor_drift.smoothed(mosaics, blur, camera=camera)[0], camera.pattern)


def _noise_of(blocks: Array, black: Array, gain: Array | float, dark: Array | float) -> Array:
    """Computes the variance of the noise of sites in blocks, in light."""
    black = black[:, None, None]
    return gain * jnp.maximum(blocks - black, 0) / (1 - black) + dark


@functools.partial(jax.jit, static_argnames="pattern")
def _within_blocks(
    mosaics: Array, blocks: Array, black: Array, noise: Array, sites: Array, pattern: str
) -> tuple[Array, Array]:
    """Computes the variance of the sites in each block beyond their noise, and by how much white lowers their mean."""
    variance = block_means(jnp.square(mosaics), pattern) - jnp.square(blocks)
    sites, span = sites[:, None, None], 1 - black[:, None, None]
    texture = jnp.maximum(variance * sites / jnp.maximum(sites - 1, 1) / jnp.square(span) - noise, 0)
    return texture, _cut_off(blocks, 1.0, span * jnp.sqrt(noise + texture + _TINY))


@jax.jit
def _shifts(blocks: Array, black: Array, noise: Array, sites: Array) -> Array:
    """Simulates how quantiles of levels move with noise."""
    span = 1 - black[:, None, None]
    own = span * jnp.sqrt(noise.mean((0, 2, 3)) / sites)[:, None, None]
    drawn = own * jax.random.normal(jax.random.key(0), blocks.shape)
    start = _quantiles(blocks)
    return jnp.stack([_quantiles(blocks + drawn * np.sqrt(spread**2 - 1)) - start for spread in _SPREADS])


def _noise_line(curve: NoiseCurve, black: float, camera: isp.Camera) -> tuple[float, float]:
    """Fits variance = gain * light + dark, not negative; dark is the camera's, if it states one.

    Bright scenes hardly show the noise of the read-out.
    """
    span = 1 - black
    variance = curve.variance / span**2
    weight = 1 / np.hypot(0.02, 2 * curve.structure) / variance
    light = np.maximum(curve.level - black, 0) / span
    if not states_noise(camera):
        gain, dark = nnls(np.stack([light, np.ones_like(light)], -1) * weight[:, None], variance * weight)[0]
    else:
        full_well, read_noise, bits = isp.sensor.noise_of(camera)
        dark = float(read_noise / full_well) ** 2 + 1 / (2**bits - 1) ** 2 / 12 / span**2
        gain = max((weight**2 * light) @ (variance - dark) / ((weight * light) @ (weight * light) + _TINY), 0)
    return float(gain) + _TINY, float(dark) + _TINY


def states_noise(camera: isp.Camera) -> bool:
    """Tells whether a camera states its noise."""
    return camera.full_well is not None and camera.read_noise is not None


def with_noise_of(mosaics: Float[np.ndarray, "n height width"], camera: isp.Camera) -> isp.Camera:
    """Adds the noise of mosaics to the camera that took them, unless it states its noise."""
    if states_noise(camera):
        return camera
    gain, dark = _noise_line(noise_curve(mosaics, camera.pattern), float(_black_of_colors(camera)[:2][-1]), camera)
    return dataclasses.replace(camera, full_well=1 / gain, read_noise=dark**0.5 / gain)


def _decay(height: int, width: int, tile: tuple[int, int]) -> np.ndarray:
    """Computes the decay of each ring: the squared frequency, in radians per pixel."""
    down, across = (
        (np.pi * np.arange(side) / side / period) ** 2 for side, period in zip((height, width), tile, strict=True)
    )
    ring = rings(height, width).ravel()
    decay = (down[:, None] + across).ravel()
    return np.bincount(ring, decay, RINGS + 1)[:RINGS] / np.maximum(np.bincount(ring, minlength=RINGS + 1)[:RINGS], 1)


class Observed(NamedTuple):
    """Holds what is compared.

    Attributes:
        values: the statistics `(K,)`.
        influence: by how much each mosaic moves each statistic, times N `(N, K)`; their mean is 0.
        kinds: "level", "zone", "line", "band", "noise" or "pile" for each statistic.
    """

    values: Float[np.ndarray, " k"]
    influence: Float[np.ndarray, "n k"]
    kinds: Sequence[str]


def observed(mosaics: Float[np.ndarray, "n height width"], moments: Moments, curve: NoiseCurve) -> Observed:
    """Computes the statistics of mosaics that `predicted` computes for the reference under drifts."""
    radii = _radii_like(np.asarray(moments.blocks))
    levels = np.asarray(_levels(moments.blocks, radii), np.float64)
    power = np.asarray(_in_bands(moments.power), np.float64)
    top = float(mosaics.max())
    pile = (mosaics >= top - PILE).mean((1, 2), dtype=np.float64)
    direct = np.concatenate([levels, np.stack([moments.rows, moments.columns], -1)], 1)
    values = [direct.mean(0), np.log(power.mean(0)), np.log(curve.variance), np.log(pile.mean(keepdims=True) + _FLOOR)]
    influences = [
        direct - direct.mean(0),
        power / power.mean(0) - 1,
        curve.influence,
        ((pile - pile.mean()) / (pile.mean() + _FLOOR))[:, None],
    ]
    levels_and_zones = ["level"] * (levels.shape[1] - _ZONES + 1) + ["zone"] * (_ZONES - 1)
    kinds = [*levels_and_zones, *["line"] * 2, *["band"] * _BANDS, *["noise"] * len(curve.variance), "pile"]
    return Observed(np.concatenate(values), np.concatenate(influences, 1), kinds)


def _radii_like(blocks: np.ndarray) -> Array:
    rows, columns = (np.linspace(-1, 1, 2 * side + 1)[1::2] for side in blocks.shape[-2:])
    return jnp.asarray((rows[:, None] ** 2 + columns**2) / 2, jnp.float32)


@jax.jit
def _levels(blocks: Float[Array, "n colors rows columns"], radii: Float[Array, "rows columns"]) -> Float[Array, "n k"]:
    """Computes quantiles of the levels of each color, and how much zones around the middle differ from the mean."""
    return jnp.concatenate([_quantiles(blocks).reshape(len(blocks), -1), _zones(blocks, radii)], -1)


def _quantiles(blocks: Float[Array, "n colors rows columns"]) -> Float[Array, "n colors probabilities"]:
    flat = blocks.reshape(*blocks.shape[:2], -1)
    place = _PROBABILITIES * (flat.shape[-1] - 1)
    low = place.astype(int)
    ordered = _sorted(jax.lax.stop_gradient(flat))
    # Derivatives follow the blocks with these levels. Equality could miss one that is computed twice and rounded
    # differently.
    below, above = (
        jnp.take_along_axis(flat, abs(flat[..., None, :] - ordered[..., each, None]).argmin(-1), -1)
        for each in (low, np.minimum(low + 1, flat.shape[-1] - 1))
    )
    return below + (above - below) * (place - low).astype(np.float32)


def _sorted(values: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    """Sorts as integers, which takes a fifth of the time on a CPU."""

    def ordered(integers: Array) -> Array:
        # Negative numbers are stored as sign and magnitude.
        return integers ^ ((integers >> 31) & 0x7FFFFFFF)

    integers = ordered(jax.lax.bitcast_convert_type(values, jnp.int32))
    return jax.lax.bitcast_convert_type(ordered(jnp.sort(integers)), jnp.float32)


def _zones(blocks: Float[Array, "n colors rows columns"], radii: Float[Array, "rows columns"]) -> Float[Array, "n k"]:
    zone = jnp.minimum((radii.ravel() * 1.5 * _ZONES).astype(int), _ZONES - 1)
    share = jax.nn.one_hot(zone, _ZONES)
    flat = blocks.reshape(*blocks.shape[:2], -1)
    means = (flat @ share / jnp.maximum(share.sum(0), 1)).mean(1)
    return (means - flat.mean((1, 2))[:, None])[:, 1:]


def _contrast(planes: Float[Array, "n rows columns"]) -> Float[Array, " n"]:
    """Computes the squared differences of adjacent blocks, which smooth shading hardly changes."""
    down, across = (jnp.square(jnp.diff(planes, axis=axis)).sum((1, 2)) for axis in (1, 2))
    return down + across


def _in_bands(power: Float[Array, "*n rings"]) -> Float[Array, "*n bands"]:
    return power.reshape(*power.shape[:-1], _BANDS, -1).mean(-1)


def predicted(
    theta: Float[Array, " drifts"],
    logits: Float[Array, " classes"],
    reference: Reference,
    level: Float[Array, " bins"],
    top: Float[Array, ""],
) -> Float[Array, " k"]:
    """Computes the statistics that the reference would have.

    Args:
        theta: the drifts, in the order of `DRIFTS`.
        logits: logarithms of factors on the shares of the classes.
        reference: the reference.
        level: the levels at which the noise of the other mosaics was measured.
        top: the highest value of the other mosaics.
    """
    drift = dict(zip(DRIFTS, theta, strict=True))
    weights = reference.members @ jnp.exp(logits)
    weights = weights / weights.sum()
    blocks = _interpolated(reference.blocks, drift["blur"])
    taken = _taken(blocks, drift, reference)
    quantiles = _quantiles(taken.values) + _shift(taken, drift, reference)
    levels = jnp.concatenate([quantiles.reshape(len(weights), -1), _zones(taken.values, reference.radii)], -1)
    green = min(1, len(reference.black) - 1)
    scale = weights @ _contrast(taken.values[:, green]) / (weights @ _contrast(blocks[:, green]) + _TINY)
    rows = scale * reference.rows + jnp.square(taken.slope).mean((1, 2, 3)) * drift["row_noise"]
    lines = jnp.stack([rows, scale * reference.columns], -1)
    bands = _in_bands(_power(taken, scale, drift["blur"], green, reference))
    return jnp.concatenate(
        [
            weights @ levels,
            weights @ lines,
            jnp.log(jnp.maximum(weights @ bands, 1e-12)),
            _curve(level, drift, green, reference),
            jnp.log(weights @ _pile(taken, top ** jnp.exp2(-drift["gamma"])) + _FLOOR)[None],
        ]
    )


class _Taken(NamedTuple):
    """Holds blocks under drifts.

    Attributes:
        values: what is delivered.
        linear: the value before saturation and gamma.
        limit: the value at which sites saturate, before gamma.
        factor: the factor on the light.
        noise: the variance of the noise of a site, in light.
        spread: the standard deviation of a site before saturation, rows included.
        slope: how much delivered values grow with the light; 0 where sites saturate.
    """

    values: Array
    linear: Array
    limit: Array
    factor: Array
    noise: Array
    spread: Array
    slope: Array


def _taken(blocks: Array, drift: dict[str, Array], reference: Reference) -> _Taken:
    black, gamma = reference.black[:, None, None], jnp.exp2(drift["gamma"])
    stops = drift["exposure"] + _of_colors(drift, len(black))[:, None, None]
    factor = jnp.exp2(stops - drift["vignetting"] * reference.radii)
    light = (blocks - black) / (1 - black) * factor
    noise = _noise(light, drift, reference)
    linear = black + (1 - black) * light + drift["black_level"] / 4095
    variance = jnp.square(1 - black) * (noise + drift["row_noise"] + _TINY)
    # Sites of a block also differ by the texture of the scene.
    among = jnp.sqrt(variance + jnp.square((1 - black) * factor) * reference.texture)
    limit = jnp.minimum(drift["saturation"], 1.0)
    # The mosaics of the reference lack what white has cut off, but the scene has it.
    clipped = linear + factor * reference.lost - _cut_off(linear, limit, among)
    # The mean of a power is not the power of the mean.
    bent = 1 + gamma * (gamma - 1) / 2 * jnp.square(among / jnp.maximum(clipped, 4 * among))
    slope = (1 - black) * _steepness(clipped, gamma) * norm.cdf((limit - linear) / among)
    values = jnp.maximum(clipped, 1e-4) ** gamma * bent
    return _Taken(values, linear, limit, factor, noise, jnp.sqrt(variance), slope)


def _steepness(linear: Array, gamma: Array) -> Array:
    return gamma * jnp.maximum(linear, 1e-3) ** (gamma - 1)


def _shift(taken: _Taken, drift: dict[str, Array], reference: Reference) -> Array:
    """Computes how far the change of the noise moves the quantiles of the levels of blocks."""
    gamma, (sites, rows) = jnp.exp2(drift["gamma"]), reference.sites
    factor = taken.factor.mean((1, 2))
    own = _own_noise(reference).mean((0, 2, 3)) / sites
    now = (taken.noise.mean((0, 2, 3)) / sites + drift["row_noise"] / rows) / factor**2
    linear = _quantiles(taken.linear)
    spread = taken.spread.mean((0, 2, 3))[:, None]
    bend = _steepness(jnp.minimum(linear, taken.limit), gamma)
    slope = factor[:, None] * bend * norm.cdf((taken.limit - linear) / spread)
    return slope * _shifted(reference.shifts, jnp.sqrt(now / own))


def _own_noise(reference: Reference) -> Array:
    """Computes the variance of the noise of the reference, in light."""
    return _noise_of(reference.blocks[0], reference.black, reference.gain, reference.dark)


def _power(taken: _Taken, scale: Array, blur: Array, green: int, reference: Reference) -> Array:
    """Computes the spectrum: the scene is scaled and blurred, and noise is as it is."""
    own = (1 - reference.black[green]) ** 2 * _own_noise(reference)[:, green].mean((1, 2))
    now = (jnp.square(taken.slope) * taken.noise)[:, green].mean((1, 2))
    kept = scale * jnp.exp(-blur * reference.frequencies)
    return kept * (reference.power - own[:, None]) + now[:, None]


def _pile(taken: _Taken, top: Array) -> Array:
    """Computes the share of sites within `PILE` of the highest value before gamma."""
    above = norm.cdf((taken.linear - top + PILE) / taken.spread)
    beyond = norm.cdf((taken.linear - top - PILE) / taken.spread)
    return (above - jnp.where(taken.limit <= top + PILE, 0, beyond)).mean((1, 2, 3))


def _of_colors(drift: dict[str, Array], colors: int) -> Array:
    return jnp.stack([drift["white_balance.red"], jnp.float32(0), drift["white_balance.blue"]])[:colors] * (colors > 1)


def _interpolated(blocks: Float[Array, "blurs ..."], variance: Array) -> Array:
    """Interpolates between the simulated blurs, linearly in their variance."""
    nodes = jnp.asarray(np.square(_BLURS), jnp.float32)
    last = jnp.clip(jnp.searchsorted(nodes, variance, side="right"), 1, len(nodes) - 1)
    share = (variance - nodes[last - 1]) / (nodes[last] - nodes[last - 1])
    return (1 - share) * blocks[last - 1] + share * blocks[last]


def _shifted(shifts: Float[Array, "spreads n colors k"], spread: Float[Array, " colors"]) -> Float[Array, "n colors k"]:
    """Interpolates between the simulated noise, linearly in its spread; less noise goes on as a little more begins."""
    nodes = jnp.array(_SPREADS)
    last = jnp.clip(jnp.searchsorted(nodes, spread, side="right"), 1, len(nodes) - 1)
    share = ((spread - nodes[last - 1]) / (nodes[last] - nodes[last - 1]))[:, None]
    colors = jnp.arange(shifts.shape[2])
    low, high = (jnp.moveaxis(shifts[number, :, colors], 0, 1) for number in (last - 1, last))
    return (1 - share) * low + share * high


def _noise(light: Array, drift: dict[str, Array], reference: Reference) -> Array:
    """Computes the variance of the noise at a light; a higher gain raises that without light by its square."""
    gain = jnp.exp2(drift["photon_noise"])
    dark = reference.dark + reference.unit * (jnp.exp2(2 * drift["read_noise"]) - 1)
    return gain * reference.gain * jnp.maximum(light, 0) + gain**2 * jnp.maximum(dark, _TINY)


def _curve(level: Array, drift: dict[str, Array], green: int, reference: Reference) -> Array:
    """Computes the logarithm of the variance of the noise of delivered values."""
    black, gamma = reference.black[green], jnp.exp2(drift["gamma"])
    linear = jnp.maximum(level, 1e-4) ** (1 / gamma)
    light = (linear - drift["black_level"] / 4095 - black) / (1 - black)
    variance = jnp.square((1 - black) * _steepness(linear, gamma)) * _noise(light, drift, reference)
    return jnp.log(variance) + jnp.interp(light, reference.level, reference.excess)


def _cut_off(values: Array, limit: Array | float, spread: Array) -> Array:
    """Computes by how much a limit lowers the mean of normally distributed values."""
    distance = (values - limit) / spread
    return spread * (norm.pdf(distance) + distance * norm.cdf(distance))
