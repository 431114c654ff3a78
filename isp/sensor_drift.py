"""Sensor drift in physical units: how raw images change with the sensor, the lens and the lamp.

All functions have one signature, `(raw, key, amount, *, camera)`: a raw image `(..., H, W)` in [0, 1], a random key,
the amount in the unit that each function states, and the camera that took the image. They return the raw image of the
drifted camera, clipped to [0, 1]. An amount of 0 changes nothing, unless a function states another one. An amount
outside of its range in `VALID` raises a ValueError; a traced one cannot be compared, and may give NaN or meaningless
raw images. One compiled function serves all amounts. Deterministic functions ignore the key. Gradients treat noise as a
constant and the steps of a converter as a straight line.

Light is measured in fractions of the full well, so electrons follow from the camera's `full_well` and `read_noise`, see
`isp.sensor`. Where light is lost, a raw image gets the noise of the remaining light, see `isp.sensor.expose_again`.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jax.scipy.special import i0e
from jaxtyping import Array, Float, PRNGKeyArray, Real

from isp import cfa, demosaic, unprocessing
from isp._kernels.checks import is_traced
from isp._kernels.planes import squared_radii
from isp.camera import Camera
from isp.sensor import expose_again, from_light, noise_of, site_light

Mosaic = Float[Array, "*batch height width"]
Amount = Real[Array, ""] | float | int

# The longest motion blur in pixels.
LONGEST_MOTION = 32

# The least and the greatest valid amounts of drifts. All finite amounts of the others are valid.
VALID = {
    **dict.fromkeys(("defocus", "row_noise", "column_noise"), (0.0, math.inf)),
    **dict.fromkeys(("read_noise", "photon_noise"), (1.0, math.inf)),
    **dict.fromkeys(("hot_sites", "dead_sites"), (0.0, 1e6)),
    **dict.fromkeys(("flicker", "pattern_shift"), (0.0, 100.0)),
    "motion": (0.0, LONGEST_MOTION),
    "lamp_color": (-113.0, 446.0),
    "bits": (1.0, 16.0),
}

# The color temperature of the white of sRGB, in mired (a million divided by kelvins).
DAYLIGHT = 1e6 / 6504

# The bands that a flickering lamp leaves in a frame.
BANDS = 4

Drift = Callable[..., Mosaic]

# From CIE XYZ to linear sRGB (IEC 61966-2-1).
_XYZ_TO_SRGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))


def _drift(function: Drift) -> Drift:
    """Compiles a drift for all amounts, checks them, clips its raw images, and computes in at least 32 bits."""

    @jax.jit(static_argnames="camera")
    def drifted(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
        cfa.check_mosaic(raw)
        exact = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
        result = function(exact, key, jnp.asarray(amount, exact.dtype), camera=camera)
        return jnp.clip(result, 0, 1).astype(raw.dtype)

    @functools.wraps(function)
    def checked(raw: Mosaic | np.ndarray, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
        _check(function.__name__, amount)
        return drifted(raw, key, amount, camera=camera)

    return checked


def _check(name: str, amount: Amount) -> None:
    """Raises a ValueError if an amount is out of range; a traced one cannot be compared."""
    if is_traced(amount):
        return
    low, high = VALID.get(name, (-math.inf, math.inf))
    if not (math.isfinite(amount) and low <= amount <= high):
        valid = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}" if name in VALID else "finite"
        raise ValueError(f"{name} must be {valid}, got {amount}")


@_drift
def read_noise(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Raises the read-out noise to a multiple of the camera's, as in a noisier amplifier. 1 changes nothing."""
    return expose_again(raw, key, camera=camera, read_noise=amount)


