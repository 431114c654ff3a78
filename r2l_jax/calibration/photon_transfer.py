"""The photon transfer method: the gain of a sensor from the growth of its noise with the light.

The number of electrons of a site is Poisson distributed, so its variance equals its mean. In the values that a camera
writes, the variance of light of mean m is m / K for a gain of K electrons per unit (EMVA Standard 1288, release 4.0
linear, which calls 1 / K the overall system gain).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

# The line is fitted to light below this fraction of the range, if there is enough of it, as in EMVA 1288.
_LINEAR = 0.7


@dataclasses.dataclass(frozen=True)
class Point:
    """Holds what the good sites of one color measure at one exposure.

    Attributes:
        channel: 0 for red, 1 for green, 2 for blue.
        mean: the light: the mean of the flats less that of the darks.
        variance: the temporal variance that the light adds to that of the darks.
        fitted: whether the line is fitted to it.
    """

    channel: int
    mean: float
    variance: float
    fitted: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """Holds the fit of one place in the tile.

    Attributes:
        gain: electrons per unit.
        error: the standard error of the gain, as a fraction of it, for the noise of the measurement alone.
    """

    gain: float
    error: float


def fit(
    means: Float[np.ndarray, " points"],
    variances: Float[np.ndarray, " points"],
    dark_variance: float,
    degrees: Float[np.ndarray, " points"],
    fitted: Bool[np.ndarray, " points"],
) -> Line:
    """Fits the line through darkness to the variances that light adds, each weighted by its own error.

    Args:
        means: the mean light at each exposure.
        variances: the temporal variance that the light adds.
        dark_variance: the temporal variance in the dark.
        degrees: the degrees of freedom from which each variance was measured.
        fitted: the exposures to fit.

    Returns:
        The line. Its gain is infinite or negative if light adds no noise.
    """
    errors = (variances + dark_variance) * np.sqrt(2 / degrees)
    weights = fitted / np.maximum(errors, np.finfo(np.float32).tiny) ** 2
    curvature = float((weights * means**2).sum())
    slope = float((weights * means * variances).sum()) / curvature
    return Line(1 / slope, 1 / (math.sqrt(curvature) * abs(slope))) if slope else Line(math.inf, math.inf)


def linear(means: Float[np.ndarray, " points"], span: float) -> Bool[np.ndarray, " points"]:
    """Chooses the exposures for the line: those below 70 % of the range from black to white or, without any, all."""
    below = means < _LINEAR * span
    return below if below.any() else np.ones_like(below)


def read_noise(variance: float, gain: float, step: float) -> tuple[float, bool]:
    """Computes the noise of the read-out from the temporal variance in the dark.

    Args:
        variance: the temporal variance in the dark.
        gain: electrons per unit.
        step: the distance of two digital numbers, whose rounding adds a variance of step ** 2 / 12.

    Returns:
        The standard deviation in electrons, and whether it is only an upper bound because rounding dominates: a
        variance below 0.24 steps squared counts as 0.24.
    """
    is_bound = variance < 0.24 * step**2
    variance = max(variance, 0.24 * step**2) - step**2 / 12
    return gain * float(np.sqrt(variance)), is_bound
