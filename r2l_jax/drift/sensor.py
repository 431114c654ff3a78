"""Sensor drift as test cases: the kinds of `isp.sensor_drift`, with amounts for five severities.

There is no standard scale, so this module defines one. For a camera of 15,000 electrons and a read noise of 4,
severity 1 is hardly visible, severity 5 is a broken set-up, and the severities between them grow by about equal
factors. For lenses, the nearest list is OpticsBench (P. Müller et al., "Classification robustness to common optical
aberrations", ICCV workshops, 2023).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import isp
from isp import cfa, sensor_drift
from isp.sensor_drift import VALID
from r2l_jax.drift.corruptions.declare import strength
from r2l_jax.model.augment import sample_keys

# The groups of kinds, in the order in which figures show them.
Group = Literal["light", "lens", "read-out"]
ORDER: tuple[Group, ...] = get_args(Group)


class Kind(NamedTuple):
    """A kind of sensor drift.

    Attributes:
        group: where it arises.
        unit: the unit of its amounts.
        amounts: the amount of each severity.
        needs_colors: whether it needs a sensor with color filters.
        is_fixed: whether it is the same in all raw images of a camera, not drawn for each.
        valid: the least and the greatest valid amount.
        neutral: the amount that changes nothing.
    """

    group: Group
    unit: str
    amounts: tuple[float, ...]
    needs_colors: bool = False
    is_fixed: bool = False
    valid: tuple[float, float] = (0.0, np.inf)
    neutral: float = 0.0


KINDS: dict[str, Kind] = {
    "underexposure": Kind("light", "stops", (0.5, 1.0, 2.0, 3.0, 4.5)),
    "overexposure": Kind("light", "stops", (0.25, 0.5, 1.0, 1.5, 2.5)),
    "lamp_color": Kind(
        "light", "mired", (10.0, 30.0, 60.0, 110.0, 180.0), needs_colors=True, valid=VALID["lamp_color"]
    ),
    "color_balance": Kind("light", "stops", (0.1, 0.2, 0.4, 0.7, 1.0), needs_colors=True, valid=(-np.inf, np.inf)),
    "flicker": Kind("light", "percent", (2.0, 5.0, 10.0, 25.0, 50.0), valid=VALID["flicker"]),
    "vignetting": Kind("lens", "stops in the corners", (0.25, 0.5, 1.0, 2.0, 3.0)),
    "defocus": Kind("lens", "pixels RMS", (0.5, 1.0, 1.5, 2.5, 4.0)),
    "motion": Kind("lens", "pixels", (2.0, 4.0, 6.0, 10.0, 16.0), valid=VALID["motion"]),
    "chromatic_aberration": Kind(
        "lens", "pixels in the corners", (0.25, 0.5, 1.0, 2.0, 4.0), needs_colors=True, valid=(-np.inf, np.inf)
    ),
    "read_noise": Kind(
        "read-out", "times the camera's", (4.0, 12.0, 30.0, 75.0, 200.0), valid=VALID["read_noise"], neutral=1.0
    ),
    "row_noise": Kind("read-out", "electrons", (30.0, 75.0, 150.0, 300.0, 600.0)),
    "column_noise": Kind("read-out", "electrons", (30.0, 75.0, 150.0, 300.0, 600.0), is_fixed=True),
    "photon_noise": Kind(
        "read-out", "times the gain", (2.0, 5.0, 15.0, 50.0, 150.0), valid=VALID["photon_noise"], neutral=1.0
    ),
    "hot_sites": Kind(
        "read-out", "per million", (100.0, 500.0, 2000.0, 10000.0, 30000.0), is_fixed=True, valid=VALID["hot_sites"]
    ),
    "dead_sites": Kind(
        "read-out", "per million", (100.0, 500.0, 2000.0, 10000.0, 30000.0), is_fixed=True, valid=VALID["dead_sites"]
    ),
    "bits": Kind("read-out", "bits", (7.0, 6.0, 5.0, 4.0, 3.0), valid=VALID["bits"], neutral=16.0),
    "black_level": Kind(
        "read-out", "digital numbers of 12 bits", (16.0, 40.0, 80.0, 160.0, 320.0), valid=(-4095.0, 4095.0)
    ),
    "pattern_shift": Kind(
        "read-out",
        "percent of the rows",
        (2.0, 10.0, 30.0, 60.0, 100.0),
        needs_colors=True,
        valid=VALID["pattern_shift"],
    ),
}

# For kinds that move the content of raw images, the functions that move masks and boxes in the same way.
MOVING = {"pattern_shift": (sensor_drift.shifted_rows, sensor_drift.shifted_boxes)}


def takes(name: str, camera: isp.Camera) -> bool:
    """Tells whether a kind exists for a camera."""
    return camera.pattern != cfa.MONO or not KINDS[name].needs_colors


def drifted(
    name: str,
    severity: Int[Array, ""] | int,
    raw: Float[Array, "batch height width"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
    camera: isp.Camera,
) -> Float[Array, "batch height width"]:
    """Changes raw images as a drifted sensor does, with noise from the samples' indices and the case's key."""
    kind, drift = KINDS[name], getattr(sensor_drift, name)

    def one(raw: Array, key: PRNGKeyArray) -> Array:
        return drift(raw, key, strength(jnp.asarray(severity), kind.amounts), camera=camera)

    keys, axis = (key, None) if kind.is_fixed else (sample_keys(key, index), 0)
    return jax.vmap(one, (0, axis))(raw, keys)


def together(
    raw: Float[Array, "batch height width"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
    amounts: Mapping[str, Float[Array, ""] | float],
    camera: isp.Camera,
) -> Float[Array, "batch height width"]:
    """Changes raw images as a sensor with several drifts does, in their units, see `isp.sensor_drift.together`."""

    def one(raw: Array, key_of_one: PRNGKeyArray) -> Array:
        return sensor_drift.together(raw, key_of_one, amounts, camera=camera, sensor_key=key)

    return jax.vmap(one)(raw, sample_keys(key, index))


def moved(name: str, severity: Int[Array, ""] | int, targets: Array, shape: tuple[int, ...]) -> Array:
    """Moves masks or boxes with the content of their raw images of a shape, for a kind of `MOVING`."""
    return moved_by(name, strength(jnp.asarray(severity), KINDS[name].amounts), targets, shape)


def moved_by(name: str, amount: Float[Array, ""] | float, targets: Array, shape: tuple[int, ...]) -> Array:
    """Moves masks `(B, H, W)`, or boxes `(B, N, 6)` in float32, as a drift of this amount does."""
    of_masks, of_boxes = MOVING[name]
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return of_boxes(targets, amount, shape)
    return of_masks(targets, amount)