@_drift
def row_noise(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Adds a random level to each row, with this standard deviation in electrons, as from an unsteady supply."""
    return _with_electrons(raw, amount * jax.random.normal(key, (*raw.shape[:-1], 1), raw.dtype), camera)


@_drift
def column_noise(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Adds a random level to each column, with this standard deviation in electrons, as from unequal amplifiers.

    One key draws the same levels for every raw image.
    """
    level = jax.random.normal(key, raw.shape[-1:], raw.dtype)
    return _with_electrons(raw, amount * level, camera)


@_drift
def photon_noise(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Divides the light and multiplies the gain by this factor, at the same brightness. 1 changes nothing.

    As at a higher ISO speed, photon noise grows by the square root of the gain. Read-out noise grows by the gain; in
    cameras that amplify before they add most of it, it grows less.
    """
    dimmed = site_light(expose_again(raw, key, camera=camera, light=1 / amount), camera)
    return from_light(amount * dimmed, camera)


@_drift
def hot_sites(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Saturates this many randomly chosen sites in a million. One key makes the same sites hot in every raw image."""
    return jnp.where(_chosen(raw, key, amount), jnp.ones_like(raw), raw)


@_drift
def dead_sites(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Darkens this many random sites in a million to the black level, the same ones in every raw image."""
    return jnp.where(_chosen(raw, key, amount), from_light(jnp.zeros_like(raw), camera), raw)


@_drift
def vignetting(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Darkens the corners by this many stops, and other sites in proportion to their squared radius."""
    return _lit(raw, key, camera, vignetting=amount)


@_drift
def defocus(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Blurs the light with a Gaussian of this standard deviation in pixels, like a lens out of focus.

    See `smoothed` for the blur. The noise that it removes is added again, because the sensor keeps its noise.
    """
    blurred, kept = smoothed(raw, amount, camera=camera)
    return expose_again(blurred, key, camera=camera, kept=kept)


@_drift
def motion(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Blurs the light along a line of this many pixels, as a camera that moves during the exposure does.

    The direction is drawn for each raw image of a batch: along rows, along columns, or along one of the diagonals. The
    blur has the variance of a line, amount^2 / 12. Tiles of more than 2x2 sites are interpolated first, as in
    `smoothed`. The sensor keeps its noise, as for `defocus`. A traced amount above 32 pixels is cut off there.
    """
    direction_key, noise_key = jax.random.split(key)
    steps = jnp.array([[0, 1], [1, 0], [1, 1], [1, -1]])
    steps = steps[jax.random.randint(direction_key, raw.shape[:-2], 0, len(steps))]
    period = _period(camera)
    # A step along a diagonal is longer.
    variance = jnp.square(amount) / 12 / (period**2 * (steps**2).sum(-1))
    taps = _line(variance.astype(raw.dtype), LONGEST_MOTION // (2 * period) + 1)
    blurred = _by_plane(raw, functools.partial(_moved, steps=steps, taps=taps), camera)
    kept = 2 * (taps**2).sum(-1) - taps[..., 0] ** 2
    return expose_again(blurred, noise_key, camera=camera, kept=kept[..., None, None])


@_drift
def lamp_color(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Makes the lamp warmer by this many mired along the Planckian locus, or cooler if the amount is negative.

    The camera keeps its white balance for daylight of 6504 K. A color temperature becomes a gain for each color,
    through the camera's color matrix; green keeps its light. Temperatures of 1667 to 25000 K are valid, that is,
    amounts from -113 to 446. A lamp color outside the camera's gamut leaves a color without light.

    Source of the locus: B. Kim et al., "Design of advanced color temperature control system for HDTV applications",
    Journal of the Korean Physical Society (2002).
    """
    return _lit(raw, key, camera, lamp_color=amount)


@_drift
def flicker(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Modulates the light of rows by this many percent, in four bands, like a lamp on alternating current.

    A rolling shutter exposes the rows one after the other. The phase of the bands is drawn for each raw image of a
    batch.
    """
    phase_key, noise_key = jax.random.split(key)
    return _lit(raw, noise_key, camera, phase_key, flicker=amount)


@_drift
def overexposure(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Increases the exposure by this many stops, so that bright sites saturate."""
    return _lit(raw, key, camera, exposure=amount)


@_drift
def underexposure(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Reduces the exposure by this many stops, with the noise of the remaining light."""
    return _lit(raw, key, camera, underexposure=amount)


@_drift
def bits(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Rounds to this many bits, the step of a coarser converter. The camera's `bits` change nothing."""
    top = jnp.exp2(amount) - 1
    steps = jnp.clip(raw, 0, 1) * top
    return (steps + jax.lax.stop_gradient(jnp.round(steps) - steps)) / top


@_drift
def black_level(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Raises all sites by this many 12-bit digital numbers, as dark current does, but without its noise.

    A digital number is 1/4095 of white, whatever the camera's `bits`, so an amount is the same for all cameras.
    """
    return raw + amount / (2**12 - 1)


@_drift
def color_balance(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Makes red sites brighter and blue sites darker by this many stops of light."""
    return _lit(raw, key, camera, color_balance=amount)


@_drift
def chromatic_aberration(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Moves red outward and blue inward, by this many pixels in the corners, like a lens with lateral color.

    Elsewhere, the shift is proportional to the distance from the center. Red and blue are interpolated linearly between
    their sites, which smooths them and their noise a little.
    """
    height, width = raw.shape[-2:]
    y, x = (jnp.arange(side, dtype=raw.dtype) - (side - 1) / 2 for side in (height, width))
    radius = np.hypot(height - 1, width - 1) / 2

    def scaled(plane: Array, factor: Array) -> Array:
        """Reads each site from a place at `factor` times its distance from the middle."""
        rows, columns = y * factor + (height - 1) / 2, x * factor + (width - 1) / 2
        return map_coordinates(plane, jnp.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")

    def one(mosaic: Array) -> Array:
        rgb = demosaic.normalized(mosaic, pattern=camera.pattern)
        # In a frame that is smaller than the distance, red comes from the middle.
        red, blue = (
            scaled(rgb[..., color], jnp.maximum(1 - sign * amount / radius, 0)) for color, sign in ((0, 1), (2, -1))
        )
        return cfa.mosaic(jnp.stack([red, rgb[..., 1], blue], -1), camera.pattern)

    light = jax.vmap(one)(site_light(raw, camera).reshape(-1, height, width)).reshape(raw.shape)
    return from_light(light, camera)


@_drift
def pattern_shift(raw: Mosaic, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
    """Shifts the last rows (this many percent of the frame) by one site to the left, as a lost sample does.

    Sites in these rows have the color of their neighbor. `shifted_rows` moves masks in the same way.
    """
    return shifted_rows(raw, amount)


def together(
    raw: Mosaic | np.ndarray,
    key: PRNGKeyArray,
    amounts: Mapping[str, Amount],
    *,
    camera: Camera,
    sensor_key: PRNGKeyArray | None = None,
    counts: bool = True,
) -> Mosaic:
    """Applies several drifts in the order in which they arise in a camera: in the lens, the light and the read-out.

    The factors of all drifts of the light are multiplied, and the sensor exposes once, with their read noise and gain.
    So each site saturates once, and has the noise of the remaining light.

    Args:
        raw: Raw images `(..., H, W)` in [0, 1].
        key: Draws the properties that differ between exposures.
        amounts: The amount of each drift, in the unit of the function of this name. Also, `exposure`, `red_gain` and
            `blue_gain` raise the light of all, red or blue sites by this many stops.
        camera: The camera that took the raw images.
        sensor_key: Draws the properties shared by all images of a camera: defective sites, and column noise. If None,
            `key` draws them.
        counts: Whether photon noise follows from Poisson counts, see `isp.sensor.expose_again`.

    Returns:
        Raw images `(..., H, W)` in [0, 1].

    Raises:
        ValueError: a name in `amounts` is unknown, an amount is outside of its range in `VALID`, or a color drift is
            given for a camera without color filters.
    """
    if unknown := amounts.keys() - {*_LENS, *LIGHT, *_EXPOSED, *_READ_OUT}:
        raise ValueError(f"amounts must be named after drifts, got {', '.join(sorted(unknown))}")
    for name, amount in amounts.items():
        _check(name, amount)
    # Multiplied, because whole numbers would compile functions of their own.
    return _together(raw, key, {name: 1.0 * amount for name, amount in amounts.items()}, sensor_key, camera, counts)


@jax.jit(static_argnames=("camera", "counts"))
def _together(
    raw: Mosaic,
    key: PRNGKeyArray,
    amounts: dict[str, Amount],
    sensor_key: PRNGKeyArray | None,
    camera: Camera,
    counts: bool,
) -> Mosaic:
    cfa.check_mosaic(raw)
    result, kept = raw.astype(jnp.promote_types(raw.dtype, jnp.float32)), 1.0
    for number, name in enumerate(_LENS):
        if name in amounts:
            result = globals()[name](result, jax.random.fold_in(key, number), amounts[name], camera=camera)
    if "defocus" in amounts:
        result, kept = smoothed(result, amounts["defocus"], camera=camera)
    factors = {name: amount for name, amount in amounts.items() if name in LIGHT}
    gain = amounts.get("photon_noise", 1.0)
    if factors or not amounts.keys().isdisjoint(_EXPOSED):
        light = _light(result, jax.random.fold_in(key, len(_LENS)), camera, factors) / gain
        noise = amounts.get("read_noise", 1.0)
        result = expose_again(result, key, camera=camera, light=light, read_noise=noise, kept=kept, counts=counts)
    if "photon_noise" in amounts:
        result = jnp.clip(from_light(gain * site_light(result, camera), camera), 0, 1)
    for number, name in enumerate(_READ_OUT, len(_LENS) + 1):
        if name in amounts:
            drawn = sensor_key if name in _OF_CAMERA and sensor_key is not None else key
            result = globals()[name](result, jax.random.fold_in(drawn, number), amounts[name], camera=camera)
    return result.astype(raw.dtype)


@jax.jit
def shifted_rows(values: Array, percent: Amount) -> Array:
    """Shifts the last rows by one column to the left; the last column gets the values of its left neighbor.

    Args:
        values: Mosaics or masks `(..., H, W)`.
        percent: The share of the rows, rounded to whole rows.
    """
    height = values.shape[-2]
    shifted = jnp.concatenate([values[..., 1:], values[..., -2:-1]], -1)
    first = height - jnp.round(height * jnp.asarray(percent) / 100)
    return jnp.where(jnp.arange(height)[:, None] >= first, shifted, values)


@jax.jit(static_argnames="shape")
def shifted_boxes(boxes: Array, percent: Amount, shape: tuple[int, ...]) -> Array:
    """Moves boxes as `shifted_rows` moves what they hold: each holds the moved mask of its inside.

    Args:
        boxes: Boxes `(..., N, 4 or more)`: x1, y1, x2, y2 in pixels, and what else is known of them, which stays.
        percent: The share of the rows, rounded to whole rows.
        shape: The height and width of the mosaics.
    """
    height, width = shape
    first = height - jnp.round(height * jnp.asarray(percent) / 100)
    x1, y1, x2, y2 = jnp.moveaxis(boxes[..., :4], -1, 0)
    # Beyond the last column, which repeats its neighbor, nothing can move in.
    left = jnp.where(y2 > first, jnp.maximum(x1 - 1, 0), x1)
    right = jnp.where((y1 >= first) & (x2 < width), x2 - 1, x2)
    return jnp.concatenate([jnp.stack([left, y1, right, y2], -1), boxes[..., 4:]], -1)


@jax.jit(static_argnames="camera")
def smoothed(raw: Mosaic, pixels: Amount, *, camera: Camera) -> tuple[Mosaic, Float[Array, ""]]:
    """Smooths the light of raw images, and their noise, with a Gaussian.

    Each site is smoothed with the sites at the same place in other tiles. The standard deviation is exact, since
    nothing is interpolated. For patterns with tiles of more than 2x2 sites, `demosaic.normalized` interpolates first,
    which adds up to 0.8 pixels to the variance.

    Args:
        pixels: The standard deviation of the Gaussian, nonnegative.

    Returns:
        The raw images, and the remaining share of their noise variance, see `isp.sensor.expose_again`.
    """
    variance = jnp.square(jnp.asarray(pixels, raw.dtype)) / _period(camera) ** 2
    # The squares of the weights along an axis sum to the middle weight of a Gaussian of twice the variance.
    return _by_plane(raw, functools.partial(_smoothed, variance=variance), camera), i0e(2 * variance) ** 2


def fall_off(shape: tuple[int, ...], stops: Amount) -> Float[Array, "height width"]:
    """Computes the share of light that a vignetting lens transmits, 2 ** (-stops r^2), with r = 1 in the corners.

    Args:
        shape: A shape that ends with the height and the width.
        stops: The stops that the corners lose.
    """
    height, width = shape[-2:]
    rows, columns = squared_radii(height, width, jnp.dtype("float32"))
    return jnp.exp2(-jnp.asarray(stops) * (rows[:, None] + columns))


def planckian(mired: Amount) -> Float[Array, "3"]:
    """Computes the linear sRGB of a black body at a color temperature, with a luminance of 1.

    Args:
        mired: A million divided by the temperature in kelvins, 40 to 600.

    Example:
        >>> np.asarray(isp.sensor_drift.planckian(1e6 / 6504)).round(2)
        array([1.04, 0.98, 1.04], dtype=float32)
    """
    t = jnp.asarray(mired, jnp.float32) / 1000  # Reciprocal kilokelvins.
    x = jnp.where(
        mired < 250,
        ((-3.0258469 * t + 2.1070379) * t + 0.2226347) * t + 0.24039,
        ((-0.2661239 * t - 0.2343589) * t + 0.8776956) * t + 0.17991,
    )
    y = jnp.where(
        mired < 250,
        ((3.081758 * x - 5.8733867) * x + 3.75112997) * x - 0.37001483,
        jnp.where(
            mired < 1e6 / 2222,
            ((-0.9549476 * x - 1.37418593) * x + 2.09137015) * x - 0.16748867,
            ((-1.1063814 * x - 1.3481102) * x + 2.18555832) * x - 0.20219683,
        ),
    )
    xyz = jnp.stack([x / y, jnp.ones_like(x), (1 - x - y) / y])
    return jnp.matmul(jnp.array(_XYZ_TO_SRGB, jnp.float32), xyz, precision="highest")


# How light drifts change the light of each site: factors from an image, a key, an amount and the camera.
LIGHT: dict[str, Callable[[Array, Array, Array, Camera], Array]] = {
    "exposure": lambda raw, key, stops, camera: jnp.exp2(stops),
    "underexposure": lambda raw, key, stops, camera: jnp.exp2(-stops),
    "overexposure": lambda raw, key, stops, camera: jnp.exp2(stops),
    "red_gain": lambda raw, key, stops, camera: _in_stops(raw, stops, (1.0, 0.0, 0.0), camera),
    "blue_gain": lambda raw, key, stops, camera: _in_stops(raw, stops, (0.0, 0.0, 1.0), camera),
    "color_balance": lambda raw, key, stops, camera: _in_stops(raw, stops, (1.0, 0.0, -1.0), camera),
    "lamp_color": lambda raw, key, mired, camera: _of_lamp(raw, mired, camera),
    "vignetting": lambda raw, key, stops, camera: fall_off(raw.shape, stops),
    "flicker": lambda raw, key, percent, camera: _of_bands(raw, key, percent),
}

# The other drifts in the order in which `together` applies them: before, in and after the exposure; and those that are
# the same in all images of a camera.
_LENS, _EXPOSED = ("chromatic_aberration", "motion"), ("defocus", "read_noise", "photon_noise")
_READ_OUT = ("row_noise", "column_noise", "hot_sites", "dead_sites", "black_level", "bits", "pattern_shift")
_OF_CAMERA = ("column_noise", "hot_sites", "dead_sites")


def _lit(raw: Array, key: PRNGKeyArray, camera: Camera, drawn: PRNGKeyArray | None = None, **amounts: Amount) -> Array:
    """Exposes a raw image again under light drifts."""
    light = _light(raw, key if drawn is None else drawn, camera, amounts)
    return expose_again(raw, key, camera=camera, light=light)


def _light(raw: Array, key: PRNGKeyArray, camera: Camera, amounts: Mapping[str, Amount]) -> Array:
    """Multiplies the factors of light drifts."""
    factors = (LIGHT[name](raw, key, jnp.asarray(amount, raw.dtype), camera) for name, amount in amounts.items())
    return functools.reduce(jnp.multiply, factors, jnp.ones((), raw.dtype))


def _in_stops(raw: Array, stops: Array, of_colors: tuple[float, ...], camera: Camera) -> Array:
    return _by_color(raw, jnp.exp2(stops * jnp.array(of_colors, raw.dtype)), camera)


def _of_lamp(raw: Array, mired: Array, camera: Camera) -> Array:
    # Computed alike, so that an amount of 0 makes gains of exactly 1.
    of_lamps = jax.vmap(planckian)(DAYLIGHT + mired * jnp.array([0.0, 1.0], raw.dtype))
    daylight, lamp = unprocessing.to_camera(of_lamps[None], camera)[0]
    gains = lamp / daylight
    return _by_color(raw, jnp.maximum(gains / gains[1], 0), camera)


def _of_bands(raw: Array, key: PRNGKeyArray, percent: Array) -> Array:
    phase = jax.random.uniform(key, (*raw.shape[:-2], 1, 1), raw.dtype, 0, 2 * jnp.pi)
    rows = jnp.arange(raw.shape[-2], dtype=raw.dtype)[:, None] / raw.shape[-2]
    return jnp.maximum(1 + percent / 100 * jnp.sin(2 * jnp.pi * BANDS * rows + phase), 0)


def _with_electrons(raw: Array, electrons: Array, camera: Camera) -> Array:
    """Adds electrons to a raw image."""
    return from_light(site_light(raw, camera) + electrons / noise_of(camera).full_well, camera)


def _chosen(raw: Array, key: PRNGKeyArray, amount: Amount) -> Array:
    """Chooses this many sites in a million of a frame at random."""
    return jax.random.uniform(key, raw.shape[-2:]) < amount * 1e-6


def _by_color(raw: Array, gains: Array, camera: Camera) -> Array:
    """Spreads the gain of each color over its sites; raises a ValueError if the sensor has no color filters."""
    if camera.pattern == cfa.MONO:
        raise ValueError("camera must have color filters, got the pattern MONO")
    return cfa.tiled(jnp.asarray(gains, raw.dtype)[cfa.tile(camera.pattern)], *raw.shape[-2:])


def _by_plane(raw: Array, blur: Callable[..., Array], camera: Camera) -> Array:
    """Blurs each site with those at the same place of other tiles, or with interpolated colors of larger tiles."""
    light, tile = site_light(raw, camera), cfa.tile(camera.pattern)
    *batch, height, width = light.shape
    period = _period(camera)
    if period < len(tile):
        planes = jnp.moveaxis(demosaic.normalized(light, pattern=camera.pattern), -1, -3)
        blurred = cfa.mosaic(jnp.moveaxis(blur(planes), -3, -1), camera.pattern)
        return from_light(blurred, camera)
    planes = light.reshape(*batch, height // period, period, width // period, period)
    planes = jnp.moveaxis(planes, (-3, -1), (-4, -3)).reshape(*batch, period**2, height // period, width // period)
    blurred = blur(planes).reshape(*batch, period, period, height // period, width // period)
    return from_light(jnp.moveaxis(blurred, (-4, -3), (-3, -1)).reshape(raw.shape), camera)


def _period(camera: Camera) -> int:
    """Returns the distance in pixels between the rows of a plane to blur: a tile of at most 2x2 sites, or 1."""
    rows, columns = cfa.tile(camera.pattern).shape
    return rows if rows == columns <= 2 else 1


def _smoothed(planes: Array, *, variance: Array) -> Array:
    """Smooths planes with a discrete Gaussian of exactly this variance; borders are reflected."""
    down, along = (_heat_kernel(side, variance, planes.dtype) for side in planes.shape[-2:])
    return jnp.matmul(jnp.matmul(down, planes, precision="highest"), along, precision="highest")


def _heat_kernel(side: int, variance: Array, dtype: jnp.dtype) -> Array:
    """Computes the matrix of the discrete Gaussian: T. Lindeberg, "Scale-space for discrete signals", PAMI (1990)."""
    frequencies, places = np.arange(side)[:, None], np.arange(side) + 0.5
    cosines = np.cos(np.pi * frequencies * places / side) * np.sqrt(2 / side)
    cosines[0] /= np.sqrt(2)
    cosines = jnp.asarray(cosines, dtype)
    decay = jnp.exp(-variance * jnp.asarray(1 - np.cos(np.pi * frequencies / side), dtype))
    return jnp.matmul(cosines.T, decay * cosines, precision="highest")


def _moved(planes: Array, *, steps: Array, taps: Array) -> Array:
    """Smooths planes along lines, by weights at distances of 0, 1, ... steps (rows, columns); borders repeat."""
    reach = taps.shape[-1] - 1
    batch = steps.shape[:-1]
    count = int(np.prod(batch))

    def one(planes: Array, step: Array, taps: Array) -> Array:
        padded = jnp.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="edge")

        def add(total: Array, at: Array) -> tuple[Array, None]:
            start = (0, *(reach + at * step))
            return total + taps[abs(at)] * jax.lax.dynamic_slice(padded, start, planes.shape), None

        return jax.lax.scan(add, jnp.zeros_like(planes), jnp.arange(-reach, reach + 1))[0]

    each = (array.reshape(count, *array.shape[len(batch) :]) for array in (planes, steps, taps))
    return jax.vmap(one)(*each).reshape(planes.shape)


def _line(variance: Array, reach: int) -> Array:
    """Computes the weights of lines with exactly this variance, at distances of 0 to `reach` steps."""
    variance, distances = variance[..., None], jnp.arange(reach + 1)
    # A line of m whole steps to both sides has the variance m (m + 1) / 3.
    whole = jnp.floor((jnp.sqrt(1 + 12 * variance) - 1) / 2)
    squares = whole * (whole + 1) * (2 * whole + 1) / 3
    share = (variance * (1 + 2 * whole) - squares) / (2 * ((whole + 1) ** 2 - variance))
    weights = jnp.clip(whole + 1 - distances, 0, 1) + share * (distances == whole + 1)
    return weights / (2 * weights.sum(-1, keepdims=True) - weights[..., :1])
