"""One camera state: all that may differ between a camera and its reference, and raw images as such a camera takes them.

`CameraState` declares each quantity once, with its unit and its valid range. `apply` takes a raw image of the reference
camera and returns the one that a camera in another state would have taken, clipped to [0, 1]. Quantities that are not
given stay as they are and cost nothing, so that one compiled function serves all values of the same quantities. The
eighteen other functions name a single quantity each: `(raw, key, amount, *, camera)`.

Light is measured in fractions of the full well, so electrons follow from the camera's `full_well` and `read_noise`, see
`isp.sensor`. Where light is lost, a raw image gets the noise of the remaining light, see `isp.sensor.re_expose`.
Gradients treat noise as a constant and the steps of a converter as a straight line.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Real

from isp import cfa, lens, unprocessing
from isp._kernels import noise
from isp._kernels.checks import is_traced
from isp._kernels.planes import squared_radii
from isp.camera import Camera
from isp.parameter import Parameter
from isp.sensor import from_light, noise_of, re_expose, site_light

Mosaic = Float[Array, "*batch height width"]
Amount = Real[Array | np.ndarray, ""] | float | int

# The color temperature of the white of sRGB, in mired (a million divided by kelvins).
DAYLIGHT = 1e6 / 6504

# The bands that a flickering lamp leaves in a frame.
BANDS = 4

# Black levels are stated in 12-bit digital numbers for all cameras.
_TWELVE_BITS = 2**12 - 1

# From CIE XYZ to linear sRGB (IEC 61966-2-1).
_XYZ_TO_SRGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))


Group = Literal["light", "lens", "read-out"]


class Quantity(NamedTuple):
    """Declares a quantity of a `CameraState`.

    Attributes:
        parameter: its unit, valid range and scale. The value is neutral: it changes nothing.
        group: where it arises.
        meaning: what a value does, as the rest of a sentence.
        needs_colors: whether it needs a sensor with color filters.
    """

    parameter: Parameter
    group: Group
    meaning: str
    needs_colors: bool = False

    @property
    def neutral(self) -> float:
        """The value that changes nothing."""
        return float(np.asarray(self.parameter.value))

    @property
    def valid_range(self) -> str:
        """The valid values in words, such as `at least 0 (pixels)`."""
        low, high, unit = self.parameter.low, self.parameter.high, self.parameter.unit
        ends = f"from {low:g} to {high:g}" if high < math.inf else "finite" if low < 0 else f"at least {low:g}"
        return f"{ends} ({unit})"

    def valid(self, value: Amount) -> bool:
        """Tells whether a value is valid."""
        return math.isfinite(value) and self.parameter.low <= float(value) <= self.parameter.high


def _quantity(
    group: Group,
    unit: str,
    meaning: str,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    neutral: float = 0.0,
    needs_colors: bool = False,
) -> Any:
    # A neutral value of 1 is a factor.
    parameter = Parameter(neutral, "log" if neutral == 1 else "linear", low=low, high=high, unit=unit)
    return dataclasses.field(
        default=None, metadata={"quantity": Quantity(parameter, group, " ".join(meaning.split()), needs_colors)}
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraState:
    """Holds how a camera differs from its reference: a point in the space of all cameras.

    `QUANTITIES` describes the fields and their units. None means no difference from the reference camera. Values are
    numbers, or arrays with an axis to map over, which `jax.vmap` and `jax.grad` take as any pytree.

    Example:
        >>> state = isp.CameraState(exposure=-1.0, defocus=0.5)
        >>> state.given
        {'exposure': -1.0, 'defocus': 0.5}
        >>> str(state)
        'exposure=-1,defocus=0.5'
    """

    exposure: Any = _quantity("light", "stops", "changes the exposure by this many stops", -20, 20)
    red_gain: Any = _quantity(
        "light", "stops", "brightens the light of red sites by this many stops", -20, 20, needs_colors=True
    )
    blue_gain: Any = _quantity(
        "light", "stops", "brightens the light of blue sites by this many stops", -20, 20, needs_colors=True
    )
    lamp_color: Any = _quantity(
        "light",
        "mired",
        """makes the lamp warmer by this many mired along the Planckian locus, or cooler if the amount is negative. The
        camera keeps its white balance for daylight of 6504 K; green keeps its light""",
        -113,
        446,
        needs_colors=True,
    )
    flicker: Any = _quantity(
        "light",
        "percent",
        """modulates the light of rows by this many percent, in four bands whose phase is drawn for each raw image, as a
        lamp on alternating current does through a rolling shutter""",
        0,
        100,
    )
    vignetting: Any = _quantity(
        "lens",
        "stops in the corners",
        "darkens the corners by this many stops, and other sites in proportion to their squared radius",
        -20,
        20,
    )
    chromatic_aberration: Any = _quantity(
        "lens",
        "pixels in the corners",
        """moves red outward and blue inward, by this many pixels in the corners and elsewhere in proportion to the
        distance from the center. Linear interpolation smooths red and blue, and their noise, a little""",
        needs_colors=True,
    )
    motion: Any = _quantity(
        "lens",
        "pixels",
        """blurs the light along a line of this many pixels, in a direction that is drawn for each raw image: rows,
        columns or a diagonal. The variance is that of a line, amount^2 / 12""",
        0,
        lens.LONGEST_MOTION,
    )
    defocus: Any = _quantity(
        "lens", "pixels RMS", "blurs the light with a Gaussian of this standard deviation in pixels", 0
    )
    read_noise: Any = _quantity(
        "read-out", "times the camera's", "raises the read-out noise to this multiple of the camera's", 1, neutral=1.0
    )
    photon_noise: Any = _quantity(
        "read-out",
        "times the gain",
        """divides the light and multiplies the gain by this factor, as a higher ISO speed does: photon noise grows by
        its square root, and read-out noise by the factor""",
        1,
        neutral=1.0,
    )
    row_noise: Any = _quantity(
        "read-out", "electrons", "adds a random level with this standard deviation to each row of each raw image", 0
    )
    column_noise: Any = _quantity(
        "read-out", "electrons", "adds a random level with this standard deviation to each column of the sensor", 0
    )
    hot_sites: Any = _quantity(
        "read-out", "per million", "saturates this many randomly chosen sites of the sensor in a million", 0, 1e6
    )
    dead_sites: Any = _quantity(
        "read-out", "per million", "darkens this many random sites of the sensor in a million to black", 0, 1e6
    )
    black_level: Any = _quantity(
        "read-out",
        "digital numbers of 12 bits",
        "raises all sites by this many 4095ths of white, as dark current does, but without its noise",
        -_TWELVE_BITS,
        _TWELVE_BITS,
    )
    saturation: Any = _quantity("read-out", "of white", "clips all sites at this fraction of white", 0, 1, neutral=1.0)
    gamma: Any = _quantity(
        "read-out", "exponent", "raises all sites to this power, as a tone curve in a file does", 0.1, 10, neutral=1.0
    )
    bits: Any = _quantity(
        "read-out", "bits", "rounds all sites to this many bits, as a coarser converter does", 1, 16, neutral=16.0
    )
    pattern_shift: Any = _quantity(
        "read-out",
        "percent of the rows",
        """shifts the last rows by one site to the left, as a lost sample does: they have the color of their neighbor.
        `shifted_rows` and `shifted_boxes` move masks and boxes in the same way""",
        0,
        100,
        needs_colors=True,
    )

    @classmethod
    def named(cls, amounts: Mapping[str, Any]) -> "CameraState":
        """Returns the state of drifts, each named after a function of this module or a quantity.

        Raises:
            ValueError: a name is unknown, or two names change one quantity.

        Example:
            >>> isp.CameraState.named({"underexposure": 1.0, "read_noise": 3.0}).given
            {'exposure': -1.0, 'read_noise': 3.0}
        """
        values: dict[str, Any] = {}
        for name, amount in amounts.items():
            if name not in (*NAMED, *QUANTITIES):
                raise ValueError(f"drifts must be among {', '.join((*NAMED, *QUANTITIES))}, got {name}")
            for quantity, factor in NAMED.get(name, {name: 1.0}).items():
                if quantity in values:
                    raise ValueError(f"{name} changes {quantity}, which another drift has changed")
                values[quantity] = amount if factor == 1 else factor * amount
        return cls(**values)

    @property
    def given(self) -> dict[str, Any]:
        """The quantities that are not None."""
        values = ((name, getattr(self, name)) for name in QUANTITIES)
        return {name: value for name, value in values if value is not None}

    def check(self, camera: Camera) -> None:
        """Raises a ValueError if a value is not valid or needs colors that the camera lacks; traced values pass."""
        for name, value in self.given.items():
            quantity = QUANTITIES[name]
            if quantity.needs_colors and camera.pattern == cfa.MONO:
                raise ValueError(f"{name} needs a camera with color filters, got the pattern {cfa.MONO}")
            if is_traced(value) or np.ndim(value):
                continue
            if not quantity.valid(value):
                raise ValueError(f"{name} must be {quantity.valid_range}, got {value}")

    def __str__(self) -> str:
        return ",".join(f"{name}={value:g}" for name, value in self.given.items())


# All quantities by name, grouped by where they arise: the light, the lens, the read-out.
QUANTITIES: dict[str, Quantity] = {field.name: field.metadata["quantity"] for field in dataclasses.fields(CameraState)}

# Drifts under names of their own, and the change of each quantity for an amount of 1.
NAMED: dict[str, dict[str, float]] = {
    "underexposure": {"exposure": -1.0},
    "overexposure": {"exposure": 1.0},
    "color_balance": {"red_gain": 1.0, "blue_gain": -1.0},
}


def apply(
    raw: Mosaic | np.ndarray,
    key: PRNGKeyArray,
    state: CameraState,
    *,
    camera: Camera,
    sensor_key: PRNGKeyArray | None = None,
) -> Mosaic:
    """Returns a raw image as a camera in another state takes it.

    The lens moves and blurs the light, all factors on the light are multiplied, the sensor exposes once, and the
    read-out follows. So each site saturates once, and has the noise of the remaining light.

    Args:
        raw: Raw images `(..., H, W)` in [0, 1].
        key: Draws what differs between exposures. Vectorize over keys and images (`jax.vmap`) for numbers that do not
            depend on the batch.
        state: How the camera differs from the one that took the raw images.
        camera: The camera that took the raw images.
        sensor_key: Draws what all images of a sensor share: defective sites and column noise. If None, `key` draws
            them.

    Returns:
        Raw images `(..., H, W)` in [0, 1].

    Raises:
        ValueError: A value is out of range or needs colors, see `CameraState.check`. A traced value cannot be compared;
            out of range it may give NaN or meaningless raw images.
    """
    state.check(camera)
    # Multiplied, because whole numbers would compile functions of their own.
    return _apply(raw, key, key if sensor_key is None else sensor_key, jax.tree.map(lambda v: 1.0 * v, state), camera)


@jax.jit(static_argnames="camera")
def _apply(raw: Mosaic, key: PRNGKeyArray, sensor_key: PRNGKeyArray, state: CameraState, camera: Camera) -> Mosaic:
    cfa.check_mosaic(raw)
    exact = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
    given = {name: jnp.asarray(value, exact.dtype) for name, value in state.given.items()}
    motion_key, flicker_key, noise_key, row_key = jax.random.split(key, 4)
    column_key, site_key = jax.random.split(jax.random.fold_in(sensor_key, 1))
    of_lens = {name: given[name] for name in ("defocus", "motion", "chromatic_aberration") if name in given}
    result, kept, lost = lens.through(exact, motion_key, camera=camera, **of_lens)
    if not given.keys().isdisjoint(_EXPOSED):
        result = re_expose(
            result,
            noise_key,
            camera=camera,
            light=1.0 if given.keys().isdisjoint(_LIGHT) else _light_factors(exact, flicker_key, given, camera),
            read_noise=given.get("read_noise", 1.0),
            gain=given.get("photon_noise", 1.0),
            kept=kept,
            lost=lost,
        )
    if not given.keys().isdisjoint(("row_noise", "column_noise")):
        rows = given.get("row_noise", 0.0) * noise.normal(row_key, (*raw.shape[:-1], 1))
        columns = given.get("column_noise", 0.0) * noise.normal(column_key, raw.shape[-1:])
        electrons = site_light(result, camera) + (rows + columns) / noise_of(camera).full_well
        result = jnp.clip(from_light(electrons, camera), 0, 1)
    if not given.keys().isdisjoint(("hot_sites", "dead_sites")):
        chosen = noise.uniform(site_key, raw.shape[-2:])
        result = jnp.where(chosen < 1e-6 * given.get("hot_sites", 0.0), 1, result)
        is_dead = 1 - chosen < 1e-6 * given.get("dead_sites", 0.0)
        result = jnp.where(is_dead, from_light(jnp.zeros_like(result), camera), result)
    if "black_level" in given:
        result = jnp.clip(result + given["black_level"] / _TWELVE_BITS, 0, 1)
    if "saturation" in given:
        result = jnp.minimum(result, given["saturation"])
    if "gamma" in given:
        # A power below 1 has no finite slope at 0.
        result = jnp.where(result > 0, jnp.where(result > 0, result, 1) ** given["gamma"], 0)
    if "bits" in given:
        top = jnp.exp2(given["bits"]) - 1
        steps = jnp.clip(result, 0, 1) * top
        result = (steps + jax.lax.stop_gradient(jnp.round(steps) - steps)) / top
    if "pattern_shift" in given:
        result = shifted_rows(result, given["pattern_shift"])
    return jnp.clip(result, 0, 1).astype(raw.dtype)


def _named(name: str) -> Callable[..., Mosaic]:
    """Returns the function that changes a single quantity."""
    changes = NAMED.get(name, {name: 1.0})

    def drift(raw: Mosaic | np.ndarray, key: PRNGKeyArray, amount: Amount, *, camera: Camera) -> Mosaic:
        return apply(raw, key, CameraState.named({name: amount}), camera=camera)

    drift.__name__ = drift.__qualname__ = name
    said = "; ".join(
        QUANTITIES[each].meaning + (", times -1" if factor < 0 else "") for each, factor in changes.items()
    )
    # The changes of drifts with names of their own have symmetric ranges.
    valid = QUANTITIES[next(iter(changes))].valid_range
    drift.__doc__ = f"{said[0].upper()}{said[1:]}. Amounts are {valid}; others raise a ValueError. See `apply`."
    return drift


underexposure = _named("underexposure")
overexposure = _named("overexposure")
color_balance = _named("color_balance")
lamp_color = _named("lamp_color")
flicker = _named("flicker")
vignetting = _named("vignetting")
chromatic_aberration = _named("chromatic_aberration")
motion = _named("motion")
defocus = _named("defocus")
read_noise = _named("read_noise")
photon_noise = _named("photon_noise")
row_noise = _named("row_noise")
column_noise = _named("column_noise")
hot_sites = _named("hot_sites")
dead_sites = _named("dead_sites")
black_level = _named("black_level")
bits = _named("bits")
pattern_shift = _named("pattern_shift")


def difference(camera: Camera, reference: Camera) -> CameraState:
    """Computes the state of a camera as far as the calibration values of it and its reference tell.

    A lower white balance gain stands for proportionally more light at the sites of its color. A camera with less noise
    counts as one with the same noise. Calibration values have few digits, so differences below half a digital number of
    12 bits, or half a hundredth of a stop or of a noise's factor, are rounding.
    """
    levels = np.mean(np.asarray(camera.black_level)) - np.mean(np.asarray(reference.black_level))
    found = {"black_level": float(round(_TWELVE_BITS * levels))}
    if camera.pattern != cfa.MONO:
        gains, known = (np.ravel(np.asarray(each.white_balance)) for each in (camera, reference))
        red, green, blue = np.log2(known / gains)
        found |= {"red_gain": round(float(red - green), 2), "blue_gain": round(float(blue - green), 2)}
    new, old = noise_of(camera), noise_of(reference)
    if camera.full_well is not None:
        found["photon_noise"] = round(max(old.full_well / new.full_well, 1.0), 2)
    if camera.read_noise is not None:
        found["read_noise"] = round(max(new.read_noise / old.read_noise, 1.0), 2)
    return CameraState(**found)


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


# The quantities for which the sensor exposes again.
_LIGHT = ("exposure", "red_gain", "blue_gain", "lamp_color", "flicker", "vignetting")
_EXPOSED = (*_LIGHT, "motion", "defocus", "read_noise", "photon_noise")


def _light_factors(raw: Array, key: PRNGKeyArray, given: Mapping[str, Array], camera: Camera) -> Array:
    """Computes the factor by which a state changes the light of each site."""
    factors = jnp.exp2(given.get("exposure", jnp.zeros((), raw.dtype)))
    gains = jnp.ones(3, raw.dtype)
    if not given.keys().isdisjoint(("red_gain", "blue_gain")):
        gains = jnp.exp2(jnp.stack([jnp.asarray(given.get(name, 0.0)) for name in ("red_gain", "", "blue_gain")]))
    if "lamp_color" in given:
        # Computed alike, so that an amount of 0 makes gains of exactly 1.
        of_lamps = jax.vmap(planckian)(DAYLIGHT + given["lamp_color"] * jnp.array([0.0, 1.0], raw.dtype))
        daylight, lamp = unprocessing.to_camera(of_lamps[None], camera)[0]
        of_lamp = lamp / daylight
        gains *= jnp.maximum(of_lamp / of_lamp[1], 0)
    if not given.keys().isdisjoint(("red_gain", "blue_gain", "lamp_color")):
        factors *= cfa.tiled(gains.astype(raw.dtype)[cfa.tile(camera.pattern)], *raw.shape[-2:])
    if "flicker" in given:
        phase = 2 * jnp.pi * noise.uniform(key, (*raw.shape[:-2], 1, 1))
        rows = jnp.arange(raw.shape[-2], dtype=raw.dtype)[:, None] / raw.shape[-2]
        factors *= jnp.maximum(1 + given["flicker"] / 100 * jnp.sin(2 * jnp.pi * BANDS * rows + phase), 0)
    if "vignetting" in given:
        factors *= fall_off(raw.shape, given["vignetting"])
    return factors
